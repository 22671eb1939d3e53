"""What is known of each item, and when it had events: what ranking features look up.

In: the catalogue, and a log of events that precede every request. Out: `ItemFacts`, arrays over the catalogue.

Shapes: N catalogue, A attributes, E events, R requests, C candidates.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from features.histories import EventLog
from features.keys import SortedRuns
from features.opinions import ItemOpinions, fit_opinions
from features.recent import RecentEvents
from recsys.arrays import Floats, Ints, grow, offsets_of
from recsys.errors import RecsysError, suggest
from recsys.events import PURCHASE

LATEST = np.iinfo(np.int64).max
KEPT_MOMENTS = 4
"""Moments before which the events of all items stay counted: that of a request, and those of the features' windows."""
ARRAYS = ("price", "text_length", "brand", "category", "created", "attributes", "purchases")
"""What a bundle keeps of `ItemFacts`, besides the events."""


@dataclass(frozen=True)
class ItemEvents:
    """When each item of a catalogue had events."""

    offsets: Ints
    """`[N + 1]` item i has the events `offsets[i]:offsets[i + 1]`."""
    runs: SortedRuns
    """The events by item and time; they do not change when items are added."""

    @classmethod
    def of(cls, times: Ints, offsets: Ints) -> "ItemEvents":
        """Return the events at `times` `[E]`, which ascend within each item."""
        return cls(offsets, SortedRuns.of(np.repeat(np.arange(len(offsets) - 1), np.diff(offsets)), times))

    @property
    def times(self) -> Ints:
        """`[E]`, ascending within each item."""
        return self.runs.values_of_entries()

    @property
    def newest(self) -> int:
        """The time of the latest event; 0 where there is none."""
        return int(self.runs.values[-1]) if len(self.runs.values) else 0

    @cached_property
    def counts(self) -> Ints:
        """`[N]` all events of each item."""
        return np.diff(self.offsets)

    @cached_property
    def first(self) -> Ints:
        """`[N]` the time of each item's first event; -1 where it had none."""
        had, first = self.counts > 0, np.full(len(self.counts), -1)
        first[had] = self.runs.values_of_entries(self.offsets[:-1][had])
        return first

    def count_before(self, items: Ints, before: Ints) -> Ints:
        """Return how many events each of `items` `[R, C]` had strictly before the times `before` `[R, 1]` of the requests."""
        first = int(before.min(initial=LATEST))
        if first > self.newest:
            return self.counts[items]
        if len(before) > 1 and first == before.max():
            return self._counts_before(first)[items]
        return self.runs.first_not_below(items, before) - self.offsets[items]

    @cached_property
    def _counts_before(self) -> Callable[[int], Ints]:
        """Return the counts `[N]` before a moment; they are kept for some, since lists in batches are for one moment."""
        everything = np.arange(len(self.offsets) - 1)
        return lru_cache(KEPT_MOMENTS)(lambda moment: self.runs.first_not_below(everything, moment) - self.offsets[:-1])

    def grown(self, items: int) -> "ItemEvents":
        """Return the same events in a catalogue of `items` items; those at its end had none."""
        return replace(self, offsets=grow(self.offsets, items + 1, fill=self.offsets[-1]))


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
    """`[N]` microseconds; the time of the first event if missing, -1 if there is none either."""
    attributes: Floats
    """`[N, A]` numeric attributes named in the configuration."""
    purchases: Floats
    """`[N]` log(1 + purchases)."""
    events: ItemEvents
    """The fitted events."""
    recent: ItemEvents | None = None
    """Those since the fit, where they are followed (see `with_recent`)."""
    recent_purchases: Ints | None = None
    """`[N]` the purchases among them."""
    opinions: ItemOpinions | None = None
    """What texts of events say, where the configuration names their column."""

    def save(self, path: Path) -> None:
        """Write all arrays to `path` (`.npz`)."""
        arrays = {name: getattr(self, name) for name in ARRAYS}
        events = {"event_times": self.events.times, "event_offsets": self.events.offsets}
        opinions = self.opinions.arrays() if self.opinions else {}
        np.savez(path, allow_pickle=False, **arrays, **events, **opinions)

    @classmethod
    def load(cls, path: Path) -> "ItemFacts":
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as saved:
            arrays = {name: saved[name] for name in ARRAYS}
            events = ItemEvents.of(saved["event_times"], saved["event_offsets"])
            return cls(**arrays, events=events, opinions=ItemOpinions.of_arrays(saved))

    def with_recent(self, recent: RecentEvents) -> "ItemFacts":
        """Return the facts of the fit and of the events since."""
        new, count = recent.new, len(self.price)
        items, times = recent.items[new], recent.times[new]
        order = np.lexsort((times, items))
        events = ItemEvents.of(times[order], offsets_of(np.bincount(items, minlength=count)))
        bought = np.bincount(items[recent.types[new] == PURCHASE], minlength=count)
        opinions = self.opinions
        if opinions:
            later = ItemOpinions.of(items, times, recent.opinions[new], count)
            opinions = replace(opinions, recent=later)
        return replace(self, recent=events, recent_purchases=bought, opinions=opinions)

    @cached_property
    def all_purchases(self) -> Floats:
        """`[N]` log(1 + purchases), those since the fit among them."""
        if self.recent_purchases is None:
            return self.purchases
        return np.log1p(np.expm1(self.purchases) + self.recent_purchases).astype(np.float32)

    @cached_property
    def appeared(self) -> Ints:
        """`[N]` microseconds: the creation, else the first event; -1 if there is neither."""
        return np.where(self.created >= 0, self.created, self.recent.first) if self.recent else self.created

    @cached_property
    def counts(self) -> Ints:
        """`[N]` all events of each item."""
        return self.events.counts + self.recent.counts if self.recent else self.events.counts

    def count_before(self, items: Ints, before: Ints) -> Ints:
        """Return how many events each of `items` `[R, C]` had strictly before the times `before` `[R, 1]` of the requests."""
        count = self.events.count_before(items, before)
        return count + self.recent.count_before(items, before) if self.recent else count

    @cached_property
    def since(self) -> Ints:
        """`[N]` microseconds since which each item exists; -1 for always: without a creation, or with events before it."""
        first = self.events.first
        return np.where((first >= 0) & (self.created >= first), -1, self.created)

    @cached_property
    def median_price(self) -> np.float32:
        """The price that replaces an unknown one, as log(1 + price)."""
        return np.float32(np.median(self.price)) if len(self.price) else np.float32(0)

    @cached_property
    def attribute_vectors(self) -> Floats:
        """`[N + 1, A]` the attributes of every possible history entry as unit vectors, each in deviations from its mean; 0 for a typed sentence."""
        centred = self.attributes - self.attributes.mean(0)
        scaled = centred / np.maximum(self.attributes.std(0), 1e-6)
        unit = scaled / np.maximum(np.linalg.norm(scaled, axis=1, keepdims=True), 1e-6)
        return np.append(unit, np.zeros((1, unit.shape[1]), np.float32), axis=0).astype(np.float32)

    @cached_property
    def of_past(self) -> tuple[Floats, Ints, Ints]:
        """Price, brand and category `[N + 1]` of every possible history entry: all items, and last a typed sentence."""
        return np.append(self.price, self.median_price), np.append(self.brand, 0), np.append(self.category, 0)


