"""What the ranker knows of a candidate at the moment of a request.

In: histories, candidates and their source scores. Out: `dense` `[R, C, F]` and `categorical`
`[R, C, G]`. Everything is as of the request: the history holds earlier events only, and counts of
items look at events before the request's time.

A new feature is one entry of `ITEM`, `USER`, `PAIR`, `ATTRIBUTES`, `CLOCK`, `OPINION`, `SESSION` or `CATEGORICAL`: its name and the function that
computes its column from `FeatureInputs`. Columns of context and attributes that the configuration names come after them.

Shapes: R requests, C candidates (-1 padded), L history positions, N catalogue, S sources, E events.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.context import ContextColumn, ContextColumns
from features.facts import ItemFacts
from features.histories import Histories
from features.keys import composite_keys
from features.opinions import ItemOpinions
from recsys.arrays import Bools, Floats, Ints
from recsys.errors import RecsysError
from recsys.events import DAY_US

Column = NDArray[Any]
"""One feature: `[R, C]`, or `[R, 1]` where it is the same for all candidates of a request."""

ABSENT_AGE_DAYS = 365.0
MINUTE_US = 60_000_000
TREND_DAYS = 30
"""Of which the opinion is set against that of all days before."""

SIMILARITY_DECIMALS = 5
"""An item's similarity to itself is 1 but for digits that depend on the batch; trees would split between them."""

RECENCY_DECAY = np.float32(0.85)
"""Weight of a history event against the one after it."""


