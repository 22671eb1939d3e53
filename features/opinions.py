"""What the texts of events say of each item, and since when: sentiment as a fact of items.

In: a log whose events have opinions. Out: `ItemOpinions`, which answers as of any moment.

Shapes: N catalogue, E events with an opinion, R requests, C candidates.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

from features.histories import OPINION, EventLog, opinion_of
from features.keys import SortedRuns
from recsys.arrays import Floats, Ints, grow, offsets_of
from recsys.errors import RecsysError

SAVED = ("opinion_values", "opinion_times", "opinion_offsets")
EVEN, WEIGHT = 0.5, 3.0
"""The opinion that an item has beforehand, and of how many texts."""


@dataclass(frozen=True)
class ItemOpinions:
    """Opinions of each item of a catalogue, by item and time."""

    values: NDArray[np.float64]
    """`[E]` from 0 to 1."""
    times: Ints
    """`[E]`, ascending within each item."""
    offsets: Ints
    """`[N + 1]` item i has the opinions `offsets[i]:offsets[i + 1]`."""
    recent: "ItemOpinions | None" = None
    """Those since the fit, where they are followed."""

    @classmethod
    def of(
        cls, items: Ints | NDArray[np.int32], times: Ints, values: NDArray[np.float64], count: int
    ) -> "ItemOpinions":
        """Return the opinions of events `[E]` on a catalogue of `count` items; `values` are NaN where there is none."""
        known = np.flatnonzero(~np.isnan(values))
        rows = known[np.lexsort((times[known], items[known]))]
        return cls(values[rows], times[rows], offsets_of(np.bincount(items[rows], minlength=count)))

    @cached_property
    def _runs(self) -> SortedRuns:
        return SortedRuns.of(np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets)), self.times)

    @cached_property
    def _sums(self) -> NDArray[np.float64]:
        """`[E + 1]` of the values before each."""
        return np.concatenate([[0.0], np.cumsum(self.values)])

    def before(self, items: Ints, moments: Ints) -> tuple[Ints, NDArray[np.float64]]:
        """Return how many opinions `items` `[R, C]` had strictly before `moments` `[R, 1]`, and their sum, both `[R, C]`."""
        start, stop = self.offsets[items], self._runs.first_not_below(items, moments)
        count, total = stop - start, self._sums[stop] - self._sums[start]
        if self.recent is None:
            return count, total
        later, sum_later = self.recent.before(items, moments)
        return count + later, total + sum_later

    def mean_before(self, items: Ints, moments: Ints) -> Floats:
        """Return the mean opinion `[R, C]` strictly before `moments`, drawn towards the middle where there are few."""
        return _mean(*self.before(items, moments))

    def trend(self, items: Ints, moments: Ints, window: int) -> Floats:
        """Return how far the mean of the last `window` microseconds is above that of all before `moments`, `[R, C]`."""
        count, total = self.before(items, moments)
        earlier, sum_earlier = self.before(items, moments - window)
        mean = _mean(count, total)
        return ((total - sum_earlier + WEIGHT * mean) / (count - earlier + WEIGHT) - mean).astype(np.float32)

    def grown(self, items: int) -> "ItemOpinions":
        """Return the same opinions in a catalogue of `items` items; those at its end have none."""
        recent = self.recent.grown(items) if self.recent else None
        return replace(self, offsets=grow(self.offsets, items + 1, fill=self.offsets[-1]), recent=recent)

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Return what a bundle keeps: the opinions of the fit."""
        return dict(zip(SAVED, (self.values, self.times, self.offsets), strict=True))

    @classmethod
    def of_arrays(cls, saved: Mapping[str, NDArray[np.generic]]) -> "ItemOpinions | None":
        """Return what `arrays` gave; None where a bundle has none."""
        return cls(*(saved[name] for name in SAVED)) if SAVED[0] in saved else None  # type: ignore[arg-type]


def _mean(count: Ints, total: NDArray[np.float64]) -> Floats:
    return ((total + WEIGHT * EVEN) / (count + WEIGHT)).astype(np.float32)


def fit_opinions(log: EventLog, items: int) -> ItemOpinions | None:
    """Return the opinions of the events of `log`, of `items` items; None where it has no column of them."""
    if log.opinions is None:
        return None
    return ItemOpinions.of(log.items, log.times, log.opinions, items)


def refuse_bad_opinions(events: pl.LazyFrame, name: str) -> None:
    """Raise RecsysError where the column `name` of the events holds something else than numbers from 0 to 1, or nothing at all."""
    read = events.select(pl.col(name).cast(pl.String).alias("text"), opinion_of(name)).collect()
    read = read.filter(pl.col("text").is_not_null() & ~pl.col("text").is_in(["", "NaN"]))
    wrong = read.filter(~pl.col(OPINION).is_between(0, 1).fill_null(False))
    if wrong.height or not read.height:
        example = f", for example {wrong['text'][0]!r}" if wrong.height else ""
        raise RecsysError(
            f"ranker.opinion: {wrong.height:,} of {read.height:,} values of {name!r} are no numbers from 0 to 1{example}; "
            "`recsys text score` writes such a column"
        )
