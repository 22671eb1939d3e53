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
from serving.retrieval.sources.base import Bools, CandidateSource, FitContext, Floats, RequestBatch, Scores

NEIGHBOURS = 200
"""Items kept per item."""

logging.getLogger("bm25s").setLevel(logging.WARNING)


class ItemGraphSource(CandidateSource):
    """Base of item-to-item sources: a sparse matrix `[N, N]` from history item to candidate."""

    def __init__(self, graph: sparse.csr_matrix) -> None:
        self.graph = graph.astype(np.float32, copy=False)

    def open(self, batch: RequestBatch) -> Scores:
        return SparseScores(self.scores(batch))

    def scores(self, batch: RequestBatch) -> sparse.csr_matrix:
        """Return the scores `[R, N]` of what the histories lead to."""
        return batch.weights @ self.graph

    def extended(self, items: pl.DataFrame, vectors: Floats, changed: Ints) -> Self:
        return type(self)(grown(self.graph, items.height))

    def save(self, folder: Path) -> None:
        sparse.save_npz(folder / f"{self.name}.npz", self.graph, compressed=False)

    @classmethod
    def load(cls, folder: Path, vectors: Floats) -> Self:
        return cls(sparse.csr_matrix(sparse.load_npz(folder / f"{cls.name}.npz")))


def grown(graph: sparse.csr_matrix, count: int) -> sparse.csr_matrix:
    """Return `graph` with empty rows and columns up to `[count, count]`; the entries are shared."""
    indptr = np.pad(graph.indptr, (0, count - graph.shape[0]), mode="edge")
    return sparse.csr_matrix((graph.data, graph.indices, indptr), shape=(count, count))


@dataclass(frozen=True)
class SparseScores(Scores):
    """Scores `[R, N]` of which most are 0."""

    scores: sparse.csr_matrix

    def top(self, k: int, allowed: Bools | None = None) -> Ints:
        best = np.full((self.scores.shape[0], k), -1, np.int64)
        for row in range(len(best)):
            span = slice(self.scores.indptr[row], self.scores.indptr[row + 1])
            items, scores = self.scores.indices[span], self.scores.data[span]
            if allowed is not None:
                items, scores = items[allowed[items]], scores[allowed[items]]
            if 0 < 4 * k < len(items):  # most of them need no place in the order
                least = np.partition(scores, len(scores) - k)[len(scores) - k]
                items, scores = items[scores >= least], scores[scores >= least]
            order = np.lexsort((items, -scores))[:k]
            best[row, : len(order)] = items[order]
        return best

    def of(self, candidates: Ints) -> Floats:
        every = np.zeros(self.scores.shape[1], np.float32)  # [N], of one request after another
        found = np.zeros(candidates.shape, np.float32)
        for row, wanted in enumerate(candidates):
            span = slice(self.scores.indptr[row], self.scores.indptr[row + 1])
            items = self.scores.indices[span]
            every[items] = self.scores.data[span]
            found[row] = every[wanted]
            every[items] = 0
        return np.where(candidates >= 0, found, 0)


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
    """Items whose title, brand, category and tags share words with a history item's, or with a sentence (BM25)."""

    name = "lexical"

    def __init__(self, graph: sparse.csr_matrix, words: bm25s.BM25, added: sparse.csr_matrix | None = None) -> None:
        """`words` finds fitted items; `added` `[N, N]` are the ways from and to items that came later."""
        super().__init__(graph)
        self.words, self.added = words, added

    @classmethod
    def fit(cls, context: FitContext) -> Self:
        return cls.of_items(context.items)

    @classmethod
    def of_items(cls, items: pl.DataFrame) -> Self:
        """Link every item to those that its title, brand, category and tags find."""
        described = pl.concat_str(WORDS, pl.col("description").str.slice(0, 500), separator=" ", ignore_nulls=True)
        corpus = bm25s.tokenize(items.select(described).to_series().to_list(), **TOKENS)
        words = bm25s.BM25()
        words.index(corpus, show_progress=False)
        found = found_by(words, words_of(items), NEIGHBOURS + 1).tocoo()
        other = found.row != found.col
        ways = (found.row[other], found.col[other])
        return cls(sparse.csr_matrix((found.data[other], ways), shape=found.shape), words)

    def scores(self, batch: RequestBatch) -> sparse.csr_matrix:
        scores = batch.weights @ self.graph
        if batch.sentences.words.nnz:
            scores = scores + batch.sentences.words
        return scores if self.added is None else scores + batch.weights @ self.added

    def extended(self, items: pl.DataFrame, vectors: Floats, changed: Ints) -> Self:
        old, count = self.graph.shape[0], items.height
        new = changed[changed >= old]
        found = sparse.coo_matrix(found_by(self.words, words_of(items[new]), NEIGHBOURS))
        ways = (np.append(new[found.row], found.col), np.append(found.col, new[found.row]))
        added = sparse.csr_matrix((np.tile(found.data, 2), ways), shape=(count, count))
        if self.added is not None:
            added = added + grown(self.added, count)
        return type(self)(grown(self.graph, count), self.words, added)

    def sentences(self, texts: list[str]) -> sparse.csr_matrix:
        """Return how well each item matches the words of `texts`, `[R, N]`."""
        found = found_by(self.words, texts, NEIGHBOURS)
        found.resize(len(texts), self.graph.shape[0])
        return found

    def save(self, folder: Path) -> None:
        super().save(folder)
        self.words.save(folder / "words", show_progress=False)

    @classmethod
    def load(cls, folder: Path, vectors: Floats) -> Self:
        graph = sparse.csr_matrix(sparse.load_npz(folder / "lexical.npz"))
        return cls(graph, bm25s.BM25.load(folder / "words", show_progress=False, verbosity=0))