@dataclass(frozen=True)
class FeatureInputs:
    """What the features of R requests' candidates are computed from; shared intermediate results are computed once."""

    facts: ItemFacts
    has_clock: bool
    histories: Histories
    present: Bools
    """`[R, C]`, False where padded."""
    items: Ints
    """`[R, C]` candidates; 0 where padded."""
    scores: Mapping[str, Floats]
    """`[R, C]` by source."""
    similarity: Floats
    """`[R, C, L]` of each candidate to each event of the history."""
    taste_similarity: Floats
    """`[R, C, L]` the same of their taste vectors."""
    same_category: Bools
    """`[R, C, L]` whether candidate and event have one known category."""

    @cached_property
    def attribute_similarity(self) -> Floats:
        """`[R, C, L]` cosine of the attributes of each candidate and each event of the history."""
        vectors = self.facts.attribute_vectors
        return vectors[self.items] @ vectors[self.histories.items].transpose(0, 2, 1)

    @property
    def opinions(self) -> ItemOpinions:
        """What texts say of the items, where there is any."""
        assert self.facts.opinions
        return self.facts.opinions

    @property
    def now(self) -> Ints:
        """`[R, 1]` the moment of each request."""
        return self.histories.now[:, None]

    @cached_property
    def known(self) -> Bools:
        """`[R, L]`, False where the history is padded."""
        return self.histories.items >= 0

    @cached_property
    def length(self) -> Ints:
        """`[R, 1]` events of each history."""
        return self.histories.lengths[:, None]

    @cached_property
    def popularity(self) -> Ints:
        """`[R, C]` events of each candidate before the request; without a clock all events, because ordinals are not comparable."""
        return self.events_before(0) if self.has_clock else self.facts.events.counts[self.items]

    def events_before(self, days: int) -> Ints:
        """Return the events `[R, C]` of each candidate that lie more than `days` before the request."""
        return self.facts.count_before(self.items, self.now - days * DAY_US)

    @cached_property
    def seen(self) -> tuple[Ints, Ints]:
        """How often `[R, C]` each candidate is in the history, and its last position there, -1 for none."""
        return occurrences(self.histories.items, self.items)

    @cached_property
    def distinct_share(self) -> Column:
        """`[R, 1]` distinct items of each history, as a share of its events."""
        changes = (np.diff(np.sort(self.histories.items, axis=1), axis=1, prepend=-1) > 0).sum(1, keepdims=True)
        return changes / np.maximum(self.length, 1)

    @cached_property
    def price_level(self) -> Column:
        """`[R, 1]` mean price of the history, smoothed by one event at the median price."""
        prices, _, _ = self.facts.of_past
        total = np.where(self.known, prices[self.histories.items], 0).sum(1, keepdims=True)
        return (total + prices[-1]) / (self.length + 1)

    @cached_property
    def brand(self) -> tuple[Column, Column]:
        """Share `[R, C]` of the history with the candidate's brand, and whether the last event has it."""
        return self._agreement(self.facts.of_past[1], self.facts.brand)

    @cached_property
    def category(self) -> tuple[Column, Column]:
        """Share `[R, C]` of the history with the candidate's category, and whether the last event has it."""
        return self._agreement(self.facts.of_past[2], self.facts.category)

    @cached_property
    def in_session(self) -> Bools:
        """`[R, L]` the events of the history that are of the request's session."""
        within = self.histories.in_session
        return np.zeros(self.known.shape, bool) if within is None else within

    def session_share(self, past_codes: Ints, codes: Ints) -> Column:
        """Return the share `[R, C]` of the session's events that have the candidate's code."""
        past = past_codes[self.histories.items]
        named = np.where(self.in_session & (past > 0), past, -1)
        return occurrences(named, codes[self.items])[0] / np.maximum(self.in_session.sum(1, keepdims=True), 1)

    @cached_property
    def session_minutes(self) -> Column:
        """`[R, 1]` since the first event of the session; 0 where there is none."""
        within = self.in_session
        first = np.take_along_axis(self.histories.times, within.argmax(1)[:, None], axis=1)
        return np.where(within.any(1, keepdims=True), (self.now - first) / MINUTE_US, 0)

    @cached_property
    def recency(self) -> Floats:
        """`[R, L]` weights of the history's events, the latest counting most; they sum to 1."""
        weights = RECENCY_DECAY ** np.arange(self.known.shape[1], dtype=np.float32)[::-1] * self.known
        return weights / np.maximum(weights.sum(1, keepdims=True), 1e-6)

    def _agreement(self, past_codes: Ints, codes: Ints) -> tuple[Column, Column]:
        past, own = past_codes[self.histories.items], codes[self.items]
        named = np.where(self.known & (past > 0), past, -1)  # [R, L]
        return occurrences(named, own)[0] / np.maximum(self.length, 1), named[:, -1:] == own

    @cached_property
    def standardised(self) -> dict[str, Column]:
        """Each source's score as a z-score among the request's candidates; the level itself shifts with every fit."""
        count = np.maximum(self.present.sum(1, keepdims=True), 1)
        kept = self._kept_scores  # [S, R, C]
        mean = kept.sum(2, keepdims=True) / count
        deviation = np.sqrt((np.where(self.present, kept - mean, 0) ** 2).sum(2, keepdims=True) / count)
        relative = np.where(self.present, (kept - mean) / (deviation + 1e-6), 0)
        return dict(zip(self.scores, relative, strict=True))

    @cached_property
    def reciprocal_ranks(self) -> dict[str, Column]:
        """1 / rank of each candidate by a source's score; 0 for those that it does not know, which share score 0."""
        kept = self._kept_scores
        order = np.argsort(-np.where(self.present, kept, -np.inf), axis=2, kind="stable")
        ranks = np.empty_like(order)
        np.put_along_axis(ranks, order, np.arange(order.shape[2]), axis=2)
        return dict(zip(self.scores, np.where(kept != 0, 1 / (1 + ranks), 0), strict=True))

    @cached_property
    def _kept_scores(self) -> Floats:
        scores = np.stack(list(self.scores.values())) if self.scores else np.empty((0, *self.items.shape), np.float32)
        return np.where(self.present, scores, 0)

    @cached_property
    def last_seen_age(self) -> Column:
        """`[R, C]` days since the candidate's last event in the history."""
        _, position = self.seen
        times = np.take_along_axis(self.histories.times, np.maximum(position, 0), axis=1)
        return np.where(position >= 0, (self.now - times) / DAY_US, ABSENT_AGE_DAYS)

    @cached_property
    def hour_angle(self) -> Column:
        """`[R, 1]` the time of the day (UTC) as an angle."""
        return self.now / DAY_US % 1 * 2 * np.pi


Feature = Callable[[FeatureInputs], Column]


