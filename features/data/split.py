"""Divide events into train, valid and test.

In: the events of a dataset and the rule. Out: the same events with a column `split`.
"""

from typing import Literal

import polars as pl

SplitRule = Literal["time", "leave-last", "column"]

MOST_OF_LATER = 1 / 3
"""Largest share of the events after `learned_until` that `valid` gets, and that `test` gets."""


def assign_splits(
    events: pl.LazyFrame, rule: SplitRule, valid_share: float, test_share: float, learned_until: int | None = None
) -> pl.LazyFrame:
    """Return `events` with the column `split`.

    `time` cuts at two moments of global time, so that shares of the non-impression events fall
    behind them; `leave-last` takes each user's last non-impression event for test and the one
    before for valid, impressions going with the event of their request or the next one in time;
    `column` keeps the dataset's own column.

    With `learned_until`, in microseconds since 1970, `time` leaves the events up to then in train.
    """
    if rule == "column":
        return events
    if rule == "time":
        return _by_time(events, valid_share, test_share, learned_until)
    return _leave_last(events)


def _by_time(events: pl.LazyFrame, valid_share: float, test_share: float, learned_until: int | None) -> pl.LazyFrame:
    times = events.filter(pl.col("event_type") != "impression").select("timestamp")
    if learned_until is not None:
        later = pl.col("timestamp") > learned_until
        counts = times.select(every=pl.len(), later=later.sum()).collect(engine="streaming")
        if not counts["later"].item():
            return events.with_columns(split=pl.lit("train"))
        of_later = counts["every"].item() / counts["later"].item()
        valid_share, test_share = (min(MOST_OF_LATER, share * of_later) for share in (valid_share, test_share))
        times = times.filter(later)
    cuts = times.select(
        valid=pl.col("timestamp").quantile(1 - valid_share - test_share, "higher"),
        test=pl.col("timestamp").quantile(1 - test_share, "higher"),
    ).collect(engine="streaming")
    time = pl.col("timestamp")
    return events.with_columns(
        split=pl.when(time < cuts["valid"].item())
        .then(pl.lit("train"))
        .when(time < cuts["test"].item())
        .then(pl.lit("valid"))
        .otherwise(pl.lit("test"))
    )


def _leave_last(events: pl.LazyFrame) -> pl.LazyFrame:
    acted = pl.col("event_type") != "impression"
    # How many of the user's events come at or after this one: 1 for the last.
    left = acted.reverse().cum_sum().reverse().over("user_id")
    return events.sort("user_id", "timestamp", maintain_order=True).with_columns(
        split=pl.when(left <= 1).then(pl.lit("test")).when(left == 2).then(pl.lit("valid")).otherwise(pl.lit("train"))
    )
