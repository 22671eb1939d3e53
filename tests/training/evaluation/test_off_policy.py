"""Off-policy estimates: exact where every draw is known, and covering the truth of the simulated shop where it is not."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.simulator.shop import simulate
from features.simulator.truth import EXAMINED, LIST_LENGTH, click_logits, load_truth, sigmoid
from recsys.metrics import bootstrap_interval
from serving.rerank import explore
from training.evaluation.off_policy import (
    ESTIMATORS,
    Explored,
    bootstrap,
    choice,
    effective_size,
    expected_outcomes,
    mean,
    terms,
    weights,
)


def every_draw(size: int) -> Explored:
    """Return one position for each item that a pool of `size` may show there."""
    return Explored(np.ones((size, size), bool), np.arange(size), np.ones(size, np.int64), np.arange(size))


def random_log(seed: int, positions: int = 200) -> tuple[Explored, np.ndarray, np.ndarray]:
    """Return positions with pools of 1 to 6 items, what came of the draws, and scores of the pools."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 7, positions)
    pool = np.arange(6) < sizes[:, None]
    users, at = rng.integers(40, size=positions), rng.integers(1, 11, positions)
    explored = Explored(pool, rng.integers(sizes), at, users)
    return explored, rng.random(positions) < 0.3, rng.normal(size=pool.shape)


@given(size=st.integers(1, 12), share=st.floats(0.01, 1), seed=st.integers(0, 1000))
@settings(max_examples=60)
def test_over_all_draws_every_estimate_is_the_policys_own_value(size: int, share: float, seed: int) -> None:
    """With the draw even over n items, no outcome model however wrong changes that."""
    rng = np.random.default_rng(seed)
    explored, outcome = every_draw(size), rng.random(size) < 0.4
    chosen = choice(np.repeat(rng.normal(size=(1, size)), size, 0), explored.pool, share)
    wrong = np.repeat(rng.random((1, size)), size, 0)
    estimates = bootstrap(terms(explored, outcome, chosen, wrong), explored.users, samples=2)
    for estimator in ESTIMATORS:
        assert estimates[estimator].value == pytest.approx(float(chosen[0] @ outcome))
    assert weights(chosen, explored).mean() == pytest.approx(1)


@given(share=st.floats(0.01, 1), seed=st.integers(0, 1000))
@settings(max_examples=60)
def test_weights_are_never_negative_and_snips_is_a_probability(share: float, seed: int) -> None:
    """And the effective sample size is never above the positions that count."""
    explored, outcome, scores = random_log(seed)
    chosen = choice(scores, explored.pool, share)
    weight = weights(chosen, explored)
    estimates = bootstrap(terms(explored, outcome, chosen, np.zeros(chosen.shape)), explored.users, samples=20)
    assert (weight >= 0).all() and effective_size(weight) <= (weight > 0).sum() + 1e-9
    snips = estimates["snips"]
    assert 0 <= snips.value <= 1 and (snips.resampled >= 0).all() and (snips.resampled <= 1).all()


def test_estimates_are_those_of_open_bandit_pipeline() -> None:
    """The figures are what obp 0.4.1 gives for this log: InverseProbabilityWeighting, its self-normalised form, DoublyRobust."""
    rng = np.random.default_rng(0)
    pool, drawn = np.ones((5000, 8), bool), rng.integers(8, size=5000)
    clicks = rng.random(pool.shape) * 0.3
    outcome = rng.random(5000) < clicks[np.arange(5000), drawn]
    explored = Explored(pool, drawn, rng.integers(1, 11, 5000), rng.integers(500, size=5000))
    chosen = choice(clicks + rng.normal(0, 0.05, pool.shape), pool, 0.25)
    expected = clicks + rng.normal(0, 0.02, pool.shape)
    estimates = bootstrap(terms(explored, outcome, chosen, expected), explored.users, samples=2)
    theirs = {"ips": 0.2472, "snips": 0.2497978981406629, "dr": 0.24733250721941644}
    for name, value in theirs.items():
        assert estimates[name].value == pytest.approx(value, rel=1e-12)


def test_a_model_chooses_evenly_among_the_best_of_each_pool() -> None:
    """A quarter of it, at least one item, and never a padded column."""
    pool = np.arange(8) < np.array([8, 2, 1])[:, None]
    scores = np.tile([1.0, 5.0, 3.0, 9.0, 0.0, 7.0, 2.0, 4.0], (3, 1))
    expected = np.zeros((3, 8))
    expected[0, [3, 5]], expected[1, 1], expected[2, 0] = 0.5, 1, 1
    np.testing.assert_array_equal(choice(scores, pool, 0.25), expected)
    np.testing.assert_allclose(choice(scores, pool, 1.0), pool / pool.sum(1, keepdims=True))


def test_the_effective_sample_size_is_kishs() -> None:
    """Equal weights tell as much as their number, unequal ones less."""
    assert effective_size(np.array([2.0, 2.0, 0.0])) == pytest.approx(2)
    assert effective_size(np.array([3.0, 1.0])) == pytest.approx(1.6)
    assert effective_size(np.zeros(3)) == 0


