"""Candidate sources: who proposes items for a request, each with a score that is kept as a feature.

In: a `RequestBatch`. Out: per source the best `[R, k]` items and the scores of any candidates.
A new source is one subclass of `CandidateSource` in `SOURCES` and one quota in the configuration.

Shapes: R requests, C candidates, N catalogue, D width.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from features.histories import EventLog, Histories, Ints

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]


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
    def extended(self, items: pl.DataFrame, vectors: Floats, available: Bools) -> Self:
        """Return the source for a catalogue with further items at its end; `vectors` `[N, D]`.

        It proposes `available` `[N]` items alone; the others may stand in histories.
        """

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the source into `folder`."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
