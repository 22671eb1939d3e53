"""The rules that turn ranked candidates into a list: caps, diversity, pins, promotions, exploration.

In: the values of candidates `[R, C]`. Out: which of them are in each list, in order. A new rule is a step of
`Reranker.order` (every list) or a function of its own that the API calls (exploration).

Shapes: R requests, C candidates, K list length, N catalogue, D width, P promotions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr

from recsys.arrays import Bools, Floats, Ints
from recsys.config import ListConfig

POOL = 5
"""Candidates per position that diversity chooses from."""


@dataclass(frozen=True)
class Promotion:
    """Items that get positions by rule."""

    members: Bools
    """`[N]`, or `[C]` of one request's candidates."""
    share: float = 0.0
    """Of the first n positions, for each n, the least share that members hold, rounded down."""
    within: int = 0
    """How many positions at the top have a member among them; 0 for no such rule."""

    def demand(self, k: int) -> Ints:
        """Return how many of the first n positions members are to hold, `[k]` for n from 1."""
        counts = np.arange(1, k + 1)
        by_share = np.floor(self.share * counts + 1e-9).astype(np.int64)
        return by_share + (counts >= self.within) if self.within else by_share


@dataclass(frozen=True)
class ListRules:
    """The rules of a scenario for one catalogue."""

    name: str
    """The rules as text; rules with equal names are equal for a catalogue."""
    per_brand: int | None = field(default=None, compare=False)
    """In place of the configuration's; 0 for no limit."""
    per_category: int | None = field(default=None, compare=False)
    factors: Floats | None = field(default=None, compare=False)
    """`[N]` by which scores are multiplied."""
    pins: Mapping[int, int] = field(default_factory=dict, compare=False)
    """Item by position, from 0."""
    promotions: tuple[Promotion, ...] = field(default=(), compare=False)

    def placed(self, items: Ints) -> Bools:
        """Return which of `items` `[K]` have their positions by a pin or a promotion, and are not to be explored."""
        placed = np.array([self.pins.get(position) == item for position, item in enumerate(items.tolist())], bool)
        for promotion in self.promotions:
            placed |= promotion.members[items]
        return placed


@dataclass(frozen=True)
class Reranker:
    """Orders candidates by value under the rules of the configuration, or of a scenario."""

    rules: ListConfig

    def order(
        self,
        values: Floats,
        candidates: Ints,
        *,
        k: int,
        vectors: Floats,
        brands: Ints,
        categories: Ints,
        diversity: float | None = None,
        scenario: ListRules | None = None,
    ) -> Ints:
        """Return the columns `[R, K]` of `values` `[R, C]` that make each list, best first, -1 padded.

        `vectors` `[N, D]`, `brands` and `categories` `[N]` are those of the catalogue; `diversity` and the rules of a
        `scenario` are the configuration's by default. Pins and promoted items are among the candidates.
        """
        rules = scenario or ListRules("")
        diversity = self.rules.diversity if diversity is None else diversity
        limits = [
            (brands, self.rules.per_brand if rules.per_brand is None else rules.per_brand),
            (categories, self.rules.per_category if rules.per_category is None else rules.per_category),
        ]
        capped = [(codes, most) for codes, most in limits if most]
        if not (diversity or capped or rules.pins or rules.promotions):
            return by_value(values, k)
        columns = np.full((len(values), k), -1, np.int64)
        for row, items in enumerate(candidates):
            chosen = arranged(
                values[row],
                vectors[items],
                k=k,
                diversity=diversity,
                caps=[(codes[items], most) for codes, most in capped],
                pins=_columns_of(rules.pins, items),
                promotions=[Promotion(each.members[items], each.share, each.within) for each in rules.promotions],
            )
            columns[row, : len(chosen)] = chosen
        return columns


def by_value(values: Floats, k: int) -> Ints:
    """Return the columns `[R, K]` of the k largest `values` `[R, C]`, best first, -1 padded; -inf marks what is not a candidate."""
    columns = np.full((len(values), k), -1, np.int64)
    order = np.argsort(-values, axis=1, kind="stable")[:, :k]
    columns[:, : order.shape[1]] = np.where(np.isfinite(np.take_along_axis(values, order, 1)), order, -1)
    return columns


