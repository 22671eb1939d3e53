"""Item-to-item sources: a sparse graph from what a user did to what might come next.

Shapes: R requests, C candidates, N catalogue.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import bm25s
import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import sparse

from features.histories import Ints
from recsys.events import DAY_US
from serving.sources.base import Bools, CandidateSource, FitContext, Floats, RequestBatch, Scores

HISTORY_DECAY = 0.7
"""Weight of a history event against the one after it."""

NEIGHBOURS = 200
"""Items kept per item."""

logging.getLogger("bm25s").setLevel(logging.WARNING)


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

    def extended(self, items: pl.DataFrame, vectors: Floats, available: Bools) -> Self:
        graph = self.graph.copy()
        graph.resize(items.height, items.height)
        return type(self)(leading_to(graph, available))

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
    """Where users went within the next few events after an item, the item itself among them.

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
        graph = sparse.csr_matrix((data, (rows, columns)), shape=(count, count))
        total = np.asarray(graph.sum(1)).ravel() + context.weights.max(initial=1.0)
        return cls(keep_strongest(sparse.diags(1 / total) @ graph))


class LexicalSource(ItemGraphSource):
    """Items whose title, brand, category and tags share words with a history item's (BM25)."""

    name = "lexical"

    @classmethod
    def fit(cls, context: FitContext) -> Self:
        return cls.of_texts(context.items)

    def extended(self, items: pl.DataFrame, vectors: Floats, available: Bools) -> Self:
        return type(self)(leading_to(self.of_texts(items).graph, available))

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


class RelatedSource(ItemGraphSource):
    """The popular items of the brand and of the category of a history item.

    An item's weight is its share of the events of its brand, plus its share of its category.
    """

    name = "related"
    most_items = 50

    @classmethod
    def fit(cls, context: FitContext) -> Self:
        count = context.items.height
        events = 1.0 + np.bincount(context.log.items, context.weights[context.log.types], minlength=count)
        graph = sparse.csr_matrix((count, count), dtype=np.float32)
        for column in ("brand", "category"):
            graph = graph + _leaders(context.items[column], events, cls.most_items)
        return cls(keep_strongest(graph))


def _leaders(groups: pl.Series, events: NDArray[np.floating], most: int) -> sparse.csr_matrix:
    """Return `[N, N]`: from each item to the `most` items with most `events` `[N]` of its group."""
    frame = pl.DataFrame({"item": np.arange(len(groups)), "group": groups, "events": events})
    frame = frame.filter(pl.col("group").fill_null("") != "")
    share = frame.with_columns(share=pl.col("events") / pl.col("events").sum().over("group"))
    leaders = share.sort("events", descending=True, maintain_order=True).group_by("group").head(most)
    pairs = frame.select("item", "group").join(leaders.select("group", "share", leader="item"), on="group")
    pairs = pairs.filter(pl.col("item") != pl.col("leader"))
    shape = (len(groups), len(groups))
    return sparse.csr_matrix((pairs["share"].to_numpy(), (pairs["item"].to_numpy(), pairs["leader"].to_numpy())), shape)


def leading_to(graph: sparse.csr_matrix, available: Bools) -> sparse.csr_matrix:
    """Return `graph` `[N, N]` without the ways to items outside `available` `[N]`."""
    kept = sparse.csr_matrix(graph @ sparse.diags(available.astype(graph.dtype)))
    kept.eliminate_zeros()
    return kept


def keep_strongest(graph: sparse.spmatrix, count: int = NEIGHBOURS) -> sparse.csr_matrix:
    """Return `graph` with the `count` largest entries of each row."""
    graph = sparse.csr_matrix(graph)
    keep = np.ones(graph.nnz, bool)
    for row in np.flatnonzero(np.diff(graph.indptr) > count):
        span = np.arange(graph.indptr[row], graph.indptr[row + 1])
        keep[span[np.argsort(-graph.data[span], kind="stable")[count:]]] = False
    rows = np.repeat(np.arange(graph.shape[0]), np.diff(graph.indptr))
    return sparse.csr_matrix((graph.data[keep], (rows[keep], graph.indices[keep])), shape=graph.shape)
