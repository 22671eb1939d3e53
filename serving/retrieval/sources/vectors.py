"""Sources by the interest model's vectors: the nearest items of all, and of those that are new.

Shapes: R requests, C candidates, N catalogue, D width, M new items.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from recsys.arrays import Bools, Floats, Ints, grow
from serving.retrieval.index import VectorIndex
from serving.retrieval.sources.base import Candidates, CandidateSource, Catalogue, FitContext, RequestBatch, Scores


class InterestSource(CandidateSource):
    """Nearest items to the mean of the user's two vectors; the score is the click head's interest."""

    name = "interest"

    def __init__(self, index: VectorIndex) -> None:
        self.catalogue_index: VectorIndex = index

    @classmethod
    def fit(cls, context: FitContext) -> Self:
        return cls(VectorIndex.build(context.vectors, np.arange(len(context.vectors))))

    def open(self, batch: RequestBatch) -> Scores:
        return VectorScores(self.catalogue_index, batch)

    def extended(self, catalogue: Catalogue, changed: Ints) -> Self:
        return type(self)(self.catalogue_index.extended(catalogue.vectors, changed))

    def save(self, folder: Path) -> None:
        self.catalogue_index.save(folder / "index.faiss")

    @classmethod
    def load(cls, folder: Path, catalogue: Catalogue) -> Self:
        return cls(VectorIndex.load(folder / "index.faiss", catalogue.vectors, np.arange(len(catalogue.vectors))))


@dataclass(frozen=True)
class VectorScores(Scores):
    """Inner products of user and item vectors."""

    index: VectorIndex
    batch: RequestBatch

    def top(self, k: int, allowed: Bools | None = None) -> Ints:
        users = self.batch.users
        nearest = self.index.search(users.mean(1), k, allowed)
        return np.where(np.any(users, axis=(1, 2))[:, None], nearest, -1)

    def of(self, candidates: Candidates) -> Floats:
        return candidates.interest[:, :, 0]


class NewSource(CandidateSource):
    """Nearest items among those with at most `most_events` events, which no count can propose."""

    name = "new"
    explored = True
    most_events = 2

    def __init__(self, index: VectorIndex, new: Bools) -> None:
        """`new` `[N]` is True for the items of `index`."""
        self.index, self.new = index, new

    @classmethod
    def fit(cls, context: FitContext) -> Self:
        new = np.bincount(context.log.items, minlength=context.items.height) <= cls.most_events
        return cls(VectorIndex.build(context.vectors, np.flatnonzero(new)), new)

    def open(self, batch: RequestBatch) -> Scores:
        return NewScores(self.index, batch, self.new)

    def extended(self, catalogue: Catalogue, changed: Ints) -> Self:
        new = grow(self.new, catalogue.items.height, fill=True)
        return type(self)(self.index.extended(catalogue.vectors, changed[new[changed]]), new)

    def save(self, folder: Path) -> None:
        np.savez(folder / "new.npz", allow_pickle=False, new=self.new)
        self.index.save(folder / "new.faiss")

    @classmethod
    def load(cls, folder: Path, catalogue: Catalogue) -> Self:
        with np.load(folder / "new.npz", allow_pickle=False) as arrays:
            new = arrays["new"]
        return cls(VectorIndex.load(folder / "new.faiss", catalogue.vectors, np.flatnonzero(new)), new)


@dataclass(frozen=True)
class NewScores(VectorScores):
    """Inner products with new items; 0 for all others."""

    new: Bools

    def of(self, candidates: Candidates) -> Floats:
        return np.where(self.new[candidates.items], VectorScores.of(self, candidates), 0)