def fit_facts(items: pl.DataFrame, log: EventLog | None, attributes: tuple[str, ...]) -> ItemFacts:
    """Return the facts of `items` and the events of `log`, which must precede every request."""
    event_items, types, times = (log.items, log.types, log.times) if log else (np.empty(0, np.int64),) * 3
    times = times[np.lexsort((times, event_items))]
    events = ItemEvents.of(times, offsets_of(np.bincount(event_items, minlength=items.height)))
    created = _created(items)
    bought = np.bincount(event_items[types == PURCHASE], minlength=items.height)
    price = _price(items)
    known = price[np.isfinite(price)]
    median = float(np.median(known)) if len(known) else 0.0
    return ItemFacts(
        price=np.where(np.isfinite(price), price, median).astype(np.float32),
        text_length=_text_length(items),
        brand=_codes(items["brand"]),
        category=_codes(items["category"]),
        created=np.where(created >= 0, created, events.first),
        attributes=_attributes(items, attributes),
        purchases=np.log1p(bought).astype(np.float32),
        events=events,
        opinions=fit_opinions(log, items.height) if log else None,
    )


def extend_facts(
    facts: ItemFacts, old: pl.DataFrame, items: pl.DataFrame, changed: Ints, attributes: tuple[str, ...]
) -> ItemFacts:
    """Return the `facts` of the items `old` for `items`, whose rows `changed` differ from them or follow them.

    Brands and categories that no item of the fit has stay unknown to the ranker.
    """
    rows, total = items[changed], items.height
    price, created, new = _price(rows), _created(rows), changed >= old.height
    grown = {name: grow(getattr(facts, name), total, fill=0) for name in ARRAYS}
    grown["price"][changed] = np.where(np.isfinite(price), price, facts.median_price)
    grown["text_length"][changed], grown["attributes"][changed] = _text_length(rows), _attributes(rows, attributes)
    grown["created"][changed[new]] = created[new]
    for name in ("brand", "category"):
        values = rows[name]
        codes = pl.DataFrame({"value": old[name], "code": getattr(facts, name)})
        codes = codes.filter(pl.col("value").is_in(values.implode())).unique("value")
        grown[name][changed] = values.replace_strict(codes["value"], codes["code"], default=0)
    bought = facts.recent_purchases
    return ItemFacts(
        **grown,
        events=facts.events.grown(total),
        recent=facts.recent.grown(total) if facts.recent else None,
        recent_purchases=None if bought is None else grow(bought, total, fill=0),
        opinions=facts.opinions.grown(total) if facts.opinions else None,
    )


