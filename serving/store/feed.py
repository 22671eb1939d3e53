"""The store's events since a fit, for what follows them: counts, popularity, trends, co-visits.

In: a store, and what a bundle knows. Out: `RecentEvents`. What was read is kept; the next look reads what came since.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from features.recent import REACH, RecentEvents
from recsys.events import IMPRESSION, TYPE_CODE
from serving.loading import Bundle
from serving.lookup import Lookup
from serving.store.store import Store

OVERLAP = 1000
"""Events that are read again: on PostgreSQL a lower number may become visible after a higher one."""
SCHEMA = {
    "number": pl.Int64,
    "user_id": pl.String,
    "item_id": pl.String,
    "type": pl.Int8,
    "time": pl.Int64,
    "opinion": pl.Float64,
}
PAST = (("items", "item", pl.Int32), ("types", "type", pl.Int8), ("times", "time", pl.Int64))
"""Columns of a bundle's users, their names here, what their lists hold (or arrays, where all users have as many events)."""


class EventFeed:
    """The events of a store after those of a fit, as far as they have been read."""

    def __init__(self, store: Store, lookup: Lookup) -> None:
        """`lookup` is that of the fit."""
        self.since, self._opinion = lookup.newest, lookup.retriever.config.ranker.opinion
        self._store, self._last, self._events = store, 0, pl.DataFrame(schema=SCHEMA)

    def read(self) -> bool:
        """Read what came since the last call, and leave out users who were forgotten; return whether anything changed."""
        rows = self._store.events_after(self._last - OVERLAP, self.since)
        read = pl.DataFrame(
            [
                (*row[:3], TYPE_CODE.get(row[3], IMPRESSION), row[4], _opinion(row[5], self._opinion))
                for row in rows  # rejections count as little
            ],
            SCHEMA,
            orient="row",
        )
        self._last = int(max([self._last, *read["number"].tail(1)]))
        new = read.filter(pl.col("type") != IMPRESSION).join(self._events, on="number", how="anti")
        before = self._events.height
        self._events = self._remembered(pl.concat([self._events, new]))
        return bool(new.height) or self._events.height < before

    def followed_by(self, lookup: Lookup) -> Lookup:
        """Return `lookup` with counts, popularity, trends and co-visits as of the events that were read."""
        bundle, recommender = lookup.bundle, lookup.recommender
        retriever = recommender.retriever.with_recent(self.recent(bundle), bundle.weights)
        return lookup.with_recommender(replace(recommender, retriever=retriever))

    def recent(self, bundle: Bundle) -> RecentEvents:
        """Return the events on items of the catalogue of `bundle`, with what their users did just before."""
        ids = bundle.recommender.retriever.items.select("item_id").with_row_index("item")
        events = self._events.join(ids, on="item_id", maintain_order="left")
        past = bundle.users.filter(pl.col("user_id").is_in(events["user_id"].unique().implode()))
        latest = [pl.col(name).cast(pl.List(kind)).list.tail(REACH).alias(column) for name, column, kind in PAST]
        before = self._remembered(past.select("user_id", *latest).explode("item", "type", "time").drop_nulls())
        columns = [pl.col("user_id"), pl.col("item").cast(pl.Int32), pl.col("type"), pl.col("time")]
        both = pl.concat([before.select(columns), events.select(*columns, pl.col("opinion"))], how="diagonal")
        users = both["user_id"].rank("dense").cast(pl.Int64).to_numpy()
        items, types, times = (both[name].to_numpy() for name in ("item", "type", "time"))
        opinions = both["opinion"].fill_null(np.nan).to_numpy()
        return RecentEvents.of(users, items, types, times, self.since, opinions)

    def _remembered(self, events: pl.DataFrame) -> pl.DataFrame:
        """Return `events` without those from before their user was forgotten."""
        forgotten = self._store.forgotten_users()
        if not forgotten:
            return events
        at = pl.col("user_id").replace_strict(forgotten, default=None, return_dtype=pl.Int64)
        return events.filter(at.is_null() | (pl.col("time") > at))


def _opinion(context: Mapping[str, Any] | None, name: str) -> float | None:
    """Return the opinion of an event's text, from 0 to 1, in the column `name` of its context; None where there is none."""
    value = (context or {}).get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value <= 1 else None
