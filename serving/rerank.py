"""What is done to ranked candidates before they are a list: diversity, brand caps, exploration.

In: the values of one request's candidates `[C]`. Out: which of them stand in the list, in order.
"""

import numpy as np
from numpy.typing import NDArray

from features.histories import Ints
from serving.retrieval.sources import Floats

POOL = 5
"""Candidates per place that diversity chooses from."""


def choose(
    values: Floats, vectors: Floats, brands: Ints, k: int, diversity: float = 0.0, per_brand: int = 0
) -> NDArray[np.intp]:
    """Return the places `[≤ k]` in `values` `[C]` of a list by maximal marginal relevance, best first.

    An item is worth `(1 - diversity) · value - diversity · likeness`, with values scaled to [0, 1] and
    likeness the largest cosine to an item above it (Carbonell and Goldstein 1998). `vectors` `[C, D]`
    are unit vectors, `brands` `[C]` codes (0 for none); values of -inf are no candidates.
    """
    order = np.argsort(-values, kind="stable")
    order = order[np.isfinite(values[order])]
    if per_brand:
        order = order[_within_cap(brands[order], per_brand)]
    if not diversity or len(order) < 2:
        return order[:k]
    pool = order[: POOL * k]
    span = max(float(values[pool[0]] - values[pool[-1]]), 1e-9)
    relevance = (values[pool] - values[pool[-1]]) / span
    likeness = np.full(len(pool), -1.0, np.float32)
    chosen: list[int] = []
    open_ = np.ones(len(pool), bool)
    for _ in range(min(k, len(pool))):
        worth = (1 - diversity) * relevance - diversity * (likeness if chosen else 0)
        best = int(np.argmax(np.where(open_, worth, -np.inf)))
        open_[best] = False
        chosen.append(best)
        likeness = np.maximum(likeness, vectors[pool] @ vectors[pool[best]])
    return pool[chosen]


def explore(listed: Ints, new: Ints, share: float, rng: np.random.Generator) -> tuple[Ints, list[float | None]]:
    """Give each place of `listed` `[K]`, with the chance `share`, to one of the items `new` `[n]`, drawn evenly.

    Return the list and, for each explored place, the chance with which it came about.
    """
    pool = np.setdiff1d(new, listed)
    result = listed.copy()
    propensities: list[float | None] = [None] * len(listed)
    places = np.flatnonzero(rng.random(len(listed)) < share)
    drawn = rng.permutation(pool)[: len(places)]
    for place, item in zip(places, drawn, strict=False):
        result[place], propensities[place] = item, share / len(pool)
    return result, propensities


def _within_cap(brands: Ints, most: int) -> NDArray[np.bool_]:
    """Return which of `brands` `[C]` are among the first `most` of their kind; 0 is no brand."""
    order = np.argsort(brands, kind="stable")
    starts = np.searchsorted(brands[order], brands[order], side="left")
    nth = np.empty(len(brands), np.int64)
    nth[order] = np.arange(len(brands)) - starts
    return (nth < most) | (brands == 0)
