"""Candidate sources: each proposes items for a request and scores any candidate; its scores are ranking features.

In: a `RequestBatch`. Out: per source the best items `[R, k]`, and the scores of any `Candidates`.
A new source is one subclass of `CandidateSource` in `SOURCES` and one quota in the configuration.

A mask `allowed` `[N]` says which items may be proposed; None allows all.

Shapes: R requests, C candidates, L history positions, N catalogue, D width, A width of taste vectors.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import polars as pl
from scipy import sparse

from features.facts import ItemFacts
from features.histories import EventLog, Histories
from features.recent import RecentEvents
from recsys.arrays import Bools, Floats, Ints, offsets_of
from recsys.models.taste import TasteModel, same_category
from serving.retrieval.index import VectorIndex

HISTORY_DECAY = 0.7
"""Weight of a history event against the one after it."""


@dataclass(frozen=True)
class Sentences:
    """What R users typed. In a history the item `N`, one past the catalogue, is the user's sentence."""

    vectors: Floats
    """`[R, D]` unit vectors; zero without a sentence."""
    tastes: Floats
    """`[R, A]` unit taste vectors; zero without a sentence."""
    matches: Mapping[str, sparse.csr_matrix] = field(default_factory=dict)
    """`[R, N]` how well each item matches, by the name of a source that reads sentences."""

    @classmethod
    def none(cls, requests: int, width: int, taste_width: int) -> "Sentences":
        """Return the sentences of `requests` users who typed nothing; the widths are D and A."""
        return cls(np.zeros((requests, width), np.float32), np.zeros((requests, taste_width), np.float32))

    def blank(self) -> "Sentences":
        """Return sentences of the same shape without any content."""
        matches = {name: sparse.csr_matrix(scores.shape, dtype=scores.dtype) for name, scores in self.matches.items()}
        return Sentences(np.zeros_like(self.vectors), np.zeros_like(self.tastes), matches)

    @classmethod
    def join(cls, parts: Sequence["Sentences"]) -> "Sentences":
        """Put the sentences of several requests together; all of them have matches of the same sources."""
        matches = {name: sparse.vstack([part.matches[name] for part in parts], "csr") for name in parts[0].matches}
        vectors, tastes = (np.concatenate([getattr(part, name) for part in parts]) for name in ("vectors", "tastes"))
        return cls(vectors, tastes, matches)

    def rows(self, rows: slice | Ints) -> "Sentences":
        """Return the sentences of some requests."""
        return Sentences(
            self.vectors[rows], self.tastes[rows], {name: scores[rows] for name, scores in self.matches.items()}
        )


@dataclass(frozen=True)
class Catalogue:
    """The items, and what the models make of them."""

    items: pl.DataFrame
    vectors: Floats
    """`[N, D]` unit item vectors of the interest model."""
    tastes: Floats
    """`[N, A]` unit taste vectors; `[N, 0]` without a taste model."""
    category: Ints
    """`[N]` codes from 1 of the items' categories; 0 where unknown."""
    taste: TasteModel | None
    """The taste model, where there is one."""


@dataclass(frozen=True)
class RequestBatch:
    """R requests and the user vectors that the interest model gives them."""

    histories: Histories
    users: Floats
    """`[R, 2, D]`, one per head; zero for an empty history."""
    past: Floats
    """`[R, L, D]` vectors of the history, a typed sentence among them."""
    past_tastes: Floats
    """`[R, L, A]` taste vectors of the history, a typed sentence among them."""
    sentences: Sentences
    catalogue: Catalogue

    @cached_property
    def weights(self) -> sparse.csr_matrix:
        """The weights `[R, N]` of the items in each history, the latest counting most; sentences left out."""
        known, shape = self.past_items, (len(self.users), len(self.catalogue.vectors))
        rows, columns = np.nonzero(known)
        weights, items = self.decay[columns], self.histories.items[rows, columns]
        return sparse.csr_matrix((weights, items, offsets_of(known.sum(1))), shape=shape)

    def weighted(self, row: int) -> tuple[Ints, Floats]:
        """Return the items of one history, as in `weights`, and their weights."""
        known = self.past_items[row]
        return self.past_rows[row, known], self.decay[known]

    @cached_property
    def decay(self) -> Floats:
        """`[L]` weights of the events by their position."""
        return HISTORY_DECAY ** np.arange(self.histories.items.shape[1], dtype=np.float32)[::-1]

    @cached_property
    def past_items(self) -> Bools:
        """`[R, L]`, True where the history has an item, False for a typed sentence and where padded."""
        return (self.histories.items >= 0) & (self.histories.items < len(self.catalogue.vectors))

    @cached_property
    def past_rows(self) -> Ints:
        """`[R, L]` the history's items; 0 where there is none."""
        return np.where(self.past_items, self.histories.items, 0).astype(np.int64)

    @cached_property
    def past_category(self) -> Ints:
        """`[R, L]` codes of the history's categories; 0 for a typed sentence and where padded."""
        return np.where(self.past_items, self.catalogue.category[self.past_rows], 0)

    def candidates(self, items: Ints) -> "Candidates":
        """Return `items` `[R, C]` (-1 padded) as candidates of these requests."""
        return Candidates(items, self)


