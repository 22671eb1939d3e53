"""Item-to-item sources: a sparse graph from what a user did to what might come next.

Shapes: R requests, C candidates, N catalogue.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Self

import bm25s
import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from scipy import sparse

from features.facts import ItemFacts
from features.recent import REACH, RecentEvents
from recsys.arrays import Bools, Floats, Ints, grow, spans
from recsys.events import DAY_US
from serving.retrieval.sources.base import Candidates, CandidateSource, Catalogue, FitContext, RequestBatch, Scores
from serving.retrieval.sources.words import links_between, matching_items, word_index, words_of

NEIGHBOURS = 200
"""Items kept per item."""
TOTALS = "covisitation_totals.npy"
MOST_PAIRS = 24_000_000
"""Pairs of events that are summed up at a time, some 32 bytes each; a longer log is gone through several times."""
CHUNK = 2_000_000
"""Events whose pairs are made at a time."""


class ItemGraphSource(CandidateSource):
    """Base of item-to-item sources: a sparse matrix `[N, N]` from history item to candidate."""

    def __init__(self, graph: sparse.csr_matrix) -> None:
        self.graph = graph.astype(np.float32, copy=False)

    def open(self, batch: RequestBatch) -> Scores:
        return GraphScores(self, batch)

    def scores(self, batch: RequestBatch) -> sparse.csr_matrix:
        """Return the scores `[R, N]` of what follows from the histories."""
        return batch.weights @ self.graph

    def scores_of(self, batch: RequestBatch, row: int) -> Floats:
        """Return one row `[N]` of `scores` with its zeros, which is quicker to make and equal bit for bit."""
        return along(self.graph, *batch.weighted(row))

    def extended(self, catalogue: Catalogue, changed: Ints) -> Self:
        return type(self)(grown(self.graph, catalogue.items.height))

    def save(self, folder: Path) -> None:
        parts = {"data": self.graph.data, "indices": self.graph.indices, "indptr": self.graph.indptr}
        tensors = {name: torch.from_numpy(part) for name, part in parts.items()}
        save_file(tensors, folder / f"{self.name}.safetensors")

    @classmethod
    def load(cls, folder: Path, catalogue: Catalogue) -> Self:
        return cls(mapped_graph(folder, cls.name))


def mapped_graph(folder: Path, name: str) -> sparse.csr_matrix:
    """Return the graph `[N, N]` of a source, mapped from its file, so that processes share its memory."""
    path = folder / f"{name}.safetensors"
    if not path.exists():  # as in bundles of releases before 2026-11-29
        return sparse.csr_matrix(sparse.load_npz(folder / f"{name}.npz"))
    parts = {part: values.numpy() for part, values in load_file(path).items()}
    count = len(parts["indptr"]) - 1
    return sparse.csr_matrix((parts["data"], parts["indices"], parts["indptr"]), shape=(count, count))


def grown(graph: sparse.csr_matrix, count: int) -> sparse.csr_matrix:
    """Return `graph` with empty rows and columns up to `[count, count]`; the entries are shared."""
    indptr = np.pad(graph.indptr, (0, count - graph.shape[0]), mode="edge")
    return sparse.csr_matrix((graph.data, graph.indices, indptr), shape=(count, count))


def along(graph: sparse.csr_matrix, items: Ints, weights: Floats) -> Floats:
    """Return what the `graph` `[N, N]` leads to from `items` with `weights`, `[N]`."""
    starts = graph.indptr[items]
    counts = graph.indptr[items + 1] - starts
    links = spans(starts, counts)
    scores = np.zeros(graph.shape[1], np.float32)
    np.add.at(scores, graph.indices[links], np.repeat(weights, counts) * graph.data[links])
    return scores


@dataclass(frozen=True)
class GraphScores(Scores):
    """Scores of which most are 0; those of all items are computed only if the best ones are asked for."""

    source: ItemGraphSource
    batch: RequestBatch

    @cached_property
    def scores(self) -> sparse.csr_matrix:
        """`[R, N]`"""
        return self.source.scores(self.batch)

    def top(self, k: int, allowed: Bools | None = None) -> Ints:
        best = np.full((self.scores.shape[0], k), -1, np.int64)
        for row in range(len(best)):
            span = slice(self.scores.indptr[row], self.scores.indptr[row + 1])
            items, scores = self.scores.indices[span], self.scores.data[span]
            if allowed is not None:
                items, scores = items[allowed[items]], scores[allowed[items]]
            if 0 < 4 * k < len(items):  # most of them need not be sorted
                least = np.partition(scores, len(scores) - k)[len(scores) - k]
                items, scores = items[scores >= least], scores[scores >= least]
            order = np.lexsort((items, -scores))[:k]
            best[row, : len(order)] = items[order]
        return best

    def of(self, candidates: Candidates) -> Floats:
        rows = self._made() if "scores" in vars(self) else self._followed()
        scores = np.zeros(candidates.items.shape, np.float32)
        for row, (dense, items) in enumerate(zip(rows, candidates.items, strict=True)):
            scores[row] = dense[items]
        return np.where(candidates.present, scores, 0)

    def _made(self) -> Iterator[Floats]:
        """Yield the scores `[N]` of each request, each in the array of the one before."""
        dense = np.zeros(self.scores.shape[1], np.float32)
        for row in range(self.scores.shape[0]):
            span = slice(self.scores.indptr[row], self.scores.indptr[row + 1])
            dense[self.scores.indices[span]] = self.scores.data[span]
            yield dense
            dense[self.scores.indices[span]] = 0

    def _followed(self) -> Iterator[Floats]:
        """Yield the same without computing `scores`, which takes longer."""
        return (self.source.scores_of(self.batch, row) for row in range(len(self.batch.users)))


@dataclass(frozen=True)
class RecentVisits:
    """The visits since the fit, and what they leave of the fitted ones."""

    graph: sparse.csr_matrix
    """`[N, N]`"""
    scale: Floats
    """`[N]` what a row of the fitted graph is worth now."""

    def grown(self, count: int) -> "RecentVisits":
        """Return the same visits in a catalogue of `count` items."""
        return RecentVisits(grown(self.graph, count), grow(self.scale, count, fill=1))


class ItemPairs:
    """Weighted pairs of items, to be summed up in a matrix."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape = shape
        self.parts: list[tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64]]] = []

    def add(self, rows: NDArray[np.int32], columns: NDArray[np.int32], weights: NDArray[np.float64]) -> None:
        """Take in pairs."""
        self.parts.append((rows, columns, weights))

    def summed(self) -> sparse.csr_matrix:
        """Return the sums of the weights, and forget the pairs."""
        rows, columns, data = (np.concatenate(part) for part in zip(*self.parts, strict=True))
        self.parts.clear()
        return sparse.csr_matrix((data, (rows, columns)), shape=self.shape)


