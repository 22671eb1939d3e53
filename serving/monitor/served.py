"""What became of the lists of a store: who asked, what was listed, what was clicked.

In: a store and a span of time. Out: tables of lists and impressions, and rates with intervals.
"""

from dataclasses import dataclass

import polars as pl
from scipy.stats import binomtest

from recsys.events import DAY_US
from recsys.metrics import CONFIDENCE, Interval
from serving.store.export import IMPRESSION_KEY, actions, events_table
from serving.store.store import ImpressionList, Store

MOST_LISTS = 50_000
FIRST = 10
"""Positions that are looked at one by one."""


@dataclass(frozen=True)
class Served:
    """The lists of a span of time, and the events since the first of them."""

    lists: list[ImpressionList]
    """Oldest first; at most `MOST_LISTS` of them, drawn by their random ids."""
    events: pl.DataFrame

    @classmethod
    def of(cls, store: Store, days: float, now: int) -> "Served":
        """Return what `store` got in the `days` before `now` (microseconds)."""
        since = int(now - days * DAY_US)
        lists = [one for one in store.lists_since(since, MOST_LISTS) if one.timestamp <= now]
        lists.sort(key=lambda one: one.timestamp)
        return cls(lists, events_table(store.events_since(lists[0].timestamp) if lists else ()))

    @property
    def impressions(self) -> pl.DataFrame:
        """A row per position of every list: request_id, model, item_id, position, click, purchase."""
        rows = pl.DataFrame(
            [
                (one.request_id, one.model, item, position)
                for one in self.lists
                for position, item in enumerate(one.items, start=1)
            ],
            schema={"request_id": pl.String, "model": pl.String, "item_id": pl.String, "position": pl.Int64},
            orient="row",
        )
        joined = rows.join(actions(self.events).drop("value"), on=IMPRESSION_KEY, how="left", maintain_order="left")
        return joined.with_columns(pl.col("click", "purchase").fill_null(False))


@dataclass(frozen=True)
class Rate:
    """How many of `shown` items led to something."""

    what: str
    shown: int
    clicks: Interval
    purchases: Interval


def rates(impressions: pl.DataFrame, by: str) -> list[Rate]:
    """Return click-through and purchases of `impressions` for each value of the column `by`, with Wilson's intervals (1927)."""
    groups = impressions.group_by(by).agg(pl.len(), pl.col("click", "purchase").sum()).sort(by)
    return [
        Rate(str(value), shown, _share(clicks, shown), _share(purchases, shown))
        for value, shown, clicks, purchases in groups.select(by, "len", "click", "purchase").iter_rows()
    ]


def _share(count: int, of: int) -> Interval:
    bounds = binomtest(count, of).proportion_ci(CONFIDENCE, method="wilson")
    return Interval(count / of, float(bounds.low), float(bounds.high))