def _number(column: ContextColumn) -> Feature:
    return lambda inputs: column.numbers(inputs.histories.named, len(inputs.histories))


def _code(column: ContextColumn) -> Feature:
    return lambda inputs: column.codes(inputs.histories.named, len(inputs.histories))


def _seen_back(inputs: FeatureInputs) -> Column:
    """1 for the latest event of the history, 1/2 for the one before …; 0 for what is not in it."""
    count, position = inputs.seen
    return np.where(count > 0, 1 / (inputs.histories.items.shape[1] - position), 0)


def _similarity_last(inputs: FeatureInputs) -> Column:
    return np.where(inputs.known[:, None, -1], inputs.similarity[:, :, -1].round(SIMILARITY_DECIMALS), 0)


def _similarity_mean(inputs: FeatureInputs) -> Column:
    total = (inputs.similarity @ inputs.known[:, :, None].astype(np.float32))[..., 0]
    return total / np.maximum(inputs.length, 1)


def _similarity_best(inputs: FeatureInputs) -> Column:
    best = np.where(inputs.known[:, None, :], inputs.similarity, -1).max(2)
    return np.where(inputs.length > 0, best.round(SIMILARITY_DECIMALS), 0)


def _taste_mean(inputs: FeatureInputs) -> Column:
    return (inputs.taste_similarity @ inputs.recency[:, :, None])[..., 0]


def _taste_category(inputs: FeatureInputs) -> Column:
    """The products of taste with the history's events of the candidate's category, the latest counting most."""
    return (np.where(inputs.same_category, inputs.taste_similarity, 0) @ inputs.recency[:, :, None])[..., 0]


def _taste_best(inputs: FeatureInputs) -> Column:
    """The best match of taste with an event of the candidate's category; 0 without one."""
    best = np.where(inputs.same_category, inputs.taste_similarity, -np.inf).max(2)
    return np.where(np.isfinite(best), best.round(SIMILARITY_DECIMALS), 0)


def _attribute_mean(inputs: FeatureInputs) -> Column:
    return (inputs.attribute_similarity @ inputs.recency[:, :, None])[..., 0]


def _attribute_category(inputs: FeatureInputs) -> Column:
    """The cosines of attributes with the history's events of the candidate's category, the latest counting most."""
    return (np.where(inputs.same_category, inputs.attribute_similarity, 0) @ inputs.recency[:, :, None])[..., 0]


def _attribute_best(inputs: FeatureInputs) -> Column:
    """The nearest attributes of an event of the candidate's category; 0 without one."""
    best = np.where(inputs.same_category, inputs.attribute_similarity, -np.inf).max(2)
    return np.where(np.isfinite(best), best.round(SIMILARITY_DECIMALS), 0)


def _events_within(days: int) -> Feature:
    return lambda inputs: np.log1p(inputs.popularity - inputs.events_before(days))


def _age(inputs: FeatureInputs) -> Column:
    created = inputs.facts.appeared[inputs.items]
    known = (created >= 0) & (created <= inputs.now)
    return _log_days(np.where(known, (inputs.now - created) / DAY_US, ABSENT_AGE_DAYS))


def _last_age(inputs: FeatureInputs) -> Column:
    days = (inputs.now - inputs.histories.times[:, -1:]) / DAY_US
    return _log_days(np.where(inputs.known[:, -1:], days, ABSENT_AGE_DAYS))


def _log_days(days: Column) -> Column:
    return np.log1p(np.maximum(days, 0))


def _last_type(inputs: FeatureInputs) -> Column:
    """The type code of the user's last event plus 1; 0 without one."""
    last = inputs.histories.types[:, -1:].astype(np.int64) + 1
    return np.where(inputs.known[:, -1:], last, 0)


