"""Candidate sources: who proposes items for a request, each with a score that is kept as a feature.

In: a `RequestBatch`. Out: per source the best `[R, k]` items and the scores of any candidates.
A new source is one subclass of `CandidateSource` in `SOURCES` and one quota in the configuration.

Shapes: R requests, C candidates, N catalogue, D width.
"""

import logging
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import bm25s
import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import sparse

from features.histories import EventLog, Histories, Ints
from recsys.events import DAY_US
from serving.index import VectorIndex

Floats = NDArray[np.float32]

HISTORY_DECAY = 0.7
"""Weight of a history event against the one after it, in item-to-item sources."""

logging.getLogger("bm25s").setLevel(logging.WARNING)

NEIGHBOURS = 200
"""Items kept per item in item-to-item sources."""


@dataclass(frozen=True)
class RequestBatch:
    """R requests and the user vectors that the interest model gives them."""

    histories: Histories
    users: Floats
    """`[R, 2, D]`, one per head; zero for an empty history."""


@dataclass(frozen=True)
class FitContext:
    """What a source may learn from: the catalogue, and events that precede every request."""

    items: pl.DataFrame
    log: EventLog
    vectors: Floats
    """`[N, D]` unit item vectors of the interest model."""
    weights: Floats
    """Event weight by type code."""
    has_clock: bool


class Scores(ABC):
    """A source's view of one batch."""

    @abstractmethod
    def top(self, k: int) -> Ints:
        """Return the best items `[R, k]`, -1 where there are fewer."""

    @abstractmethod
    def of(self, candidates: Ints) -> Floats:
        """Return the scores `[R, C]` of `candidates` `[R, C]`; 0 where unknown or padded."""


