"""Sources by the interest model's vectors: the nearest items of all, and of those that are new.

Shapes: R requests, C candidates, N catalogue, D width, M new items.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import polars as pl

from features.histories import Ints
from serving.index import VectorIndex
from serving.sources.base import Bools, CandidateSource, FitContext, Floats, RequestBatch, Scores


class InterestSource(CandidateSource):
    """Nearest items to the mean of the user's two vectors; the score is the click head's interest."""

    name = "interest"

    def __init__(self, index: VectorIndex, vectors: Floats) -> None:
        """`vectors` `[N, D]` are those of the whole catalogue."""
        self.index, self.vectors = index, vectors

    @classmethod
    def fit(cls, context: FitContext) -> Self:
        return cls(VectorIndex.build(context.vectors, np.arange(len(context.vectors))), context.vectors)

    def open(self, batch: RequestBatch) -> Scores:
        return VectorScores(self.index, self.vectors, batch.users)

    def extended(self, items: pl.DataFrame, vectors: Floats, available: Bools) -> Self:
        return type(self)(VectorIndex.build(vectors[available], np.flatnonzero(available)), vectors)

    def save(self, folder: Path) -> None:
        self.index.save(folder / "index.faiss")

    @classmethod
    def load(cls, folder: Path) -> Self:
        index = VectorIndex.load(folder / "index.faiss")
        return cls(index, index.vectors())


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


class NewSource(CandidateSource):
    """Nearest items among those with at most `most_events` events, which no count can propose."""

    name = "new"
    most_events = 2

    def __init__(self, items: Ints, vectors: Floats, count: int) -> None:
        """`items` `[M]`, ascending, are the new ones of `count`; `vectors` `[M, D]` are theirs."""
        self.items, self.vectors, self.count = items, vectors, count
        self.index = VectorIndex.build(vectors, items)

    @classmethod
    def fit(cls, context: FitContext) -> Self:
        items = np.flatnonzero(np.bincount(context.log.items, minlength=context.items.height) <= cls.most_events)
        return cls(items, context.vectors[items], context.items.height)

    def open(self, batch: RequestBatch) -> Scores:
        return NewScores(self.index, self.vectors, batch.users, self.items)

    def extended(self, items: pl.DataFrame, vectors: Floats, available: Bools) -> Self:
        new = np.append(self.items, np.arange(self.count, items.height))
        new = new[available[new]]
        return type(self)(new, vectors[new], items.height)

    def save(self, folder: Path) -> None:
        np.savez(folder / "new.npz", allow_pickle=False, items=self.items, vectors=self.vectors, count=self.count)

    @classmethod
    def load(cls, folder: Path) -> Self:
        with np.load(folder / "new.npz", allow_pickle=False) as arrays:
            return cls(arrays["items"], arrays["vectors"], int(arrays["count"]))


@dataclass(frozen=True)
class NewScores(VectorScores):
    """Inner products with new items `[M]`; 0 for all others."""

    items: Ints

    def of(self, candidates: Ints) -> Floats:
        if not len(self.items):
            return np.zeros(candidates.shape, np.float32)
        places = np.searchsorted(self.items, candidates)
        new = (np.append(self.items, -1)[places] == candidates) & (candidates >= 0)
        return VectorScores.of(self, np.where(new, places, -1))


def head_scores(users: Floats, vectors: Floats, candidates: Ints) -> Floats:
    """Return the inner products `[R, C]` of `users` `[R, D]` with their candidates; 0 where padded."""
    scores = np.einsum("rd,rcd->rc", users, vectors[candidates], optimize=True)
    return np.where(candidates >= 0, scores, 0).astype(np.float32)