WORDS = pl.concat_str("title", "brand", "category", pl.col("tags").list.join(" "), separator=" ", ignore_nulls=True)
TOKENS = {"stopwords": "en", "show_progress": False}


def words_of(items: pl.DataFrame) -> list[str]:
    """Return what stands in an item's title, brand, category and tags."""
    return items.select(WORDS).to_series().to_list()


def found_by(words: bm25s.BM25, texts: list[str], k: int) -> sparse.csr_matrix:
    """Return the scores `[T, N]` of the k items that each of `texts` finds, 1 for the best."""
    count = int(words.scores["num_docs"])
    k = min(k, count)
    queries = bm25s.tokenize(texts, return_ids=False, **TOKENS) if texts else []
    if not queries:
        return sparse.csr_matrix((0, count), dtype=np.float32)
    found, scores = words.retrieve(queries, k=k, show_progress=False)
    rows, columns, data = np.repeat(np.arange(len(texts)), k), np.asarray(found).ravel(), np.asarray(scores).ravel()
    best = np.maximum(np.asarray(scores)[:, :1].repeat(k, 1).ravel(), 1e-6)
    kept = data > 0
    return sparse.csr_matrix(((data / best)[kept], (rows[kept], columns[kept])), shape=(len(texts), count))


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


def keep_strongest(graph: sparse.spmatrix, count: int = NEIGHBOURS) -> sparse.csr_matrix:
    """Return `graph` with the `count` largest entries of each row."""
    graph = sparse.csr_matrix(graph)
    keep = np.ones(graph.nnz, bool)
    for row in np.flatnonzero(np.diff(graph.indptr) > count):
        span = np.arange(graph.indptr[row], graph.indptr[row + 1])
        keep[span[np.argsort(-graph.data[span], kind="stable")[count:]]] = False
    rows = np.repeat(np.arange(graph.shape[0]), np.diff(graph.indptr))
    return sparse.csr_matrix((graph.data[keep], (rows[keep], graph.indices[keep])), shape=graph.shape)