class CandidateSource(ABC):
    """Base of every source. Fitted once, saved in the bundle, opened for each batch."""

    name: ClassVar[str]

    @classmethod
    @abstractmethod
    def fit(cls, context: FitContext) -> Self:
        """Learn from the catalogue and its events."""

    @abstractmethod
    def open(self, batch: RequestBatch) -> Scores:
        """Prepare the scores of one batch of requests."""

    @abstractmethod
    def extended(self, items: pl.DataFrame, vectors: Floats) -> Self:
        """Return the source for a catalogue with further items at its end; `vectors` `[N, D]`."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the source into `folder`."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""


class InterestSource(CandidateSource):
    """Nearest items to the mean of the user's two vectors; the score is the click head's interest."""

    name = "interest"

    def __init__(self, index: VectorIndex) -> None:
        self.index, self.vectors = index, index.vectors()

    @classmethod
    def fit(cls, context: FitContext) -> Self:
        return cls(VectorIndex.build(context.vectors))

    def open(self, batch: RequestBatch) -> Scores:
        return VectorScores(self.index, self.vectors, batch.users)

    def extended(self, items: pl.DataFrame, vectors: Floats) -> Self:
        return type(self)(VectorIndex.build(vectors))

    def save(self, folder: Path) -> None:
        self.index.save(folder / "index.faiss")

    @classmethod
    def load(cls, folder: Path) -> Self:
        return cls(VectorIndex.load(folder / "index.faiss"))


@dataclass(frozen=True)
class VectorScores(Scores):
    """Inner products of user and item vectors."""

    index: VectorIndex
    vectors: Floats
    users: Floats

    def top(self, k: int) -> Ints:
        found = self.index.search(self.users.mean(1), k)
        return np.where(np.any(self.users, axis=(1, 2))[:, None], found, -1)

    def of(self, candidates: Ints) -> Floats:
        return head_scores(self.users[:, 0], self.vectors, candidates)


def head_scores(users: Floats, vectors: Floats, candidates: Ints) -> Floats:
    """Return the inner products `[R, C]` of `users` `[R, D]` with their candidates; 0 where padded."""
    scores = np.einsum("rd,rcd->rc", users, vectors[candidates], optimize=True)
    return np.where(candidates >= 0, scores, 0).astype(np.float32)


class ItemGraphSource(CandidateSource):
    """Base of item-to-item sources: a sparse matrix `[N, N]` from history item to candidate."""

    def __init__(self, graph: sparse.csr_matrix) -> None:
        self.graph = graph

    def open(self, batch: RequestBatch) -> Scores:
        past = batch.histories.items
        back = np.arange(past.shape[1])[::-1]
        rows, columns = np.nonzero(past >= 0)
        weights = HISTORY_DECAY ** back[columns]
        shape = (len(past), self.graph.shape[0])
        history = sparse.csr_matrix((weights, (rows, past[rows, columns])), shape=shape)
        scores = sparse.csr_matrix(history @ self.graph, dtype=np.float32)
        scores.sort_indices()
        return SparseScores(scores)

    def extended(self, items: pl.DataFrame, vectors: Floats) -> Self:
        graph = self.graph.copy()
        graph.resize(items.height, items.height)
        return type(self)(graph)

    def save(self, folder: Path) -> None:
        sparse.save_npz(folder / f"{self.name}.npz", self.graph)

    @classmethod
    def load(cls, folder: Path) -> Self:
        return cls(sparse.csr_matrix(sparse.load_npz(folder / f"{cls.name}.npz")))


@dataclass(frozen=True)
class SparseScores(Scores):
    """Scores `[R, N]` of which most are 0; column indices sorted."""

    scores: sparse.csr_matrix

    def top(self, k: int) -> Ints:
        best = np.full((self.scores.shape[0], k), -1, np.int64)
        for row in range(len(best)):
            span = slice(self.scores.indptr[row], self.scores.indptr[row + 1])
            order = np.argsort(-self.scores.data[span], kind="stable")[:k]
            best[row, : len(order)] = self.scores.indices[span][order]
        return best

    def of(self, candidates: Ints) -> Floats:
        count = self.scores.shape[1]
        owners = np.repeat(np.arange(self.scores.shape[0]), np.diff(self.scores.indptr))
        keys = np.append(owners * count + self.scores.indices, -1 + count * self.scores.shape[0] + count)
        wanted = np.arange(len(candidates))[:, None] * count + candidates
        places = np.searchsorted(keys, wanted)
        found = (keys[places] == wanted) & (candidates >= 0)
        data = np.append(self.scores.data, np.float32(0))
        return np.where(found, data[places], 0).astype(np.float32)


class CovisitationSource(ItemGraphSource):
    """Where users went within the next few events after an item.

    A pair counts by the weight of the later event, halved for each further event in between and,
    where there is a clock, for each `half_life_days` of age; the way back counts half. Rows are
    divided by their item's total plus one, so that one coincidence is no certainty.
    """

    name = "covisitation"
    reach = 4
    backward = 0.5
    half_life_days = 60.0

    @classmethod
    def fit(cls, context: FitContext) -> Self:
        log, count = context.log, context.items.height
        users, pairs = log.user_rows, []
        newest = log.times.max(initial=0)
        for distance in range(1, cls.reach + 1):
            first = np.flatnonzero(users[:-distance] == users[distance:]) if len(users) > distance else np.empty(0, int)
            later = first + distance
            weight = context.weights[log.types[later]] * 0.5 ** (distance - 1)
            if context.has_clock:
                weight = weight * 0.5 ** ((newest - log.times[later]) / DAY_US / cls.half_life_days)
            here, there = log.items[first], log.items[later]
            pairs += [(here, there, weight), (there, here, weight * cls.backward)]
        rows, columns, data = (np.concatenate(part) for part in zip(*pairs, strict=True))
        other = rows != columns
        graph = sparse.csr_matrix((data[other], (rows[other], columns[other])), shape=(count, count))
        total = np.asarray(graph.sum(1)).ravel() + context.weights.max(initial=1.0)
        return cls(keep_strongest(sparse.diags(1 / total) @ graph))


class LexicalSource(ItemGraphSource):
    """Items whose title, brand, category and tags share words with a history item's (BM25)."""

    name = "lexical"

    @classmethod
    def fit(cls, context: FitContext) -> Self:
        return cls.of_texts(context.items)

    def extended(self, items: pl.DataFrame, vectors: Floats) -> Self:
        return self.of_texts(items)

    @classmethod
    def of_texts(cls, items: pl.DataFrame) -> Self:
        """Link every item to those that its title, brand, category and tags find."""
        count = items.height
        words = pl.concat_str(
            "title", "brand", "category", pl.col("tags").list.join(" "), separator=" ", ignore_nulls=True
        )
        query = items.select(words).to_series()
        described = pl.concat_str(words, pl.col("description").str.slice(0, 500), separator=" ", ignore_nulls=True)
        corpus = bm25s.tokenize(items.select(described).to_series().to_list(), stopwords="en", show_progress=False)
        model = bm25s.BM25()
        model.index(corpus, show_progress=False)
        queries = bm25s.tokenize(query.to_list(), stopwords="en", return_ids=False, show_progress=False)
        k = min(NEIGHBOURS + 1, count)
        found, scores = model.retrieve(queries, k=k, show_progress=False)
        rows = np.repeat(np.arange(count), k)
        columns, data = np.asarray(found, np.int64).ravel(), np.asarray(scores, np.float32).ravel()
        own = np.maximum(np.asarray(scores)[:, :1].repeat(k, 1).ravel(), 1e-6)
        other = (rows != columns) & (data > 0)
        return cls(sparse.csr_matrix(((data / own)[other], (rows[other], columns[other])), shape=(count, count)))