def blocks_of(sizes: Ints, most: int) -> list[tuple[int, int]]:
    """Return the ranges of rows that have at most `most` together by their `sizes`; a row with more is one alone."""
    ends, starts = np.cumsum(sizes), [0]
    while starts[-1] < len(sizes):
        before = ends[starts[-1] - 1] if starts[-1] else 0
        starts.append(max(starts[-1] + 1, int(np.searchsorted(ends, before + most, side="right"))))
    return list(pairwise(starts)) or [(0, 0)]


class CovisitationSource(ItemGraphSource):
    """Where users went within the next few events after an item, the item itself among them.

    A pair counts by the weight of the later event, halved for each further event in between and,
    where there is a clock, for each `half_life_days` of age; the way back counts half. Rows are
    divided by their item's total plus one, so that one coincidence is no certainty.
    """

    name = "covisitation"
    backward = 0.5
    half_life_days = 60.0

    def __init__(
        self, graph: sparse.csr_matrix, total: NDArray[np.float64] | None = None, recent: RecentVisits | None = None
    ) -> None:
        """`total` `[N]` is what the rows of `graph` were divided by; None in bundles of releases before 2026-11-29."""
        super().__init__(graph)
        self.total, self.recent = total, recent

    @classmethod
    def fit(cls, context: FitContext) -> Self:
        """Count the visits of some items after the other, since all pairs of a long log together take much memory."""
        log, count, least = context.log, context.items.height, float(context.weights.max(initial=1.0))
        newest = log.times.max(initial=0)

        def weight(span: slice) -> NDArray[np.float64]:
            own = context.weights[log.types[span]].astype(np.float64)
            return own * 0.5 ** ((newest - log.times[span]) / DAY_US / cls.half_life_days) if context.has_clock else own

        graphs, totals = [], []
        for first, stop in blocks_of(2 * REACH * np.bincount(log.items, minlength=count), MOST_PAIRS):
            pairs = ItemPairs((stop - first, count))
            for users in blocks_of(np.diff(log.offsets), CHUNK):
                span = slice(log.offsets[users[0]], log.offsets[users[1]])
                owners = np.repeat(np.arange(*users), np.diff(log.offsets[users[0] : users[1] + 1]))
                for here, there, weights in cls._pairs(owners, log.items[span], weight(span)):
                    own = (here >= first) & (here < stop) & (weights > 0)
                    pairs.add(here[own] - first, there[own], weights[own])
            graph = pairs.summed()
            total = row_sums(graph) + least
            graphs.append(keep_strongest(sparse.diags(1 / total) @ graph).astype(np.float32))
            totals.append(total)
        return cls(sparse.vstack(graphs, format="csr") if len(graphs) > 1 else graphs[0], np.concatenate(totals))

    @classmethod
    def _pairs(
        cls, users: Ints, items: NDArray[np.int32], weight: NDArray[np.float64]
    ) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64]]]:
        """Yield the pairs of events `[E]` by user and time: from which item to which, at the `weight` `[E]` of the later event."""
        for distance in range(1, REACH + 1):
            first = np.flatnonzero(users[:-distance] == users[distance:]) if len(users) > distance else np.empty(0, int)
            later = first + distance
            here, there, weights = items[first], items[later], weight[later] * 0.5 ** (distance - 1)
            yield here, there, weights
            yield there, here, weights * cls.backward

    @classmethod
    def _visits(
        cls, users: Ints, items: NDArray[np.int32], weight: NDArray[np.float64], count: int
    ) -> sparse.csr_matrix:
        """Return the visits `[N, N]` of events `[E]` by user and time, each pair at the `weight` `[E]` of its later event."""
        pairs = ItemPairs((count, count))
        for here, there, weights in cls._pairs(users, items, weight):
            kept = weights > 0
            pairs.add(here[kept], there[kept], weights[kept])
        return pairs.summed()

    def with_recent(self, recent: RecentEvents, facts: ItemFacts, weights: Floats) -> Self:
        if self.total is None:
            return self
        days = (recent.newest - recent.times) / DAY_US
        weight = np.where(recent.new, weights[recent.types] * 0.5 ** (days / self.half_life_days), 0)
        visits = self._visits(recent.users, recent.items, weight, len(self.total))
        faded = 0.5 ** ((recent.newest - recent.since) / DAY_US / self.half_life_days)
        least = weights.max(initial=1.0)
        total = faded * (self.total - least) + row_sums(visits) + least
        graph = keep_strongest(sparse.diags(1 / total) @ visits).astype(np.float32)
        scale = (faded * self.total / total).astype(np.float32)
        return type(self)(self.graph, self.total, RecentVisits(graph, scale))

    def scores(self, batch: RequestBatch) -> sparse.csr_matrix:
        weights = batch.weights
        if self.recent is None:
            return weights @ self.graph
        worth = weights.data * self.recent.scale[weights.indices]
        faded = sparse.csr_matrix((worth, weights.indices, weights.indptr), shape=weights.shape)
        return faded @ self.graph + weights @ self.recent.graph

    def companions(self, item: int) -> sparse.csr_matrix:
        """Return the scores `[1, N]` of where users go from `item`."""
        row = self.graph[item]
        return row if self.recent is None else row * self.recent.scale[item] + self.recent.graph[item]

    def scores_of(self, batch: RequestBatch, row: int) -> Floats:
        if self.recent is None:
            return super().scores_of(batch, row)
        items, weights = batch.weighted(row)
        faded = along(self.graph, items, weights * self.recent.scale[items])
        return faded + along(self.recent.graph, items, weights)

    def extended(self, catalogue: Catalogue, changed: Ints) -> Self:
        count = catalogue.items.height
        if self.total is None:
            return type(self)(grown(self.graph, count))
        total = grow(self.total, count, fill=self.total.min(initial=1.0))
        return type(self)(grown(self.graph, count), total, self.recent.grown(count) if self.recent else None)

    def save(self, folder: Path) -> None:
        super().save(folder)
        if self.total is not None:
            np.save(folder / TOTALS, self.total, allow_pickle=False)

    @classmethod
    def load(cls, folder: Path, catalogue: Catalogue) -> Self:
        total = np.load(folder / TOTALS) if (folder / TOTALS).exists() else None
        return cls(mapped_graph(folder, cls.name), total)


