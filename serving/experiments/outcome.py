"""What came of an experiment: clicks, purchases and value by arm, with intervals, and whether the arms can be compared.

In: a row per list that was served in the experiment. Out: an `Outcome`.

Users are drawn into arms, so users are what varies: every interval is over users. A rate is a ratio of two sums over users, whose
variance is that of the delta method (Deng, Knoblich and Lu 2018, "Applying the Delta Method in Metric Analytics").
"""

import math
from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy.stats import chisquare, norm

from recsys.metrics import CONFIDENCE, Interval
from serving.experiments.definition import Experiment

SUSPICIOUS = 0.001
"""A p-value of the users' numbers by arm below which something keeps users out of an arm, or counts them twice."""

LISTS = pl.Schema(
    {"user_id": pl.String, "arm": pl.String, "shown": pl.Int64, "clicks": pl.Int64, "purchases": pl.Int64, "value": pl.Float64}
)  # fmt: skip
"""A row per list: its user and arm, the items in it, those of them that were clicked and bought, and what was paid."""
RATES = {"click-through": ("clicks", "shown"), "purchases per user": ("purchases", None), "value per user": ("value", None)}  # fmt: skip
"""What is measured, as a sum over users divided by another; None counts the users."""


@dataclass(frozen=True)
class Rate:
    """A rate of one arm, and its difference to the first arm."""

    rate: Interval
    difference: Interval | None
    """None for the first arm."""


@dataclass(frozen=True)
class ArmOutcome:
    """What came of one arm."""

    arm: str
    users: int
    lists: int
    rates: dict[str, Rate]


@dataclass(frozen=True)
class Outcome:
    """What came of an experiment."""

    experiment: str
    days: float
    minimum_days: float
    arms: list[ArmOutcome]
    users_p: float
    """How likely numbers of users by arm are that differ as much from the shares, if nothing is wrong."""
    preference: Interval | None
    """Of interleaved lists with clicks: the share in which the second arm's items got more of them, ties counting half."""

    @property
    def suspicious(self) -> bool:
        """Whether the numbers of users contradict the shares."""
        return self.users_p < SUSPICIOUS

    @property
    def early(self) -> bool:
        """Whether the experiment has not run for its minimum yet."""
        return self.days < self.minimum_days


def outcome(experiment: Experiment, days: float, lists: pl.DataFrame, credits: pl.DataFrame | None = None) -> Outcome:
    """Return what came of the `lists` (see `LISTS`) that were served in the `days` since the start.

    `credits` of interleaved lists has user_id, and the clicks on items of each arm, `first` and `second`.
    """
    users = lists.group_by("user_id", "arm").agg(pl.col("shown", "clicks", "purchases", "value").sum(), lists=pl.len())
    by_arm = {name: users.filter(arm=name) for name in experiment.arms}
    control = next(iter(by_arm.values()))
    arms = [
        ArmOutcome(name, own.height, int(own["lists"].sum()), _rates(own, None if own is control else control))
        for name, own in by_arm.items()
    ]
    return Outcome(
        experiment=experiment.name,
        days=days,
        minimum_days=experiment.minimum_days,
        arms=arms,
        users_p=_users_p([own.height for own in by_arm.values()], [arm.share for arm in experiment.arms.values()]),
        preference=None if credits is None else _preference(credits),
    )


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> tuple[float, float]:
    """Return the ratio of two sums over users, and its variance; nan without users, an infinite variance with one."""
    users, total = len(numerator), float(denominator.sum())
    if not total:
        return math.nan, math.nan
    value = float(numerator.sum()) / total
    if users < 2:
        return value, math.inf
    residuals = numerator - value * denominator
    return value, float(residuals @ residuals) * users / (users - 1) / total**2


def _rates(own: pl.DataFrame, control: pl.DataFrame | None) -> dict[str, Rate]:
    rates = {}
    for name, (above, below) in RATES.items():
        value, variance = _ratio_of(own, above, below)
        difference = None
        if control is not None:
            other, its_variance = _ratio_of(control, above, below)
            difference = _interval(value - other, variance + its_variance)
        rates[name] = Rate(_interval(value, variance), difference)
    return rates


def _ratio_of(users: pl.DataFrame, above: str, below: str | None) -> tuple[float, float]:
    counted = users[below].to_numpy().astype(float) if below else np.ones(users.height)
    return ratio(users[above].to_numpy().astype(float), counted)


def _interval(value: float, variance: float) -> Interval:
    reach = float(norm.ppf((1 + CONFIDENCE) / 2)) * math.sqrt(variance)
    return Interval(value, value - reach, value + reach)


def _users_p(users: list[int], shares: list[float]) -> float:
    """Return the p-value of the numbers of `users` by arm, if they were drawn by the `shares` (chi-squared)."""
    if not sum(users):
        return 1.0
    expected = np.array(shares) / sum(shares) * sum(users)
    return float(chisquare(users, expected).pvalue)


def _preference(credits: pl.DataFrame) -> Interval | None:
    clicked = credits.filter(pl.col("first") + pl.col("second") > 0)
    if not clicked.height:
        return None
    won = pl.when(pl.col("second") > pl.col("first")).then(1.0).when(pl.col("second") == pl.col("first")).then(0.5)
    users = clicked.group_by("user_id").agg(won=won.otherwise(0.0).sum(), lists=pl.len().cast(pl.Float64))
    return _interval(*ratio(users["won"].to_numpy(), users["lists"].to_numpy()))
