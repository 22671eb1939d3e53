"""Sources by the interest model's vectors: the nearest items of all, and of those that are new.

Shapes: R requests, C candidates, N catalogue, D width, M new items.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from features.facts import ItemFacts
from features.recent import RecentEvents
from recsys.arrays import Bools, Floats, Ints, grow
from serving.retrieval.index import VectorIndex
from serving.retrieval.sources.base import Candidates, CandidateSource, Catalogue, FitContext, RequestBatch, Scores


class InterestSource(CandidateSource):
    """Nearest items to the mean of the user's two vectors; the score is the click head's interest."""

    name = "interest"
    at_hand = True

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

    def __init__(self, index: VectorIndex, indexed: Bools, new: Bools | None = None) -> None:
        """`indexed` `[N]` is True for the items of `index`, `new` `[N]` for those of them that are new still; all by default."""
        self.index, self.indexed, self.new = index, indexed, indexed if new is None else new

    @classmethod
    def fit(cls, context: FitContext) -> Self:
        new = np.bincount(context.log.items, minlength=context.items.height) <= cls.most_events
        return cls(VectorIndex.build(context.vectors, np.flatnonzero(new)), new)

    def open(self, batch: RequestBatch) -> Scores:
        return NewScores(self.index, batch, self.new, self.new is not self.indexed)

    def with_recent(self, recent: RecentEvents, facts: ItemFacts, weights: Floats) -> Self:
        new = self.indexed & (facts.counts <= self.most_events)
        return type(self)(self.index, self.indexed, None if (new == self.indexed).all() else new)

    def extended(self, catalogue: Catalogue, changed: Ints) -> Self:
        indexed = grow(self.indexed, catalogue.items.height, fill=True)
        new = None if self.new is self.indexed else grow(self.new, catalogue.items.height, fill=True)
        return type(self)(self.index.extended(catalogue.vectors, changed[indexed[changed]]), indexed, new)

    def save(self, folder: Path) -> None:
        np.savez(folder / "new.npz", allow_pickle=False, new=self.indexed)
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
    some_known: bool
    """Whether the index holds items that are new no longer."""

    def top(self, k: int, allowed: Bools | None = None) -> Ints:
        if self.some_known:
            allowed = self.new if allowed is None else self.new & allowed
        return VectorScores.top(self, k, allowed)

    def of(self, candidates: Candidates) -> Floats:
        return np.where(self.new[candidates.items], VectorScores.of(self, candidates), 0)