ITEM: dict[str, Feature] = {
    "popularity": lambda inputs: np.log1p(inputs.popularity),
    "purchases": lambda inputs: inputs.facts.all_purchases[inputs.items],
    "price": lambda inputs: inputs.facts.price[inputs.items],
    "text_length": lambda inputs: inputs.facts.text_length[inputs.items],
}
USER: dict[str, Feature] = {
    "history_length": lambda inputs: np.log1p(inputs.length),
    "distinct_share": lambda inputs: inputs.distinct_share,
    "price_level": lambda inputs: inputs.price_level,
}
PAIR: dict[str, Feature] = {
    "seen": lambda inputs: np.log1p(inputs.seen[0]),
    "seen_back": _seen_back,
    "price_gap": lambda inputs: inputs.facts.price[inputs.items] - inputs.price_level,
    "similarity_last": _similarity_last,
    "similarity_mean": _similarity_mean,
    "similarity_best": _similarity_best,
    "taste_mean": _taste_mean,
    "taste_category": _taste_category,
    "taste_best": _taste_best,
    "brand_share": lambda inputs: inputs.brand[0],
    "category_share": lambda inputs: inputs.category[0],
    "brand_last": lambda inputs: inputs.brand[1],
    "category_last": lambda inputs: inputs.category[1],
}
ATTRIBUTES: dict[str, Feature] = {
    "attribute_mean": _attribute_mean,
    "attribute_category": _attribute_category,
    "attribute_best": _attribute_best,
}
"""Features of several attributes at once, where `ranker.attributes` names them."""
CLOCK: dict[str, Feature] = {
    "popularity_1d": _events_within(1),
    "popularity_7d": _events_within(7),
    "popularity_30d": _events_within(30),
    "age": _age,
    "seen_age": lambda inputs: _log_days(inputs.last_seen_age),
    "last_age": _last_age,
    "hour_sin": lambda inputs: np.sin(inputs.hour_angle),
    "hour_cos": lambda inputs: np.cos(inputs.hour_angle),
    "weekend": lambda inputs: (inputs.now // DAY_US + 3) % 7 >= 5,  # 1970-01-01 was a Thursday
}
"""Features that need a clock's times."""
OPINION: dict[str, Feature] = {
    "opinion": lambda inputs: inputs.opinions.mean_before(inputs.items, inputs.now),
    "opinion_count": lambda inputs: np.log1p(inputs.opinions.before(inputs.items, inputs.now)[0]),
}
"""Features of what texts of events say of items, where `ranker.opinion` names their column."""
OPINION_CLOCK: dict[str, Feature] = {
    "opinion_trend": lambda inputs: inputs.opinions.trend(inputs.items, inputs.now, TREND_DAYS * DAY_US)
}
"""Those of them that need a clock's times."""
SESSION: dict[str, Feature] = {
    "session_events": lambda inputs: np.log1p(inputs.in_session.sum(1, keepdims=True)),
    "session_brand_share": lambda inputs: inputs.session_share(inputs.facts.of_past[1], inputs.facts.brand),
    "session_category_share": lambda inputs: inputs.session_share(inputs.facts.of_past[2], inputs.facts.category),
}
"""Features of the session in which the request is made, where `ranker.context` names it."""
SESSION_CLOCK: dict[str, Feature] = {"session_age": lambda inputs: np.log1p(np.maximum(inputs.session_minutes, 0))}
"""Those of them that need a clock's times."""
CATEGORICAL: dict[str, Feature] = {
    "brand": lambda inputs: inputs.facts.brand[inputs.items],
    "category": lambda inputs: inputs.facts.category[inputs.items],
    "last_type": _last_type,
}
"""Features that are codes."""
NAMED = ITEM | USER | PAIR | ATTRIBUTES | CLOCK | OPINION | OPINION_CLOCK | SESSION | SESSION_CLOCK | CATEGORICAL
"""All features but those of sources, and columns of items, events and users."""


@dataclass(frozen=True)
class RankingFeatures:
    """Computes features from item facts; the same code in training, evaluation, batch and API."""

    facts: ItemFacts
    has_clock: bool
    sources: tuple[str, ...]
    """Names of the scores that are features."""
    attributes: tuple[str, ...]

    fitted: tuple[str, ...] | None = None
    """Names of the features that the ranker was fitted on; None for all that this version computes."""
    context: ContextColumns = field(default_factory=ContextColumns)
    """The columns of context and of users' attributes that are features."""

    @cached_property
    def columns(self) -> dict[str, Feature]:
        """The dense features by name, in the order in which the ranker gets them."""
        columns = self._known_columns()
        return columns if self.fitted is None else {name: columns[name] for name in self.fitted}

    def restricted(self, names: Sequence[str]) -> "RankingFeatures":
        """Return the features `names` alone, for a ranker that was fitted on them.

        Raises:
            RecsysError: this version does not compute one of them.
        """
        unknown = [name for name in names if name not in self.columns]
        if unknown:
            raise RecsysError(
                f"{len(unknown)} of {len(names)} ranking features of the model are unknown to this version, "
                f"for example {unknown[0]}; train the model again"
            )
        return replace(self, fitted=tuple(names))

    def _known_columns(self) -> dict[str, Feature]:
        columns: dict[str, Feature] = {}
        for name in self.sources:
            columns[f"relative_{name}"] = lambda inputs, name=name: inputs.standardised[name]  # type: ignore[misc]
            columns[f"rank_{name}"] = lambda inputs, name=name: inputs.reciprocal_ranks[name]  # type: ignore[misc]
        columns |= ITEM
        for index, name in enumerate(self.attributes):
            columns[name] = lambda inputs, index=index: inputs.facts.attributes[inputs.items, index]  # type: ignore[misc]
        several = ATTRIBUTES if len(self.attributes) > 1 else {}
        columns = columns | USER | PAIR | several | (CLOCK if self.has_clock else {})
        if self.facts.opinions:
            columns |= OPINION | (OPINION_CLOCK if self.has_clock else {})
        if self.context.sessions:
            columns |= SESSION | (SESSION_CLOCK if self.has_clock else {})
        return columns | {name: _number(column) for name, column in self.context.numbers.items()}

    @cached_property
    def codes(self) -> dict[str, Feature]:
        """The features that are codes by name, in the order in which the ranker gets them."""
        return CATEGORICAL | {name: _code(column) for name, column in self.context.texts.items()}

    @property
    def names(self) -> list[str]:
        """The names of the dense features, in order."""
        return list(self.columns)

    def inputs(
        self,
        histories: Histories,
        candidates: Ints,
        scores: Mapping[str, Floats],
        similarity: Floats,
        taste_similarity: Floats,
        same_category: Bools,
    ) -> FeatureInputs:
        """Return what the features of `candidates` `[R, C]` (-1 padded) are computed from.

        `scores` are those of each source, `[R, C]`; the others, `[R, C, L]`, hold of each candidate and each event of
        the history.
        """
        present = candidates >= 0
        known_scores = {name: scores[name] for name in self.sources}
        items = np.where(present, candidates, 0)
        return FeatureInputs(
            self.facts,
            self.has_clock,
            histories,
            present,
            items,
            known_scores,
            similarity=similarity,
            taste_similarity=taste_similarity,
            same_category=same_category,
        )

    def dense(self, inputs: FeatureInputs) -> Floats:
        """Return the dense features `[R, C, F]`."""
        dense = np.empty((len(self.columns), *inputs.items.shape), np.float32)  # a column in one piece is quicker
        for index, column in enumerate(self.columns.values()):
            dense[index] = column(inputs)
        return np.moveaxis(dense, 0, 2)

    def categorical(self, inputs: FeatureInputs) -> Ints:
        """Return the codes `[R, C, G]`."""
        codes = np.empty((len(self.codes), *inputs.items.shape), np.int64)
        for index, column in enumerate(self.codes.values()):
            codes[index] = column(inputs)
        return np.moveaxis(codes, 0, 2)


def occurrences(past: NDArray[np.integer], items: Ints) -> tuple[Ints, Ints]:
    """Return how often each of `items` `[R, C]` is in its row of `past` `[R, L]`, and its last position there.

    -1 pads `past`; absent items get the position -1.
    """
    base = int(max(past.max(initial=0), items.max(initial=0))) + 1
    rows, positions = np.nonzero(past >= 0)
    keys = composite_keys(rows, past[rows, positions], base)
    order = np.argsort(keys, kind="stable")
    sought = composite_keys(np.arange(len(items))[:, None], items, base)
    stops = np.searchsorted(keys[order], sought, side="right")
    counts = stops - np.searchsorted(keys[order], sought, side="left")
    return counts, np.where(counts > 0, np.append(positions[order], -1)[stops - 1], -1)
