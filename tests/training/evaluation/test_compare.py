"""Runs are compared on the same requests only; a twin is no better, and a planted loss is found."""

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest

from recsys.errors import RecsysError
from training.evaluation.compare import MAIN, METRICS, Evaluated, compare, pool_seeds
from training.run_info import RunInfo

RUN = RunInfo(
    "a" * 32, "run", datetime(2026, 11, 28, tzinfo=UTC), "finished", "shop", "f" * 16, {}, {}, ("1",), ("champion",)
)


def requests(quality: float, seed: int, count: int = 1200, noise: float = 1.0) -> pl.DataFrame:
    """Return the results of a model that finds a share `quality` of the targets, by its seed some others than its twin."""
    truth, rng = np.random.default_rng(0), np.random.default_rng(seed)
    users = np.sort(truth.integers(count // 3, size=count))
    ease = truth.normal(size=count)
    found = ease + noise * rng.normal(size=count) < np.quantile(ease, quality)
    gain = np.where(found, 1 / np.log2(1 + truth.integers(1, 11, count)), 0.0)
    columns = dict.fromkeys(METRICS, gain)
    return pl.DataFrame(
        {
            "user": users,
            "time": np.arange(count),
            "history": truth.integers(0, 20, count),
            "new_item": truth.random(count) < 0.1,
        }
        | columns
    )


def test_of_twins_none_is_called_better() -> None:
    """In at least 18 of 20 repeats, over all metrics and segments that are looked at; of 100 such repeats, with 3,000 requests, 4 had a false call."""
    called = 0
    for seed in range(20):
        [one] = compare(Evaluated(RUN, requests(0.2, 1000 + seed)), [Evaluated(RUN, requests(0.2, 5000 + seed))])
        called += any(difference.real for difference in (*one.metrics.values(), *one.segments.values()))
    assert called <= 2


def test_a_tenth_less_quality_is_called_worse() -> None:
    """Where the models agree otherwise as much as two trainings of one configuration do."""
    before = requests(0.2, 1)
    lost = np.random.default_rng(2).random(before.height) < 0.1
    after = before.with_columns(
        pl.when(pl.Series(lost)).then(0.0).otherwise(pl.col(metric)).alias(metric) for metric in METRICS
    )
    [one] = compare(Evaluated(RUN, before), [Evaluated(RUN, after)])
    assert one.metrics[MAIN].worse and one.worse[0] == MAIN
    [back] = compare(Evaluated(RUN, after), [Evaluated(RUN, before)])
    assert back.metrics[MAIN].real and not back.worse


def test_segments_are_looked_at_by_themselves() -> None:
    """A loss for new items alone is found among new items; what differs in parameters is named."""
    before = requests(0.5, 1)
    after = before.with_columns(pl.when("new_item").then(0.0).otherwise(pl.col(MAIN)).alias(MAIN))
    changed = replace(RUN, parameters={"ranker.kind": "torchrec", "seed": "0"})
    [one] = compare(Evaluated(replace(RUN, parameters={"seed": "0"}), before), [Evaluated(changed, after)])
    assert "new items" in one.worse and "known items" not in one.worse
    assert one.segments["known items"].interval.value == 0
    assert one.parameters == {"ranker.kind": ("", "torchrec")}


def test_a_segment_of_few_requests_is_left_out() -> None:
    """It could say nothing, and would make all other intervals wider."""
    frame = requests(0.2, 1).with_columns(history=pl.lit(12))
    [one] = compare(Evaluated(RUN, frame), [Evaluated(RUN, frame)])
    assert {"history 10+", "known items"} <= set(one.segments) and "no history" not in one.segments


def test_more_comparisons_make_each_interval_wider() -> None:
    """So that the chance of a false call stays the same for all together."""
    first, second = Evaluated(RUN, requests(0.2, 1)), Evaluated(RUN, requests(0.2, 2))
    alone, among = compare(first, [second])[0], compare(first, [second] * 8)[0]
    width = [one.metrics[MAIN].interval.high - one.metrics[MAIN].interval.low for one in (alone, among)]
    assert width[1] > width[0]


def test_runs_on_other_data_or_requests_are_refused() -> None:
    """With what differs."""
    first = Evaluated(RUN, requests(0.2, 1))
    with pytest.raises(RecsysError, match="trained on different data"):
        compare(first, [Evaluated(replace(RUN, fingerprint="0" * 16), requests(0.2, 1))])
    with pytest.raises(RecsysError, match="not measured on the same requests"):
        compare(first, [Evaluated(RUN, requests(0.2, 1).head(100))])


def of_seeds(quality: float, parameters: dict[str, str], first: int) -> list[Evaluated]:
    """Return three seeds of one configuration."""
    return [
        Evaluated(
            replace(RUN, parameters=parameters | {"seed": str(seed)}, versions=(str(first + seed),), aliases=()),
            requests(quality, 100 * first + seed),
        )
        for seed in range(3)
    ]


def test_seeds_of_a_configuration_count_as_one_by_their_mean() -> None:
    """Their mean differs less by chance than one of them; seeds of a single configuration stay apart."""
    before, after = of_seeds(0.2, {"ranker.trees": "100"}, 1), of_seeds(0.2, {"ranker.trees": "200"}, 4)
    first, second = pool_seeds([before[0], after[0], *before[1:], *after[1:]])
    assert (first.label, second.label) == ("mean of 3 seeds (1, 2, 3)", "mean of 3 seeds (4, 5, 6)")
    np.testing.assert_allclose(first.requests[MAIN], np.mean([one.requests[MAIN] for one in before], axis=0))
    [pooled], [single] = compare(first, [second]), compare(before[0], [after[0]])
    assert pooled.parameters == {"ranker.trees": ("100", "200")} and pooled.paired
    width = [one.metrics[MAIN].interval.high - one.metrics[MAIN].interval.low for one in (pooled, single)]
    assert width[0] < 0.8 * width[1]
    assert pool_seeds(before) == before


def test_other_requests_are_compared_by_force_and_unpaired() -> None:
    """Equal models are called different once in 6 repeats at most; a third less quality is called worse."""
    called = 0
    for seed in range(6):
        first = Evaluated(RUN, requests(0.2, 300 + seed, count=900))
        [one] = compare(first, [Evaluated(replace(RUN, fingerprint="0" * 16), requests(0.2, 400 + seed))], force=True)
        assert not one.paired
        called += any(difference.real for difference in (*one.metrics.values(), *one.segments.values()))
    assert called <= 1
    [lost] = compare(Evaluated(RUN, requests(0.3, 1, 900)), [Evaluated(RUN, requests(0.2, 2, 3000))], force=True)
    assert lost.metrics[MAIN].worse
