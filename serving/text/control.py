"""A control chart of texts: a cumulated sum that rises with each one that fits a worse opinion better, and falls with each other.

In: the share that is negative while nothing changes. Out: what a text adds (the log-likelihood ratio of Page's CUSUM, 1954, for yes and no: Reynolds and
Stoumbos 1999), and the limit that is crossed by chance once in so many texts, by the Markov chain of Brook and Evans (1972).

The libraries of change detection that are kept up (river, frouros) have no limit that is set by a rate of false alarms.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lu_factor, lu_solve

STATES = 240
LIMITS = np.arange(1.0, 13.0)
"""Limits for which the mean number of texts is computed; others lie between."""
SHARES = np.geomspace(0.005, 0.6, 40)
"""Shares for which limits are computed."""
ODDS = 4.0
"""How many times the odds of a negative text are those of before, in the opinion that is looked for."""
Numbers = NDArray[np.float64]


def increments(share: Numbers) -> tuple[Numbers, Numbers]:
    """Return what a negative text adds to the sum and what another takes from it, both above 0, by the usual `share` of negative ones."""
    other = ODDS * share / (1 - share + ODDS * share)
    return np.log(other / share), np.log((1 - share) / (1 - other))


def run_length(limit: float, usual: float, share: float | None = None) -> float:
    """Return the mean number of texts until the sum crosses its `limit`, where the `usual` share of negative ones is or has become `share`.

    The sum lies on a grid; what falls between two points is divided between them so that its mean stays.
    """
    up, down = (float(value) for value in increments(np.array(usual)))
    chance = usual if share is None else share
    step, states = limit / STATES, np.arange(STATES + 1)
    moves = np.zeros((STATES + 1, STATES + 1))
    for change, weight in ((up, chance), (-down, 1 - chance)):
        target = np.maximum(0.0, states + change / step)
        below = np.floor(target).astype(np.int64)
        for point, part in ((below, 1 - (target - below)), (below + 1, target - below)):
            inside = point <= STATES
            np.add.at(moves, (states[inside], point[inside]), weight * part[inside])
    return float(lu_solve(lu_factor(np.eye(STATES + 1) - moves), np.ones(STATES + 1))[0])


@lru_cache(len(SHARES))
def _lengths(usual: float) -> Numbers:
    return np.log([run_length(float(limit), usual) for limit in LIMITS])


def limits_for(texts: Numbers, usual: Numbers) -> Numbers:
    """Return the limits that are crossed by chance once in so many `texts` `[S]`, where the shares of negative ones are the `usual` `[S]`."""
    nearest = np.abs(np.log(np.clip(usual, SHARES[0], SHARES[-1]))[:, None] - np.log(SHARES)).argmin(1)
    limits = np.empty(len(usual))
    for index in np.unique(nearest):
        own = nearest == index
        limits[own] = np.interp(np.log(texts[own]), _lengths(float(SHARES[index])), LIMITS)
    return limits
