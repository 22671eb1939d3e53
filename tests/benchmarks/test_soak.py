"""The judgement of a soak: a leak is found, a flat series passes, and too little of either says nothing."""

import json
import random

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.signal import lfilter

from benchmarks.soak.growth import Growth, Verdict, after, growth, minima, worst
from benchmarks.soak.traffic import Traffic

LIMIT = 30.0


def lasting(shocks: NDArray[np.float64], persistence: float) -> NDArray[np.float64]:
    """Return noise each of whose values is that share of the one before, and a shock."""
    noise: NDArray[np.float64] = lfilter([1], [1, -persistence], shocks)
    return noise


def samples(minutes: float, mib_per_hour: float, seed: int, persistence: float = 0.5) -> list[tuple[float, float]]:
    """Return samples every two seconds, around a line with noise that lasts; loading doubles the memory for ten of each 60 s."""
    rng, count = np.random.default_rng(seed), round(30 * minutes)
    noise = lasting(rng.normal(size=count), persistence)
    times = 1_790_000_000 + 2.0 * np.arange(count)
    loading = 500.0 * (times % 60 < 10)
    return list(
        zip(times.tolist(), (500 + mib_per_hour * np.arange(count) / 1800 + noise + loading).tolist(), strict=True)
    )


def judged(noted: list[tuple[float, float]], warm_up: float = 8) -> Growth:
    """Return what a run with the usual windows finds."""
    return growth(after(minima(noted, 30), warm_up))


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32), persistence=st.floats(0, 0.9))
def test_a_flat_noisy_series_is_never_called_a_leak_of_the_limit(seed: int, persistence: float) -> None:
    """Neither noise that lasts nor models that are loaded look like a leak."""
    assert judged(samples(20, 0, seed, persistence)).verdict(LIMIT) is not Verdict.LEAK


def test_a_flat_noisy_series_passes() -> None:
    """The interval of twenty minutes is narrow enough to rule the limit out."""
    assert judged(samples(20, 0, seed=0)).verdict(LIMIT) is Verdict.NO_LEAK


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32), slope=st.floats(70, 10_000))
def test_a_planted_slope_fails(seed: int, slope: float) -> None:
    """What grows by a KiB a request at 20 requests a second is found."""
    assert judged(samples(20, slope, seed)).verdict(LIMIT) is Verdict.LEAK


@settings(max_examples=25)
@given(minutes=st.floats(1, 9.4), slope=st.floats(-1000, 1000))
def test_a_short_series_is_inconclusive(minutes: float, slope: float) -> None:
    """Less than four windows after the warm-up say nothing, however clear their line."""
    assert judged(samples(minutes, slope, seed=0)).verdict(LIMIT) is Verdict.INCONCLUSIVE


def test_growth_before_the_warm_up_ends_does_not_count() -> None:
    """Caches that fill are no leak."""
    noted = [(at, size + min(300.0, 0.8 * 2 * number)) for number, (at, size) in enumerate(samples(20, 0, seed=0))]
    assert judged(noted).verdict(LIMIT) is Verdict.NO_LEAK
    assert judged(noted, warm_up=0).verdict(LIMIT) is not Verdict.NO_LEAK


@pytest.mark.parametrize("persistence", [0.0, 0.3, 0.6])
def test_the_interval_has_the_true_slope_as_often_as_it_says(persistence: float) -> None:
    """Of 24 points whose noise lasts, some 95 % of the intervals; a line that takes them as independent has far fewer."""
    rng, hours, hits = np.random.default_rng(0), np.arange(24) / 120, 0
    for _ in range(300):
        noise = lasting(rng.normal(size=124), persistence)
        found = growth((hours, 20 * hours + noise[100:]))
        hits += found.low <= 20 <= found.high
    assert hits / 300 > 0.9


def test_wandering_memory_is_not_mistaken_for_a_trend() -> None:
    """A series each of whose points starts from the one before has a wide interval."""
    walk = np.random.default_rng(0).normal(size=24).cumsum()
    found = growth((np.arange(24) / 120, walk))
    naive = np.polyfit(np.arange(24) / 120, walk, 1, cov=True)[1][0, 0] ** 0.5
    assert found.high - found.low > 10 * naive


def test_the_least_of_a_window_leaves_loading_out() -> None:
    """The first window with a load in it has the memory beside it; the last, which is not whole, does not count."""
    hours, least = minima([(0.0, 5.0), (10.0, 9.0), (29.0, 6.0), (30.0, 7.0), (59.0, 8.0), (61.0, 1.0)], 30)
    assert hours.tolist() == [15 / 3600, 45 / 3600]
    assert least.tolist() == [5.0, 7.0]


def test_one_leak_is_enough() -> None:
    """Of several measures the worst counts, and what is inconclusive is no pass."""
    assert worst([Verdict.NO_LEAK, Verdict.LEAK, Verdict.INCONCLUSIVE]) is Verdict.LEAK
    assert worst([Verdict.INCONCLUSIVE, Verdict.NO_LEAK]) is Verdict.INCONCLUSIVE


def test_those_who_act_are_forgotten() -> None:
    """What the server remembers of them comes to an end; who is only looked at keeps what the bundle knows."""
    items = pl.DataFrame({"item_id": [f"i{n}" for n in range(200)], "title": [f"red lamp {n}" for n in range(200)]})
    sent = Traffic(items, [f"u{n}" for n in range(300)], random.Random(0)).requests(3000)
    forgotten = {path.removeprefix("/v1/users/") for method, path, _ in sent if method == "DELETE"}
    acting = {json.loads(body)["events"][0]["user_id"] for _, path, body in sent if path == "/v1/events"}
    assert len(forgotten) > 60
    assert len(acting & forgotten) > 60
    assert {path.split("?")[0] for _, path, _ in sent} >= {"/v1/recommend", "/v1/rank", "/v1/items", "/metrics", "/"}