class LexicalSource(ItemGraphSource):
    """Items whose title, brand, category and tags share words with a history item's, or with a sentence (BM25)."""

    name = "lexical"

    def __init__(self, graph: sparse.csr_matrix, words: bm25s.BM25, added: sparse.csr_matrix | None = None) -> None:
        """`words` indexes the fitted items; `added` `[N, N]` links them with items that came later."""
        super().__init__(graph)
        self.words, self.added = words, added

    @classmethod
    def fit(cls, context: FitContext) -> Self:
        return cls.of_items(context.items)

    @classmethod
    def of_items(cls, items: pl.DataFrame) -> Self:
        """Link every item to those that its title, brand, category and tags find."""
        words = word_index(items)
        return cls(links_between(words, words_of(items), NEIGHBOURS), words)

    def scores(self, batch: RequestBatch) -> sparse.csr_matrix:
        scores = batch.weights @ self.graph
        if self.name in batch.sentences.matches:
            scores = scores + batch.sentences.matches[self.name]
        return scores if self.added is None else scores + batch.weights @ self.added

    def scores_of(self, batch: RequestBatch, row: int) -> Floats:
        scores = super().scores_of(batch, row)
        if self.name in batch.sentences.matches:
            scores += batch.sentences.matches[self.name][row].toarray()[0]
        return scores if self.added is None else scores + along(self.added, *batch.weighted(row))

    def extended(self, catalogue: Catalogue, changed: Ints) -> Self:
        old, count = self.graph.shape[0], catalogue.items.height
        new = changed[changed >= old]
        matches = sparse.coo_matrix(matching_items(self.words, words_of(catalogue.items[new]), NEIGHBOURS))
        links = (np.append(new[matches.row], matches.col), np.append(matches.col, new[matches.row]))
        added = sparse.csr_matrix((np.tile(matches.data, 2), links), shape=(count, count))
        if self.added is not None:
            added = added + grown(self.added, count)
        return type(self)(grown(self.graph, count), self.words, added)

    def read(self, texts: list[str]) -> sparse.csr_matrix:
        matches = matching_items(self.words, texts, NEIGHBOURS)
        matches.resize(len(texts), self.graph.shape[0])
        return matches

    def save(self, folder: Path) -> None:
        super().save(folder)
        self.words.save(folder / "words", show_progress=False)

    @classmethod
    def load(cls, folder: Path, catalogue: Catalogue) -> Self:
        return cls(mapped_graph(folder, cls.name), bm25s.BM25.load(folder / "words", show_progress=False, verbosity=0))


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


def row_sums(graph: sparse.csr_matrix) -> NDArray[np.float64]:
    """Return the sum of each row `[N]`."""
    return np.asarray(graph.sum(1), np.float64).ravel()


def keep_strongest(graph: sparse.spmatrix, count: int = NEIGHBOURS) -> sparse.csr_matrix:
    """Return `graph` with the `count` largest entries of each row."""
    graph = sparse.csr_matrix(graph)
    keep = np.ones(graph.nnz, bool)
    for row in np.flatnonzero(np.diff(graph.indptr) > count):
        span = np.arange(graph.indptr[row], graph.indptr[row + 1])
        keep[span[np.argsort(-graph.data[span], kind="stable")[count:]]] = False
    rows = np.repeat(np.arange(graph.shape[0]), np.diff(graph.indptr))
    return sparse.csr_matrix((graph.data[keep], (rows[keep], graph.indices[keep])), shape=graph.shape)