def test_what_a_user_did_does_not_teach_the_outcome_model_of_that_user() -> None:
    """Other users learn from it."""
    explored, outcome, scores = random_log(3)
    one = explored.users == explored.users[0]
    before = expected_outcomes(scores[..., None], explored, outcome)
    after = expected_outcomes(scores[..., None], explored, np.where(one, ~outcome, outcome))
    np.testing.assert_array_equal(before[one], after[one])
    assert (before[~one] != after[~one]).any()


def test_without_any_outcome_the_outcome_model_expects_none() -> None:
    """Instead of failing for want of two classes."""
    explored, outcome, scores = random_log(4)
    assert not expected_outcomes(scores[..., None], explored, np.zeros_like(outcome)).any()


def test_the_interval_of_a_mean_is_that_of_the_other_metrics() -> None:
    """Both resample whole users."""
    explored, outcome, _ = random_log(5)
    ours = bootstrap({"clicks": mean(outcome)}, explored.users)["clicks"].interval
    assert ours == bootstrap_interval(outcome.astype(np.float64), explored.users)


def test_a_policy_is_not_above_itself() -> None:
    """Estimates are compared on the same resamples."""
    explored, outcome, scores = random_log(6)
    named = terms(explored, outcome, choice(scores, explored.pool, 0.5), np.zeros(scores.shape))
    estimate = bootstrap(named, explored.users)["snips"]
    change = estimate.above(estimate)
    assert (change.value, change.low, change.high) == (0, 0, 0)


POOL, PEOPLE, VISITS, SHARE, REPEATS = 20, 300, 6, 0.25, 50


@pytest.mark.slow
def test_intervals_cover_the_truth_of_the_simulated_shop(tmp_path: Path) -> None:
    """In at least 90 % of 50 logs of the real exploration, for every estimator and for the difference of two models.

    A good and a poor model know the users' tastes with little and with much noise.
    """
    simulate(tmp_path / "shop", users=600, items=200, seed=3)
    truth = load_truth(tmp_path / "shop")
    assert truth is not None
    rng = np.random.default_rng(0)
    tastes = np.searchsorted(truth.taste_user, np.arange(600))
    items = rng.permuted(np.tile(np.arange(200), (600, 1)), axis=1)[:, : LIST_LENGTH + POOL]
    pools = np.sort(items[:, LIST_LENGTH:], axis=1)
    logits = np.take_along_axis(click_logits(truth, tastes), pools, 1)  # [users, POOL]
    scores = {"good": logits + rng.normal(0, 0.5, logits.shape), "poor": logits + rng.normal(0, 3, logits.shape)}
    everywhere = np.ones(pools.shape, bool)
    true = {
        name: float((choice(own, everywhere, SHARE) * sigmoid(logits)).sum(1).mean() * EXAMINED.mean())
        for name, own in scores.items()
    }
    covered: dict[str, int] = {}
    rng = np.random.default_rng(1)
    for _ in range(REPEATS):
        intervals = _intervals_of_a_log(rng, items[:, :LIST_LENGTH], pools, sigmoid(logits), scores)
        for name, interval in intervals.items():
            expected = true["good"] / true["poor"] - 1 if name == "change" else true[name.split()[0]]
            covered[name] = covered.get(name, 0) + (interval.low <= expected <= interval.high)
    assert true["good"] > 1.3 * true["poor"] and len(covered) == 7
    assert min(covered.values()) >= 0.9 * REPEATS, covered


def _intervals_of_a_log(
    rng: np.random.Generator, listed: Any, pools: Any, clicks: Any, scores: dict[str, Any]
) -> dict[str, Any]:
    """Let some users of the shop come a few times, explore their lists, and return the intervals of each estimate."""
    people, rows, drawn, positions = rng.integers(len(pools), size=PEOPLE), [], [], []
    for person, user in enumerate(people):
        for _ in range(VISITS):
            shown, propensities = explore(listed[user], pools[user], 0.3, rng)
            at = np.array([position for position, one in enumerate(propensities) if one is not None], np.int64)
            assert all(one == pytest.approx(0.3 / POOL) for one in propensities if one is not None)
            rows += [person] * len(at)
            drawn += np.searchsorted(pools[user], shown[at]).tolist()
            positions += at.tolist()
    owner = people[rows]
    explored = Explored(np.ones((len(rows), POOL), bool), np.array(drawn), np.array(positions) + 1, np.array(rows))
    happened = rng.random(len(rows)) < EXAMINED[positions] * clicks[owner, drawn]
    features = np.stack([own[owner] for own in scores.values()], axis=2)
    expected = expected_outcomes(features, explored, happened)
    named = {
        f"{name} {estimator}": one
        for name, own in scores.items()
        for estimator, one in terms(explored, happened, choice(own[owner], explored.pool, SHARE), expected).items()
    }
    estimates = bootstrap(named, explored.users, samples=400)
    return {name: one.interval for name, one in estimates.items()} | {
        "change": estimates["good dr"].above(estimates["poor dr"])
    }
