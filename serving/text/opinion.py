"""Whether the opinion of something left what its own past explains: `recsys text monitor`.

In: how many texts of each topic or item there were in each period, and how many were negative. Out: a `Watched`.

What a share of negative texts usually is, is the exponentially weighted share of the past. A cumulated sum (`serving.text.control`) rises where
more texts are negative, and alarms where it crosses the limit that it crosses by chance no more often than is allowed. Where the days of the past differed by more than chance,
texts count less.

Shapes: S series, T periods.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.signal import lfilter

from recsys.arrays import Bools, Ints
from recsys.errors import RecsysError
from recsys.events import DAY_US
from serving.text.control import increments, limits_for

HOUR_US = DAY_US // 24
MONTH_HOURS = 30 * 24
PERIOD_HOURS = 2
HALF_LIFE_DAYS = 28.0
"""After which a text of the past counts half."""
GAP_DAYS = 1.0
"""Texts that are younger are no past yet, so that a surge is not compared with itself."""
LEAST_PAST = 30.0
"""Texts that the past needs before anything can alarm."""
LONGEST_DAYS = 400
"""Days that are read."""
UNKNOWN = 0.5
"""Texts of either kind that the past has beforehand (Jeffreys)."""
GUARD = 1.0
"""Standard errors that the usual share is taken for higher than the past says, since the past is short."""
EVEN_DAYS = 20.0
"""Days of an even past that are counted beforehand."""
SERIES = ("by", "name")
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Counts:
    """Texts of S series in T periods."""

    series: pl.DataFrame
    """`by` and `name` of each series."""
    texts: Ints
    """`[S, T]`"""
    negative: Ints
    """`[S, T]` of them."""
    start: int
    """When the first period begins, microseconds since 1970."""
    hours: int
    """Of a period."""


def counted(texts: pl.DataFrame, hours: int = PERIOD_HOURS) -> Counts:
    """Return the counts of `texts`: a row per text and series, with `by`, `name`, `time` in microseconds, and whether it is `negative`.

    Those of the last `LONGEST_DAYS` count, and series with fewer than `LEAST_PAST` of them are left out.

    Raises:
        RecsysError: no series has so many.
    """
    step = hours * HOUR_US
    texts = texts.filter(pl.col("time") > pl.col("time").max() - LONGEST_DAYS * DAY_US)
    texts = texts.filter(pl.len().over(SERIES) >= LEAST_PAST)
    if not texts.height:
        raise RecsysError(
            f"no topic or item has {LEAST_PAST:.0f} texts, which a usual share needs; watch fewer topics, or wait"
        )
    period = pl.col("time") // step
    first, last = texts.select(period.min().alias("first"), period.max().alias("last")).row(0)
    series = texts.select(SERIES).unique().sort(SERIES).with_row_index("row")
    cells = (
        texts.join(series, on=SERIES)
        .group_by("row", (period - first).alias("period"))
        .agg(pl.len(), pl.col("negative").sum())
    )
    counts, negative = (np.zeros((series.height, last - first + 1), np.int64) for _ in range(2))
    where = cells["row"].to_numpy(), cells["period"].to_numpy()
    counts[where], negative[where] = cells["len"].to_numpy(), cells["negative"].to_numpy()
    return Counts(series.drop("row"), counts, negative, first * step, hours)


@dataclass(frozen=True)
class Watched:
    """The charts of all series."""

    counts: Counts
    usual: Numbers
    """`[S, T]` share of negative texts in the past of each period; NaN where that is too short."""
    sums: Numbers
    """`[S, T]` the cumulated sum over its limit: 1 is an alarm."""
    charted: Bools
    """`[S]` whether there was enough of a past at any time."""

    @property
    def alarms(self) -> Bools:
        """`[S, T]` where the limit was crossed."""
        return self.sums >= 1

    @cached_property
    def episodes(self) -> pl.DataFrame:
        """A row per alarm: `by`, `name`, `since` and `until` in microseconds, and its `texts`, share of `negative`, and what was `usual`.

        Crossings within a day are one alarm.
        """
        step, near = self.counts.hours * HOUR_US, max(1, round(24 / self.counts.hours))
        rows = []
        for row in np.flatnonzero(self.alarms.any(1)):
            crossed = np.flatnonzero(self.alarms[row])
            for part in np.split(crossed, np.flatnonzero(np.diff(crossed) > near) + 1):
                span = slice(max(0, part[0] - near + 1), part[-1] + 1)
                texts, negative = self.counts.texts[row, span].sum(), self.counts.negative[row, span].sum()
                times = [self.counts.start + int(period + 1) * step for period in (part[0], part[-1])]
                rows.append(
                    (
                        *self.counts.series.row(int(row)),
                        *times,
                        int(texts),
                        negative / texts,
                        self.usual[row, part[0]],
                    )
                )
        schema = (
            dict.fromkeys(SERIES, pl.String)
            | {"since": pl.Int64, "until": pl.Int64, "texts": pl.Int64}
            | dict.fromkeys(("negative", "usual"), pl.Float64)
        )
        return pl.DataFrame(rows, schema=schema, orient="row")

    @property
    def end(self) -> int:
        """When the last period ends, microseconds since 1970."""
        return self.counts.start + self.counts.texts.shape[1] * self.counts.hours * HOUR_US

    def latest(self, days: float) -> pl.DataFrame:
        """Return the alarms that went on in the last `days` of the texts."""
        return self.episodes.filter(pl.col("until") > self.end - days * DAY_US)


def watch_opinion(counts: Counts, false_alarms: float = 1.0) -> Watched:
    """Return the charts of `counts`, with at most `false_alarms` in 30 days over all series together, while nothing changes."""
    past = _past(counts)
    known = past.texts >= LEAST_PAST
    charted = np.asarray(known.any(1))
    monthly = np.maximum(1.0, past.rate * MONTH_HOURS / counts.hours)
    between = monthly * max(1, charted.sum()) / false_alarms  # texts of one series between its false alarms
    usual = (past.negative + UNKNOWN) / (past.texts + 2 * UNKNOWN)
    guarded = np.minimum(usual + GUARD * np.sqrt(usual * (1 - usual) / (past.texts + 1)), 0.9)
    sums, level = np.zeros(counts.texts.shape), np.zeros(len(counts.texts))
    for period in range(counts.texts.shape[1]):
        texts, negative, now = counts.texts[:, period], counts.negative[:, period], guarded[:, period]
        up, down = increments(now)
        gained = (negative * up - (texts - negative) * down) / past.spread[:, period]
        level = np.where(known[:, period], np.maximum(0.0, level + gained), 0.0)
        sums[:, period] = level / limits_for(between[:, period], now)
        level = np.where(sums[:, period] >= 1, 0.0, level)  # a chart starts again after an alarm
    return Watched(counts, np.where(known, usual, np.nan), sums, charted)


@dataclass(frozen=True)
class _Past:
    """What is known of S series before each of T periods."""

    texts: Numbers
    """`[S, T]` of the past, the latest counting most."""
    negative: Numbers
    """`[S, T]` of them."""
    rate: Numbers
    """`[S, T]` texts per period until now."""
    spread: Numbers
    """`[S, T]` how many times as much as by chance the days of the past differed, at least 1."""


def _past(counts: Counts) -> _Past:
    day = max(1, round(24 / counts.hours))
    keep = 0.5 ** (counts.hours / 24 / HALF_LIFE_DAYS)
    texts, negative = (_weighted(_later(part, round(GAP_DAYS * day)), keep) for part in (counts.texts, counts.negative))
    usual = (negative + UNKNOWN) / (texts + 2 * UNKNOWN)
    days, bad = (_sliding(part, day) for part in (counts.texts, counts.negative))
    surprise = np.where(days > 0, (bad - days * usual) ** 2 / np.maximum(days * usual * (1 - usual), 1e-9), 1.0)
    surprise = np.where(texts >= LEAST_PAST, np.minimum(surprise, 9.0), 1.0)
    seen = np.arange(counts.texts.shape[1]) / day  # days
    spread = (np.cumsum(_later(surprise, day), axis=1) / day + EVEN_DAYS) / (np.maximum(seen - 1, 0) + EVEN_DAYS)
    rate = np.cumsum(counts.texts, axis=1) / np.arange(1, counts.texts.shape[1] + 1)
    return _Past(texts, negative, rate, np.maximum(spread, 1.0))


def _later(values: Numbers | Ints, periods: int) -> Numbers:
    """Return `values` `[S, T]` as they were so many periods before; 0 before the first."""
    return np.pad(values, ((0, 0), (periods, 0)))[:, : values.shape[1]].astype(np.float64)


def _weighted(values: Numbers, keep: float) -> Numbers:
    """Return the sums `[S, T]` in which a value counts `keep` times as much with each period."""
    return np.asarray(lfilter([1.0], [1.0, -keep], values, axis=1))


def _sliding(values: Ints, width: int) -> Numbers:
    """Return the sums `[S, T]` of each period and those before it, `width` in all."""
    total = np.cumsum(values, axis=1)
    return (total - _later(total, width)).astype(np.float64)
