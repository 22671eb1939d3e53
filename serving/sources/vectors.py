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

    def extended(self, items: pl.DataFrame, vectors: Floats, changed: Ints) -> Self:
        return type(self)(self.index.extended(vectors[changed], changed), vectors)

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

    def top(self, k: int, allowed: Bools | None = None) -> Ints:
        found = self.index.search(self.users.mean(1), k, allowed)
        return np.where(np.any(self.users, axis=(1, 2))[:, None], found, -1)

    def of(self, candidates: Ints) -> Floats:
        return head_scores(self.users[:, 0], self.vectors, candidates)


class NewSource(CandidateSource):
    """Nearest items among those with at most `most_events` events, which no count can propose."""

    name = "new"
    most_events = 2

    def __init__(self, index: VectorIndex, vectors: Floats, new: Bools) -> None:
        """`vectors` `[N, D]` are those of the whole catalogue, `new` `[N]` says which items are."""
        self.index, self.vectors, self.new = index, vectors, new

    @classmethod
    def fit(cls, context: FitContext) -> Self:
        new = np.bincount(context.log.items, minlength=context.items.height) <= cls.most_events
        return cls.of_items(context.vectors, new)

    @classmethod
    def of_items(cls, vectors: Floats, new: Bools) -> Self:
        """Return the source of the `new` `[N]` ones among the items with `vectors` `[N, D]`."""
        return cls(VectorIndex.build(vectors[new], np.flatnonzero(new)), vectors, new)

    def open(self, batch: RequestBatch) -> Scores:
        return NewScores(self.index, self.vectors, batch.users, self.new)

    def extended(self, items: pl.DataFrame, vectors: Floats, changed: Ints) -> Self:
        new = np.pad(self.new, (0, items.height - len(self.new)), constant_values=True)
        changed = changed[new[changed]]
        return type(self)(self.index.extended(vectors[changed], changed), vectors, new)

    def save(self, folder: Path) -> None:
        np.savez(folder / "new.npz", allow_pickle=False, new=self.new, vectors=self.vectors[self.new])

    @classmethod
    def load(cls, folder: Path) -> Self:
        with np.load(folder / "new.npz", allow_pickle=False) as arrays:
            new, kept = arrays["new"], arrays["vectors"]
        vectors = np.zeros((len(new), kept.shape[1]), np.float32)
        vectors[new] = kept
        return cls.of_items(vectors, new)


@dataclass(frozen=True)
class NewScores(VectorScores):
    """Inner products with new items; 0 for all others."""

    new: Bools

    def of(self, candidates: Ints) -> Floats:
        return VectorScores.of(self, np.where(self.new[candidates], candidates, -1))


def head_scores(users: Floats, vectors: Floats, candidates: Ints) -> Floats:
    """Return the inner products `[R, C]` of `users` `[R, D]` with their candidates; 0 where padded."""
    scores = (vectors[candidates] @ users[:, :, None])[..., 0]
    return np.where(candidates >= 0, scores, 0).astype(np.float32)
