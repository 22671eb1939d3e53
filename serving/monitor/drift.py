"""How far one sample is from another.

In: values then and now. Out: the population stability index.
"""

import numpy as np
from numpy.typing import NDArray

BINS = 10
SMOOTHING = 0.5
"""Added to the count of each bin, so that an empty one is no infinite surprise."""


def psi(then: NDArray[np.floating], now: NDArray[np.floating]) -> float:
    """Return the population stability index of the samples `then` `[n]` and `now` `[m]`.

    The sum over bins of (share now - share then) · log(share now / share then), with bins at the deciles of `then` (Siddiqi 2006,
    *Credit Risk Scorecards*, whose rule of thumb calls .1 a small and .25 a large change). It is 0 for equal shares and never negative.

    Raises:
        ValueError: a sample is empty.
    """
    if not (len(then) and len(now)):
        raise ValueError("no values to compare")
    edges = np.unique(np.quantile(then, np.linspace(0, 1, BINS + 1)[1:-1]))
    before, after = _shares(then, edges), _shares(now, edges)
    return float(((after - before) * np.log(after / before)).sum())


def _shares(values: NDArray[np.floating], edges: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the share of `values` below each edge and the one before, at it, or between: `[2 · edges + 1]`.

    A value that is often the same, such as 0, has a bin of its own.
    """
    bins = np.searchsorted(edges, values, side="left") + np.searchsorted(edges, values, side="right")
    counts = np.bincount(bins, minlength=2 * len(edges) + 1) + SMOOTHING
    return np.asarray(counts / counts.sum())
