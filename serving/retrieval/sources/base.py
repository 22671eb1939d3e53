"""Candidate sources: who proposes items for a request, each with a score that is kept as a feature.

In: a `RequestBatch`. Out: per source the best `[R, k]` items and the scores of any candidates.
A new source is one subclass of `CandidateSource` in `SOURCES` and one quota in the configuration.

A mask `allowed` `[N]` says which items may be proposed; None allows all.

Shapes: R requests, C candidates, L history positions, N catalogue, D width.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import sparse

from features.histories import EventLog, Histories, Ints, offsets_of

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]

HISTORY_DECAY = 0.7
"""Weight of a history event against the one after it."""

GATHERED = 16
"""Requests whose candidates' vectors are copied at once: they stay in the processor's cache."""


@dataclass(frozen=True)
class Sentences:
    """What R users typed. In a history the item `N`, one past the catalogue, is the user's sentence."""

    vectors: Floats
    """`[R, D]` unit vectors; zero without a sentence."""
    words: sparse.csr_matrix
    """`[R, N]` how well the words of each item match."""

    @classmethod
    def none(cls, requests: int, shape: tuple[int, int]) -> "Sentences":
        """Return those of `requests` users who typed nothing; `shape` is `[N, D]`."""
        count, width = shape
        return cls(np.zeros((requests, width), np.float32), sparse.csr_matrix((requests, count), dtype=np.float32))

    def rows(self, rows: slice | Ints) -> "Sentences":
        """Return the sentences of some requests."""
        return Sentences(self.vectors[rows], self.words[rows])


@dataclass(frozen=True)
class RequestBatch:
    """R requests and the user vectors that the interest model gives them."""

    histories: Histories
    users: Floats
    """`[R, 2, D]`, one per head; zero for an empty history."""
    past: Floats
    """`[R, L, D]` vectors of the history, a typed sentence among them."""
    sentences: Sentences
    vectors: Floats
    """`[N, D]` unit vectors of the catalogue."""
    _likeness: dict[int, tuple[Ints, Floats]] = field(default_factory=dict)

    @cached_property
    def weights(self) -> sparse.csr_matrix:
        """The weights `[R, N]` of the items in each history, the latest counting most; sentences left out."""
        past, shape = self.histories.items, self.sentences.words.shape
        known = (past >= 0) & (past < shape[1])
        rows, columns = np.nonzero(known)
        weights = HISTORY_DECAY ** np.arange(past.shape[1], dtype=np.float32)[::-1][columns]
        return sparse.csr_matrix((weights, past[rows, columns], offsets_of(known.sum(1))), shape=shape)

    def interest(self, candidates: Ints) -> Floats:
        """Return the inner products `[R, C, 2]` of `candidates` `[R, C]` with the user vectors; 0 where padded."""
        return np.where((candidates >= 0)[:, :, None], self._likenesses(candidates)[:, :, :2], 0)

    def similarity(self, candidates: Ints) -> Floats:
        """Return the inner products `[R, C, L]` of `candidates` `[R, C]` with the events of the history."""
        return self._likenesses(candidates)[:, :, 2:]

    def _likenesses(self, candidates: Ints) -> Floats:
        """Return `[R, C, 2 + L]`, worked out once for an array of candidates: several sources ask for it."""
        known = self._likeness.get(id(candidates))
        if known is None:
            against = np.concatenate([self.users, self.past], axis=1).transpose(0, 2, 1)  # [R, D, 2 + L]
            found = np.empty((*candidates.shape, against.shape[2]), np.float32)
            for start in range(0, len(candidates), GATHERED):
                rows = slice(start, start + GATHERED)
                np.matmul(self.vectors[candidates[rows]], against[rows], out=found[rows])
            known = self._likeness[id(candidates)] = (candidates, found)
        return known[1]


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
    def top(self, k: int, allowed: Bools | None = None) -> Ints:
        """Return the best `allowed` items `[R, k]`, -1 where there are fewer."""

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
    def extended(self, items: pl.DataFrame, vectors: Floats, changed: Ints) -> Self:
        """Return the source for a catalogue with further items at its end; `vectors` `[N, D]`.

        `changed` are the rows whose texts are new: those at the end, and known items in their old places.
        """

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the source into `folder`."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Path, vectors: Floats) -> Self:
        """Read what `save` wrote; `vectors` `[N, D]` are those of the catalogue."""
