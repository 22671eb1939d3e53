"""What the store says of an experiment: the command `recsys experiments report`.

In: a store and the name of an experiment. Out: its `Outcome`, and the table that shows it.
"""

from collections.abc import Iterable

import polars as pl
from rich.table import Table

from recsys.events import DAY_US
from recsys.metrics import Interval
from recsys.shown import table_of
from serving.experiments.definition import Experiment, ExperimentError
from serving.experiments.outcome import LISTS, RATES, Outcome, outcome
from serving.store.export import IMPRESSION_KEY, actions, events_table
from serving.store.store import ImpressionList, Store

SHOWN = pl.Schema(
    {"request_id": pl.String, "user_id": pl.String, "arm": pl.String, "item_id": pl.String, "team": pl.String}
)


def read_outcome(store: Store, name: str, now: int) -> Outcome:
    """Return what came of the experiment `name` until it was stopped, or until `now` (microseconds).

    Raises:
        ExperimentError: there is no such experiment.
    """
    known = {one.name: one for one in store.every_experiment()}
    if name not in known:
        names = (
            f"there are {', '.join(sorted(known))}" if known else "there is none; `recsys experiments start` makes one"
        )
        raise ExperimentError(f"{store}: no experiment {name!r}; {names}")
    stored = known[name]
    experiment, until = Experiment.model_validate(stored.body), stored.stopped or now
    shown = _with_actions(_shown(store.lists_of(name)), store, stored.started)
    lists = shown.group_by("request_id", "user_id", "arm").agg(
        shown=pl.len().cast(pl.Int64), clicks=pl.col("click").sum(), purchases=pl.col("purchase").sum(), value=pl.col("value").sum()
    )  # fmt: skip
    days = (until - stored.started) / DAY_US
    if not experiment.interleave:
        return outcome(experiment, days, lists.select(pl.col(column).cast(kind) for column, kind in LISTS.items()))
    first, second = experiment.arms
    clicks = shown.group_by("request_id", "user_id").agg(
        first=(pl.col("click") & (pl.col("team") == first)).sum(),
        second=(pl.col("click") & (pl.col("team") == second)).sum(),
    )
    return outcome(experiment, days, pl.DataFrame(schema=LISTS), clicks)


def _shown(lists: Iterable[ImpressionList]) -> pl.DataFrame:
    """Return a row per position of every list."""
    rows = [
        (one.request_id, one.user_id, one.arm, item, one.teams[position] if one.teams else None)
        for one in lists
        for position, item in enumerate(one.items)
    ]
    return pl.DataFrame(rows, SHOWN, orient="row")


def _with_actions(shown: pl.DataFrame, store: Store, since: int) -> pl.DataFrame:
    """Return `shown` with whether each item was clicked, bought, and what was paid for it."""
    joined = shown.join(actions(events_table(store.events_since(since))), on=IMPRESSION_KEY, how="left")
    return joined.with_columns(pl.col("click", "purchase").fill_null(False), pl.col("value").fill_null(0.0))


def shown_outcome(result: Outcome) -> Table:
    """Return the table of the rates of each arm."""
    title = f"experiment {result.experiment}, {result.days:.1f} days"
    table = table_of(title, "", "arm", "rate", f"above {result.arms[0].arm}")
    for name in RATES:
        for arm in result.arms:
            rate = arm.rates[name]
            table.add_row(name, arm.arm, _text(rate.rate), "" if rate.difference is None else _text(rate.difference))
    return table


def _text(interval: Interval) -> str:
    return f"{interval.value:.3g} [{interval.low:.3g}, {interval.high:.3g}]"


def notes(result: Outcome) -> list[str]:
    """Return what a reader of the table must know, one line each."""
    said = [f"{arm.arm}: {arm.users:,} users, {arm.lists:,} lists" for arm in result.arms if arm.users]
    if result.suspicious:
        said.append(
            f"the numbers of users contradict the shares (p = {result.users_p:.2g}): something keeps users out of an arm, or "
            "loses their lists; trust no figure before it is found"
        )
    if result.early:
        said.append(
            f"{result.days:.1f} of {result.minimum_days:g} days: wait, since who looks often sees differences that are none"
        )
    return said + _preferred(result.preference) + ([] if result.early or result.suspicious else _verdicts(result))


def _preferred(preference: Interval | None) -> list[str]:
    if preference is None:
        return []
    return [f"of the lists with clicks, the second arm won {_text(preference)}; .5 is a draw"]


def _verdicts(result: Outcome) -> list[str]:
    """Return which differences are above or below zero by their whole interval."""
    said = []
    for arm in result.arms[1:]:
        for name, rate in arm.rates.items():
            if rate.difference and (rate.difference.low > 0 or rate.difference.high < 0):
                more = "more" if rate.difference.low > 0 else "less"
                said.append(f"{arm.arm}: {more} {name} than {result.arms[0].arm}")
    return said or (["no difference is beyond its interval"] if result.arms[1:] and not result.preference else [])
