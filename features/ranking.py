"""What the ranker knows of a candidate at the moment of a request.

In: histories, candidates and their source scores. Out: `dense` `[R, C, F]` and `categorical`
`[R, C, G]`. Everything is as of the request: the history holds earlier events only, and counts of
items look at events before the request's time.

Shapes: R requests, C candidates (-1 padded), L history positions, N catalogue, D width, E events.
"""

from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from features.histories import EventLog, Histories, offsets_of
from features.keys import SortedRuns, composite_keys
from recsys.arrays import Ints
from recsys.events import DAY_US, PURCHASE

Floats = NDArray[np.float32]
Column = NDArray[Any]
"""`[R, C]`, one feature."""

WINDOWS_DAYS = (1, 7, 30)
CATEGORICAL = ("brand", "category", "last_type")
ABSENT_AGE_DAYS = 365.0
LATEST = np.iinfo(np.int64).max


@dataclass(frozen=True)
class ItemFacts:
    """What is known of each item, and when it had events; arrays over the catalogue."""

    price: Floats
    """`[N]` log(1 + price); the median where unknown."""
    text_length: Floats
    """`[N]` log(1 + characters of title and description)."""
    brand: Ints
    """`[N]` code from 1; 0 where unknown."""
    category: Ints
    """`[N]` code from 1; 0 where unknown."""
    created: Ints
    """`[N]` microseconds; the first event's time where the data do not say, -1 for neither."""
    attributes: Floats
    """`[N, A]` numeric attributes named in the configuration."""
    event_times: Ints
    """`[E]` times of the fitted events, sorted within each item."""
    event_offsets: Ints
    """`[N + 1]` item i's times are `event_times[event_offsets[i]:event_offsets[i + 1]]`."""
    purchases: Floats
    """`[N]` log(1 + purchases)."""

    def save(self, path: Path) -> None:
        """Write all arrays to `path` (`.npz`)."""
        np.savez(path, allow_pickle=False, **{field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def load(cls, path: Path) -> "ItemFacts":
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(**{field.name: arrays[field.name] for field in fields(cls)})

    def count_before(self, items: Ints, before: Ints) -> Ints:
        """Return how many fitted events each of `items` had strictly before the times `before`."""
        moments = self._order.values
        if not len(moments) or before.min(initial=LATEST) > moments[-1]:
            return self.counts[items]
        return self._order.first_not_below(items, before) - self.event_offsets[items]

    @cached_property
    def counts(self) -> Ints:
        """`[N]` all events of each item."""
        return np.diff(self.event_offsets)

    @cached_property
    def _order(self) -> SortedRuns:
        return SortedRuns.of(np.repeat(np.arange(len(self.counts)), self.counts), self.event_times)


def fit_facts(items: pl.DataFrame, log: EventLog | None, attributes: tuple[str, ...]) -> ItemFacts:
    """MicroBatcher the facts of `items` and the events of `log`, which must precede every request."""
    happened = (log.items, log.types, log.times) if log else (np.empty(0, np.int64),) * 3
    event_items, types, times = happened
    times = times[np.lexsort((times, event_items))]
    counts = np.bincount(event_items, minlength=items.height)
    offsets = offsets_of(counts)
    first = np.where(counts > 0, np.append(times, -1)[offsets[:-1]], -1)
    created = items["created_at"].fill_null(-1).to_numpy()
    bought = np.bincount(event_items[types == PURCHASE], minlength=items.height)
    price = np.log1p(items["price"].cast(pl.Float64).to_numpy())
    known = price[np.isfinite(price)]
    median = float(np.median(known)) if len(known) else 0.0
    length = items.select(pl.col("title").str.len_chars() + pl.col("description").fill_null("").str.len_chars())
    return ItemFacts(
        price=np.where(np.isfinite(price), price, median).astype(np.float32),
        text_length=np.log1p(length.to_series().to_numpy()).astype(np.float32),
        brand=_codes(items["brand"]),
        category=_codes(items["category"]),
        created=np.where(created >= 0, created, first),
        attributes=_attributes(items, attributes),
        event_times=times,
        event_offsets=offsets,
        purchases=np.log1p(bought).astype(np.float32),
    )


def extend_facts(facts: ItemFacts, items: pl.DataFrame, changed: Ints, attributes: tuple[str, ...]) -> ItemFacts:
    """Return `facts` for `items`, whose rows `changed` differ from what was fitted or follow it.

    Brands and categories that only changed items have stay unknown to the ranker.
    """
    fresh = fit_facts(items[changed], None, attributes)
    known, total = len(facts.price), items.height
    grown = {
        name: np.resize(getattr(facts, name), (total, *getattr(facts, name).shape[1:]))
        for name in ("price", "text_length", "brand", "category", "created", "attributes")
    }
    median = np.float32(np.median(facts.price)) if known else np.float32(0)
    unpriced = items["price"][changed].fill_null(float("nan")).is_nan().to_numpy()
    grown["price"][changed] = np.where(unpriced, median, fresh.price)
    grown["text_length"][changed], grown["attributes"][changed] = fresh.text_length, fresh.attributes
    grown["created"][changed[changed >= known]] = fresh.created[changed >= known]
    fitted = np.setdiff1d(np.arange(known), changed)
    for name in ("brand", "category"):
        values = items[name][changed]
        codes = pl.DataFrame({"value": items[name][fitted], "code": getattr(facts, name)[fitted]})
        codes = codes.filter(pl.col("value").is_in(values.implode())).unique("value")
        grown[name][changed] = values.replace_strict(codes["value"], codes["code"], default=0)
    extended = replace(
        facts,
        **grown,
        event_offsets=np.pad(facts.event_offsets, (0, total - known), mode="edge"),
        purchases=np.pad(facts.purchases, (0, total - known)),
    )
    vars(extended)["_order"] = facts._order  # the events are the same, and sorting them takes longest
    return extended


@dataclass(frozen=True)
class RankingFeatures:
    """Computes features from item facts; the same code in training, evaluation, batch and API."""

    facts: ItemFacts
    has_clock: bool
    sources: tuple[str, ...]
    """Names of the candidate sources whose scores are features."""
    attributes: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """The names of the dense features, in order."""
        scores = [f"{part}_{name}" for name in self.sources for part in ("relative", "rank")]
        item = ["popularity", "purchases", "price", "text_length", *self.attributes]
        user = ["history_length", "distinct_share", "price_level"]
        pair = ["seen", "seen_back", "price_gap", "similarity_last", "similarity_mean", "similarity_best"]
        pair += ["brand_share", "category_share", "brand_last", "category_last"]
        clock = [f"popularity_{days}d" for days in WINDOWS_DAYS]
        clock += ["age", "seen_age", "last_age", "hour_sin", "hour_cos", "weekend"]
        return scores + item + user + pair + (clock if self.has_clock else [])

    def dense(self, histories: Histories, candidates: Ints, scores: dict[str, Floats], similarity: Floats) -> Floats:
        """Return `[R, C, F]` for `candidates` `[R, C]` and `scores` of each source `[R, C]`.

        `similarity` `[R, C, L]` is that of each candidate to each event of the history.
        """
        present = candidates >= 0
        items = np.where(present, candidates, 0)
        seen, place = occurrences(histories.items, items)
        columns = _score_columns([scores[name] for name in self.sources], present)
        columns += self._item(items, histories.now)
        columns += self._user(histories, items.shape)
        columns += [np.log1p(seen), np.where(seen > 0, 1 / (histories.items.shape[1] - place), 0)]
        columns += self._pair(histories, items, similarity)
        if self.has_clock:
            columns += self._clock(histories, items, place)
        dense = np.empty((*items.shape, len(columns)), np.float32)
        for number, column in enumerate(columns):
            dense[:, :, number] = column
        return dense

    def categorical(self, histories: Histories, candidates: Ints) -> Ints:
        """Return codes `[R, C, 3]` of brand, category and the type of the user's last event."""
        items = np.where(candidates >= 0, candidates, 0)
        last = histories.types[:, -1].astype(np.int64) + 1 if histories.items.shape[1] else 0
        last = np.where(histories.items[:, -1] >= 0, last, 0)
        return np.stack(
            [self.facts.brand[items], self.facts.category[items], np.broadcast_to(last[:, None], items.shape)], axis=-1
        )

    def _item(self, items: Ints, now: Ints) -> list[Column]:
        facts = self.facts
        if self.has_clock:
            counts = facts.count_before(items, np.broadcast_to(now[:, None], items.shape))
        else:  # ordinal times of different users do not compare
            counts = facts.counts[items]
        popularity = np.log1p(counts)
        attributes = [facts.attributes[items, column] for column in range(len(self.attributes))]
        return [popularity, facts.purchases[items], facts.price[items], facts.text_length[items], *attributes]

    def _user(self, histories: Histories, shape: tuple[int, ...]) -> list[Column]:
        length, ordered = histories.lengths, np.sort(histories.items, axis=1)
        changes = (np.diff(ordered, axis=1, prepend=-1) > 0).sum(1)
        columns = [np.log1p(length), changes / np.maximum(length, 1), self._price_level(histories)]
        return [np.broadcast_to(column[:, None], shape) for column in columns]

    def _price_level(self, histories: Histories) -> NDArray[np.float32]:
        known = histories.items >= 0
        prices, _, _ = self._facts_of_past
        total = np.where(known, prices[histories.items], 0).sum(1)
        return (total + prices[-1]) / (known.sum(1) + 1)

    @cached_property
    def _facts_of_past(self) -> tuple[Floats, Ints, Ints]:
        """Price, brand and category of what can stand in a history: the items, and a typed sentence `[N + 1]`."""
        facts = self.facts
        median = np.float32(np.median(facts.price)) if len(facts.price) else np.float32(0)
        return np.append(facts.price, median), np.append(facts.brand, 0), np.append(facts.category, 0)

    def _pair(self, histories: Histories, items: Ints, similarity: Floats) -> list[Column]:
        """Compare items `[R, C]` to histories, to whose events they have the `similarity` `[R, C, L]`."""
        facts, past = self.facts, histories.items
        _, brands, categories = self._facts_of_past
        known = past >= 0
        count = np.maximum(histories.lengths, 1)[:, None]
        best = np.where(known[:, None, :], similarity, -1).max(2)
        groups = []
        for codes, wanted in ((brands, facts.brand[items]), (categories, facts.category[items])):
            named = np.where(known & (codes[past] > 0), codes[past], -1)  # [R, L]
            groups.append((occurrences(named, wanted)[0] / count, named[:, -1:] == wanted))
        return [
            facts.price[items] - self._price_level(histories)[:, None],
            np.where(known[:, None, -1], similarity[:, :, -1], 0),
            (similarity @ known[:, :, None].astype(np.float32))[..., 0] / count,
            np.where(histories.lengths[:, None] > 0, best, 0),
            *(share for share, _ in groups),
            *(last for _, last in groups),
        ]

    def _clock(self, histories: Histories, items: Ints, place: Ints) -> list[Column]:
        """Tell ages and hours; `place` `[R, C]` is where each item stands last in the history, -1 for nowhere."""
        facts, now = self.facts, np.broadcast_to(histories.now[:, None], items.shape)
        before = facts.count_before(items, now)
        windows = [np.log1p(before - facts.count_before(items, now - days * DAY_US)) for days in WINDOWS_DAYS]
        age = np.where(facts.created[items] >= 0, (now - facts.created[items]) / DAY_US, ABSENT_AGE_DAYS)
        last_seen = np.take_along_axis(histories.times, np.maximum(place, 0), axis=1)
        seen_age = np.where(place >= 0, (now - last_seen) / DAY_US, ABSENT_AGE_DAYS)
        known = histories.items[:, -1] >= 0
        last_age = np.where(known, (histories.now - histories.times[:, -1]) / DAY_US, ABSENT_AGE_DAYS)
        hour = histories.now / DAY_US % 1 * 2 * np.pi
        weekend = (histories.now // DAY_US + 3) % 7 >= 5  # 1970-01-01 was a Thursday
        moment = [np.log1p(np.maximum(last_age, 0)), np.sin(hour), np.cos(hour), weekend]
        return [
            *windows,
            np.log1p(np.maximum(age, 0)),
            np.log1p(np.maximum(seen_age, 0)),
            *(np.broadcast_to(column[:, None], items.shape) for column in moment),
        ]


def occurrences(past: NDArray[np.integer], wanted: Ints) -> tuple[Ints, Ints]:
    """Return how often each of `wanted` `[R, C]` stands in its row of `past` `[R, L]`, and the last place where.

    -1 in `past` is nothing; the place is -1 for what is not there.
    """
    base = int(max(past.max(initial=0), wanted.max(initial=0))) + 1
    rows, places = np.nonzero(past >= 0)
    keys = composite_keys(rows, past[rows, places], base)
    order = np.argsort(keys, kind="stable")
    asked = composite_keys(np.arange(len(wanted))[:, None], wanted, base)
    stops = np.searchsorted(keys[order], asked, side="right")
    counts = stops - np.searchsorted(keys[order], asked, side="left")
    return counts, np.where(counts > 0, np.append(places[order], -1)[stops - 1], -1)


def _score_columns(scores: list[Floats], present: NDArray[np.bool_]) -> list[Column]:
    """Return each score's z-score among the request's candidates, and its reciprocal rank.

    The score itself is left out: its level shifts with every fit of the source.
    """
    if not scores:
        return []
    count = np.maximum(present.sum(1, keepdims=True), 1)
    kept = np.where(present, np.stack(scores), 0)  # [S, R, C]
    mean = kept.sum(2, keepdims=True) / count
    deviation = np.sqrt((np.where(present, kept - mean, 0) ** 2).sum(2, keepdims=True) / count)
    relative = np.where(present, (kept - mean) / (deviation + 1e-6), 0)
    order = np.argsort(-np.where(present, kept, -np.inf), axis=2, kind="stable")
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(order.shape[2]), axis=2)
    # Items that a source does not know score 0 and share its last place.
    reciprocal = np.where(kept != 0, 1 / (1 + ranks), 0)
    return [column for pair in zip(relative, reciprocal, strict=True) for column in pair]


def _codes(column: pl.Series) -> Ints:
    """Return codes from 1 by first appearance, 0 for null or empty."""
    filled = column.fill_null("").cast(pl.String)
    seen = filled.filter(filled != "").unique(maintain_order=True)
    places = pl.DataFrame({"value": seen, "code": np.arange(1, len(seen) + 1)})
    joined = pl.DataFrame({"value": filled}).join(places, on="value", how="left", maintain_order="left")
    return joined["code"].fill_null(0).to_numpy()


def _attributes(items: pl.DataFrame, names: tuple[str, ...]) -> Floats:
    columns = [items[name].cast(pl.Float32).fill_null(0).fill_nan(0).to_numpy() for name in names]
    return np.stack(columns, axis=1) if columns else np.empty((items.height, 0), np.float32)