def _price(items: pl.DataFrame) -> NDArray[np.float64]:
    """Return log(1 + price); not finite where unknown."""
    return np.log1p(items["price"].cast(pl.Float64).to_numpy())


def _text_length(items: pl.DataFrame) -> Floats:
    length = items.select(pl.col("title").str.len_chars() + pl.col("description").fill_null("").str.len_chars())
    return np.log1p(length.to_series().to_numpy()).astype(np.float32)


def _created(items: pl.DataFrame) -> Ints:
    """Return the creation in microseconds; -1 where unknown."""
    return np.maximum(items["created_at"].fill_null(-1).to_numpy(), -1)


def _codes(column: pl.Series) -> Ints:
    """Return codes from 1 by first appearance, 0 for null or empty."""
    filled = column.fill_null("").cast(pl.String)
    values = filled.filter(filled != "").unique(maintain_order=True)
    table = pl.DataFrame({"value": values, "code": np.arange(1, len(values) + 1)})
    joined = pl.DataFrame({"value": filled}).join(table, on="value", how="left", maintain_order="left")
    return joined["code"].fill_null(0).to_numpy()


def refuse_no_numbers(items: pl.DataFrame, names: tuple[str, ...]) -> None:
    """Raise RecsysError where one of the attributes `names` is no column of `items`, or a column of other things than numbers."""
    for name in names:
        if name not in items.columns:
            known = [column for column, kind in items.schema.items() if kind.is_numeric() or kind == pl.Boolean]
            raise RecsysError(f"ranker.attributes: the items have no column {name!r}{suggest(name, known)}")
        if items[name].dtype == pl.String:
            wrong = items.filter(
                pl.col(name).str.strip_chars().cast(pl.Float64, strict=False).is_null() & pl.col(name).is_not_null()
            )
            text = f", for example {wrong[name][0]!r} of {wrong['item_id'][0]}" if wrong.height else ""
            raise RecsysError(
                f"ranker.attributes: the column {name!r} holds text: {wrong.height:,} of {items.height:,} values are no "
                f"numbers{text}; correct or empty them"
            )
        if not (items[name].dtype.is_numeric() or items[name].dtype == pl.Boolean):
            raise RecsysError(
                f"ranker.attributes: the column {name!r} holds {items[name].dtype}; name a column of numbers"
            )


def _attributes(items: pl.DataFrame, names: tuple[str, ...]) -> Floats:
    columns = [items[name].cast(pl.Float32).fill_null(0).fill_nan(0).to_numpy() for name in names]
    return np.stack(columns, axis=1) if columns else np.empty((items.height, 0), np.float32)