def arranged(
    values: Floats,
    vectors: Floats,
    *,
    k: int,
    diversity: float = 0.0,
    caps: Sequence[tuple[Ints, int]] = (),
    pins: Mapping[int, int] | None = None,
    promotions: Sequence[Promotion] = (),
) -> NDArray[np.intp]:
    """Return the indexes `[≤ k]` of a list among `values` `[C]`, chosen one position after the other from the top.

    The next item is the one with the largest `(1 - diversity) · value - diversity · similarity`, with values scaled to
    [0, 1] and similarity the largest cosine to an item above it (Carbonell and Goldstein 1998). `vectors` `[C, D]`
    are unit vectors; -inf marks what is not a candidate. Each of `caps` has codes `[C]` (0 for none) and the most
    items of one code. `pins` are indexes by position, from 0: caps count them and do not move them. A promotion takes
    a position when what it is owed would not fit otherwise, with its best item that caps allow.
    """
    draft = _Draft(values, vectors, k, diversity, caps, pins or {}, promotions)
    return np.array([column for position in range(k) if (column := draft.next(position)) >= 0], np.intp)


class _Draft:
    """A list that is being arranged; see `arranged`."""

    def __init__(
        self,
        values: Floats,
        vectors: Floats,
        k: int,
        diversity: float,
        caps: Sequence[tuple[Ints, int]],
        pins: Mapping[int, int],
        promotions: Sequence[Promotion],
    ) -> None:
        self.vectors, self.diversity, self.pins, self.caps = vectors, diversity, pins, caps
        self.relevance, self.pool = _relevance(values, POOL * k)
        self.left = np.isfinite(values)
        self.similarity = np.full(len(values), -1.0 if diversity else 0.0, np.float32)
        self.counts = [np.zeros(int(codes.max(initial=0)) + 1, np.int64) for codes, _ in caps]
        self.free = np.array([position not in pins for position in range(k)], bool)
        self.members = np.array([each.members for each in promotions], bool).reshape(len(promotions), len(values))
        self.demand = np.array([each.demand(k) for each in promotions], np.int64).reshape(len(promotions), k)
        self.held = np.zeros(len(promotions), np.int64)
        for position, column in pins.items():
            if position < k:
                self._use(column)
        self.left[list(pins.values())] = False  # also below the list: a pinned item is nowhere else
        self.empty = True

    def next(self, position: int) -> int:
        """Return the item of `position`, which is the next one; -1 where none is left."""
        column = self.pins.get(position, -1)
        if column < 0:
            column = self._best(position)
            if column < 0:
                return -1
            self._use(column)
        self.held += self.members[:, column]
        if self.diversity:
            self.similarity = np.maximum(self.similarity, self.vectors @ self.vectors[column])
        self.empty = False
        return column

    def _best(self, position: int) -> int:
        eligible = self._within_caps()
        owed = self._owed(position, eligible)
        similarity = 0 if self.empty else self.similarity
        marginal = (1 - self.diversity) * self.relevance - self.diversity * similarity
        for choice in (eligible & owed, eligible & self.pool, eligible):
            if choice.any():
                return int(np.argmax(np.where(choice, marginal, -np.inf)))
        return -1

    def _within_caps(self) -> Bools:
        eligible = self.left
        for (codes, most), counts in zip(self.caps, self.counts, strict=True):
            eligible = eligible & ((codes == 0) | (counts[codes] < most))
        return eligible

    def _owed(self, position: int, eligible: Bools) -> Bools:
        """Return the items `[C]` one of which has to stand at `position`, so that every promotion gets what it is owed."""
        if not len(self.members):
            return np.zeros_like(eligible)
        most = (self.members & eligible).sum(1)  # a promotion is owed no more than there is
        owed = np.clip(self.demand[:, position:] - self.held[:, None], 0, most[:, None])  # [P, positions left]
        full = np.flatnonzero((owed.sum(0) > 0) & (owed.sum(0) >= self.free[position:].cumsum()))
        if not len(full):
            return np.zeros_like(eligible)
        urgent: Bools = self.members[owed[:, full[0]] > 0].any(0)
        return urgent

    def _use(self, column: int) -> None:
        self.left[column] = False
        for (codes, _), counts in zip(self.caps, self.counts, strict=True):
            counts[codes[column]] += 1


def _relevance(values: Floats, pool: int) -> tuple[Floats, Bools]:
    """Return `values` `[C]`, scaled so that the `pool` best span [0, 1], and which those are."""
    order = np.argsort(-values, kind="stable")
    order = order[np.isfinite(values[order])][:pool]
    inside = np.zeros(len(values), bool)
    inside[order] = True
    if not len(order):
        return np.zeros_like(values), inside
    low, high = float(values[order[-1]]), float(values[order[0]])
    return (values - low) / max(high - low, 1e-9), inside


def _columns_of(pins: Mapping[int, int], items: Ints) -> dict[int, int]:
    """Return the columns of pinned items among the candidates `items` `[C]`, by position."""
    found = {position: np.flatnonzero(items == item) for position, item in pins.items()}
    return {position: int(columns[0]) for position, columns in found.items() if len(columns)}


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
