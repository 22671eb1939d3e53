"""How fast memory grows, with an interval that knows that a moment resembles the one before.

In: the memory of a process at many times. Out: a slope with its 95 % interval, and whether it is a leak.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Points = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Hours since the first sample, MiB."""


class Verdict(Enum):
    """What the interval says of a limit, and the exit code that says so."""

    NO_LEAK = 0
    LEAK = 1
    INCONCLUSIVE = 2


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """Return a leak where one is, else inconclusive where anything is."""
    return max(verdicts, key=(Verdict.NO_LEAK, Verdict.INCONCLUSIVE, Verdict.LEAK).index)


@dataclass(frozen=True)
class Growth:
    """A slope in MiB an hour, its 95 % interval, and of how many windows it is."""

    slope: float
    low: float
    high: float
    windows: int

    def verdict(self, limit: float) -> Verdict:
        """Return whether the interval lies above `limit` MiB an hour, below it, or on both sides."""
        if self.low > limit:
            return Verdict.LEAK
        return Verdict.NO_LEAK if self.high <= limit else Verdict.INCONCLUSIVE


def minima(samples: list[tuple[float, float]], window_s: float) -> Points:
    """Return the least MiB of each whole window of seconds, at its middle; `samples` are times in seconds and MiB.

    While a model is loaded two of them are in memory, and a request takes memory while it lasts: the least leaves both out.
    """
    times, sizes = np.array(samples, float).reshape(-1, 2).T
    if not len(times):
        return times, sizes
    windows = ((times - times[0]) // window_s).astype(int)
    whole = np.unique(windows[windows < (times[-1] - times[0]) // window_s])
    least = np.array([sizes[windows == window].min() for window in whole], float)
    return (whole + 0.5) * window_s / 3600, least


def after(points: Points, minutes: float) -> Points:
    """Return the points from the time `minutes` on."""
    hours, sizes = points
    return hours[hours >= minutes / 60], sizes[hours >= minutes / 60]


def growth(points: Points) -> Growth:
    """Return the line of least squares through windows that are evenly spaced.

    Its residuals are as many independent ones as their autocorrelation leaves: n (1 - r) / (1 + r), of which two are spent
    (Santer et al. 2000, "Statistical significance of trends and trend differences in layer-average atmospheric
    temperature time series"); r is what it is of neighbours, without the bias that it has in a short series.
    Where no more than two are left, the interval is infinite.
    """
    hours, sizes = points
    count = len(hours)
    if count < 4:
        return Growth(0.0, -np.inf, np.inf, count)
    slope, intercept = np.polyfit(hours, sizes, 1)
    residuals = sizes - slope * hours - intercept
    free = _independent(residuals) - 2
    if free <= 0:
        return Growth(float(slope), -np.inf, np.inf, count)
    error = np.sqrt((residuals**2).sum() / free / ((hours - hours.mean()) ** 2).sum())
    margin = stats.t.ppf(0.975, free) * error
    return Growth(float(slope), float(slope - margin), float(slope + margin), count)


def _independent(residuals: NDArray[np.float64]) -> float:
    """Return how many independent residuals of a line these are worth, at most as many as they are."""
    count, total = len(residuals), (residuals**2).sum()
    if total <= 0:
        return float(count)
    seen = (residuals[1:] * residuals[:-1]).sum() / total
    autocorrelation = (count * seen + 2) / (count - 4) if count > 4 else 1.0  # seen is r - (2 + 4 r) / n on average
    return float(count * (1 - autocorrelation) / (1 + autocorrelation)) if autocorrelation > 0 else float(count)