class PopularSource(CandidateSource):
    """Items with the most weighted events; where there is a clock, the latest count most."""

    name = "popular"
    half_life_days = 14.0

    def __init__(self, scores: Floats) -> None:
        self.scores = scores
        self.order = np.argsort(-scores, kind="stable")

    @classmethod
    def fit(cls, context: FitContext) -> Self:
        log = context.log
        weight = context.weights[log.types].astype(np.float64)
        if context.has_clock and len(log):
            weight = weight * 0.5 ** ((log.times.max() - log.times) / DAY_US / cls.half_life_days)
        scores = np.bincount(log.items, weight, minlength=context.items.height)
        return cls(np.log1p(scores).astype(np.float32))

    def open(self, batch: RequestBatch) -> Scores:
        return FixedScores(self.scores, self.order, len(batch.users))

    def extended(self, items: pl.DataFrame, vectors: Floats) -> Self:
        return type(self)(np.pad(self.scores, (0, items.height - len(self.scores))))

    def save(self, folder: Path) -> None:
        np.savez(folder / "popular.npz", allow_pickle=False, scores=self.scores)

    @classmethod
    def load(cls, folder: Path) -> Self:
        with np.load(folder / "popular.npz", allow_pickle=False) as arrays:
            return cls(arrays["scores"])


@dataclass(frozen=True)
class FixedScores(Scores):
    """The same score `[N]` of an item for every request."""

    scores: Floats
    order: Ints
    requests: int

    def top(self, k: int) -> Ints:
        best = np.full(k, -1, np.int64)
        best[: len(self.order[:k])] = self.order[:k]
        return np.broadcast_to(best, (self.requests, k))

    def of(self, candidates: Ints) -> Floats:
        return np.where(candidates >= 0, self.scores[candidates], 0).astype(np.float32)


SOURCES: dict[str, type[CandidateSource]] = {
    source.name: source for source in (InterestSource, CovisitationSource, LexicalSource, PopularSource)
}


def keep_strongest(graph: sparse.spmatrix, count: int = NEIGHBOURS) -> sparse.csr_matrix:
    """Return `graph` with the `count` largest entries of each row."""
    graph = sparse.csr_matrix(graph)
    keep = np.ones(graph.nnz, bool)
    for row in np.flatnonzero(np.diff(graph.indptr) > count):
        span = np.arange(graph.indptr[row], graph.indptr[row + 1])
        keep[span[np.argsort(-graph.data[span], kind="stable")[count:]]] = False
    rows = np.repeat(np.arange(graph.shape[0]), np.diff(graph.indptr))
    return sparse.csr_matrix((graph.data[keep], (rows[keep], graph.indices[keep])), shape=graph.shape)
