"""The report of an experiment: rates, differences, and when not to believe them."""

import math

import numpy as np
import polars as pl

from serving.experiments.definition import Experiment
from serving.experiments.outcome import LISTS, outcome

TWO = Experiment.model_validate(
    {"name": "e", "arms": {"old": {"share": 0.5}, "new": {"share": 0.5, "model": "models:/recsys/7"}}}
)


def simulated(seed: int, users: int = 400, lift: float = 0.0) -> pl.DataFrame:
    """Return the lists of users who differ in how often they come and click; `new` has `lift` more clicks."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(users):
        arm = "new" if rng.random() < 0.5 else "old"
        liking = rng.beta(1, 8) + lift * (arm == "new")
        for _ in range(1 + rng.geometric(0.3)):
            clicks = int(rng.binomial(10, min(liking, 1)))
            bought = int(rng.binomial(clicks, 0.2))
            rows.append((f"u{user}", arm, 10, clicks, bought, bought * 9.5))
    return pl.DataFrame(rows, LISTS, orient="row")


def test_the_rates_are_those_counted_by_hand() -> None:
    lists = pl.DataFrame(
        [("a", "old", 10, 2, 1, 5.0), ("a", "old", 10, 0, 0, 0.0), ("b", "old", 20, 2, 0, 0.0), ("c", "new", 10, 4, 2, 9.0)],
        LISTS,
        orient="row",
    )  # fmt: skip
    old, new = outcome(TWO, 3, lists).arms
    assert (old.users, old.lists, new.users, new.lists) == (2, 3, 1, 1)
    assert {name: rate.rate.value for name, rate in old.rates.items()} == {
        "click-through": 4 / 40, "purchases per user": 1 / 2, "value per user": 5 / 2,
    }  # fmt: skip
    difference = new.rates["click-through"].difference
    assert difference and math.isclose(difference.value, 0.3) and difference.low == -math.inf  # of a single user


def test_the_interval_of_no_difference_holds_zero_19_times_of_20() -> None:
    """Users come more than once, so intervals over lists would be too narrow."""
    held = 0
    for seed in range(300):
        difference = outcome(TWO, 9, simulated(seed)).arms[1].rates["click-through"].difference
        assert difference
        held += difference.low <= 0 <= difference.high
    assert 0.92 < held / 300 < 0.98


def test_a_lift_is_found() -> None:
    difference = outcome(TWO, 9, simulated(1, 2_000, lift=0.05)).arms[1].rates["click-through"].difference
    assert difference and difference.low > 0 and difference.low < 0.05 < difference.high


def test_numbers_of_users_that_contradict_the_shares_are_suspicious() -> None:
    lists = simulated(2, 1_000)
    assert not outcome(TWO, 9, lists).suspicious
    some = lists.filter((pl.col("arm") == "old") | (pl.col("user_id").hash(0) % 4 > 0))  # a quarter of `new` is lost
    assert outcome(TWO, 9, some).suspicious


def test_before_the_minimum_it_is_early_and_without_lists_nothing_is_known() -> None:
    empty = outcome(TWO, 2, pl.DataFrame(schema=LISTS))
    assert empty.early and not empty.suspicious and math.isnan(empty.arms[0].rates["value per user"].rate.value)
    assert not outcome(TWO, 7, pl.DataFrame(schema=LISTS)).early


def test_interleaved_lists_are_won_by_the_arm_whose_items_are_clicked() -> None:
    clicks = pl.DataFrame(
        {"user_id": ["a", "a", "b", "c", "d"], "first": [0, 0, 1, 2, 0], "second": [1, 3, 0, 2, 0]},
    )
    preference = outcome(TWO, 9, pl.DataFrame(schema=LISTS), clicks).preference
    assert preference and preference.value == (2 + 0.5) / 4