@dataclass(frozen=True)
class Candidates:
    """Candidates of R requests. Their products with the requests' vectors are computed once, for every source."""

    items: Ints
    """`[R, C]`, -1 padded."""
    batch: RequestBatch

    @property
    def present(self) -> Bools:
        """`[R, C]`, False where padded."""
        return self.items >= 0

    @cached_property
    def interest(self) -> Floats:
        """`[R, C, 2]` inner products with the user vectors, one per head; 0 where padded."""
        return np.where(self.present[:, :, None], self._products[:, :, :2], 0)

    @property
    def similarity(self) -> Floats:
        """`[R, C, L]` inner products with the events of the history."""
        return self._products[:, :, 2:]

    @cached_property
    def taste_similarity(self) -> Floats:
        """`[R, C, L]` inner products of taste vectors with the events of the history."""
        return products(self.batch.catalogue.tastes, self.items, self.batch.past_tastes)

    @cached_property
    def same_category(self) -> Bools:
        """`[R, C, L]` whether candidate and event have one known category."""
        return same_category(self.batch.past_category, self.batch.catalogue.category[self.items])

    @cached_property
    def _products(self) -> Floats:
        """`[R, C, 2 + L]`"""
        against = np.concatenate([self.batch.users, self.batch.past], axis=1)  # [R, 2 + L, D]
        return products(self.batch.catalogue.vectors, self.items, against)


def products(vectors: Floats, items: Ints, against: Floats) -> Floats:
    """Return the inner products `[R, C, Q]` of the `items` `[R, C]` of a catalogue with `against` `[R, Q, D]`.

    `vectors` `[N, D]` are those of the catalogue; where `items` is -1, the products are those of some item.
    """
    found = np.empty((*items.shape, against.shape[1]), np.float32)
    own = np.empty((items.shape[1], vectors.shape[1]), np.float32)
    for row in range(len(items)):  # its vectors are still in the processor's cache when they are multiplied
        vectors.take(items[row], 0, out=own, mode="clip")
        np.matmul(own, against[row].T, out=found[row])
    return found


@dataclass(frozen=True)
class FitContext(Catalogue):
    """What a source may learn from: the catalogue, and events that precede every request."""

    log: EventLog
    weights: Floats
    """Event weight by type code."""
    has_clock: bool


class Scores(ABC):
    """A source's view of one batch."""

    @abstractmethod
    def top(self, k: int, allowed: Bools | None = None) -> Ints:
        """Return the best `allowed` items `[R, k]`, -1 where there are fewer."""

    @abstractmethod
    def of(self, candidates: Candidates) -> Floats:
        """Return the scores `[R, C]` of `candidates`; 0 where unknown or padded."""


class CandidateSource(ABC):
    """Base of every source. Fitted once, saved in the bundle, opened for each batch."""

    name: ClassVar[str]
    fills_short_lists: ClassVar[bool] = False
    """Whether its best items fill up lists that are short of candidates."""
    at_hand: ClassVar[bool] = False
    """Whether it is so quick that there is always time for it (see `serving.deadline`)."""
    explored: ClassVar[bool] = False
    """Whether its proposals may be placed in lists for exploration (`lists.explore`)."""
    describes: ClassVar[bool] = True
    """Whether its scores are features of the ranker; otherwise it only proposes."""
    catalogue_index: VectorIndex | None = None
    """An index over the whole catalogue, where the source keeps one."""

    @classmethod
    @abstractmethod
    def fit(cls, context: FitContext) -> Self:
        """Learn from the catalogue and its events."""

    @abstractmethod
    def open(self, batch: RequestBatch) -> Scores:
        """Prepare the scores of one batch of requests."""

    def with_recent(self, recent: RecentEvents, facts: ItemFacts, weights: Floats) -> Self:
        """Return the source as of the fit and of the events since, in place of those that it followed before.

        `facts` know them too; `weights` are those of events by type code.
        """
        return self

    def read(self, texts: list[str]) -> sparse.csr_matrix | None:
        """Return how well each item matches what users typed, `[R, N]`; None where the source reads no sentences."""
        return None

    @abstractmethod
    def extended(self, catalogue: Catalogue, changed: Ints) -> Self:
        """Return the source for a catalogue with further items at its end.

        `changed` are the rows whose texts are new: those at the end, and existing items, which keep their rows.
        """

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the source into `folder`."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Path, catalogue: Catalogue) -> Self:
        """Read what `save` wrote for `catalogue`."""
