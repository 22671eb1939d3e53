"""The rules that turn ranked candidates into a list: brand caps, diversity, exploration.

In: the values of candidates `[R, C]`. Out: which of them are in each list, in order. A new rule is a step of
`Reranker.order` (every list) or a function of its own that the API calls (exploration).

Shapes: R requests, C candidates, K list length, N catalogue, D width.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr

from recsys.arrays import Bools, Floats, Ints
from recsys.config import ListConfig

POOL = 5
"""Candidates per position that diversity chooses from."""


@dataclass(frozen=True)
class Reranker:
    """Orders candidates by value under the rules of the configuration."""

    rules: ListConfig

    def order(
        self, values: Floats, candidates: Ints, *, k: int, vectors: Floats, brands: Ints, diversity: float | None = None
    ) -> Ints:
        """Return the columns `[R, K]` of `values` `[R, C]` that make each list, best first, -1 padded.

        `vectors` `[N, D]` and `brands` `[N]` are those of the catalogue; `diversity` is the configuration's by default.
        """
        diversity = self.rules.diversity if diversity is None else diversity
        if not (diversity or self.rules.per_brand):
            return by_value(values, k)
        columns = np.full((len(values), k), -1, np.int64)
        for row, items in enumerate(candidates):
            chosen = diverse(
                values[row], vectors[items], brands[items], k=k, diversity=diversity, per_brand=self.rules.per_brand
            )
            columns[row, : len(chosen)] = chosen
        return columns


def by_value(values: Floats, k: int) -> Ints:
    """Return the columns `[R, K]` of the k largest `values` `[R, C]`, best first, -1 padded; -inf marks what is not a candidate."""
    columns = np.full((len(values), k), -1, np.int64)
    order = np.argsort(-values, axis=1, kind="stable")[:, :k]
    columns[:, : order.shape[1]] = np.where(np.isfinite(np.take_along_axis(values, order, 1)), order, -1)
    return columns


def diverse(
    values: Floats, vectors: Floats, brands: Ints, *, k: int, diversity: float = 0.0, per_brand: int = 0
) -> NDArray[np.intp]:
    """Return the indexes `[≤ k]` of a list among `values` `[C]` by maximal marginal relevance, best first.

    The next item is the one with the largest `(1 - diversity) · value - diversity · similarity`, with values scaled to
    [0, 1] and similarity the largest cosine to an item above it (Carbonell and Goldstein 1998). `vectors` `[C, D]`
    are unit vectors, `brands` `[C]` codes (0 for none); -inf marks what is not a candidate.
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
    similarity = np.full(len(pool), -1.0, np.float32)
    chosen: list[int] = []
    left = np.ones(len(pool), bool)
    for _ in range(min(k, len(pool))):
        marginal = (1 - diversity) * relevance - diversity * (similarity if chosen else 0)
        best = int(np.argmax(np.where(left, marginal, -np.inf)))
        left[best] = False
        chosen.append(best)
        similarity = np.maximum(similarity, vectors[pool] @ vectors[pool[best]])
    return pool[chosen]


def explore(listed: Ints, new: Ints, share: float, rng: np.random.Generator) -> tuple[Ints, list[float | None]]:
    """Give each position of `listed` `[K]`, with probability `share`, to one of the items `new` `[n]`, drawn evenly.

    An item is drawn once, so the pool may run out before the last positions. Return the list, and for each explored
    position the probability that this item was placed there (see `propensities`), None for the others.
    """
    pool = np.setdiff1d(new, listed)
    explored = np.flatnonzero(rng.random(len(listed)) < share)[: len(pool)]
    result = listed.copy()
    result[explored] = rng.permutation(pool)[: len(explored)]
    probability: list[float | None] = [None] * len(listed)
    for position, propensity in zip(explored, propensities(len(listed), len(pool), share)[explored], strict=True):
        probability[position] = float(propensity)
    return result, probability


def propensities(positions: int, pool: int, share: float) -> NDArray[np.float64]:
    """Return the probability `[K]` with which `explore` shows a given item of `pool` at each of K `positions`.

    The position is drawn (`share`), fewer than `pool` of the j positions above it were drawn (binomial), and the
    item is the one of `pool` that it gets (1 / `pool`).
    """
    above = np.arange(positions)
    return share * bdtr(np.minimum(pool - 1, above), above, share) / pool if pool else np.zeros(positions)


def _within_cap(brands: Ints, most: int) -> Bools:
    """Return which of `brands` `[C]` are among the first `most` of their brand; 0 means no brand."""
    order = np.argsort(brands, kind="stable")
    starts = np.searchsorted(brands[order], brands[order], side="left")
    nth = np.empty(len(brands), np.int64)
    nth[order] = np.arange(len(brands)) - starts
    return (nth < most) | (brands == 0)
