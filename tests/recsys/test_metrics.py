"""Metrics agree with independent libraries and behave at the edges."""

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_measures import AP, RR, R, Success, nDCG
from sklearn.metrics import roc_auc_score

from recsys import metrics
from tests.worlds import random_ranks


@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_ranking_metrics_equal_those_of_ir_measures(seed: int) -> None:
    """Every ranking metric equals an independent implementation, request by request."""
    ranks, offsets = random_ranks(seed)
    qrels, run = [], []
    for request in range(len(offsets) - 1):
        own = ranks[offsets[request] : offsets[request + 1]]
        qrels += [ir_measures.Qrel(str(request), f"t{n}", 1) for n in range(len(own))]
        filler = [f"x{n}" for n in range(25)]
        for target, rank in enumerate(own):
            if np.isfinite(rank):
                filler[int(rank) - 1] = f"t{target}"
        run += [ir_measures.ScoredDoc(str(request), doc, 100.0 - position) for position, doc in enumerate(filler)]
    ours = {
        nDCG @ 10: metrics.ndcg(ranks, offsets, 10),
        R @ 10: metrics.recall(ranks, offsets, 10),
        Success @ 10: metrics.hit_rate(ranks, offsets, 10),
        RR: metrics.reciprocal_rank(ranks, offsets),
        AP: metrics.average_precision(ranks, offsets),
    }
    for theirs in ir_measures.iter_calc(list(ours), qrels, run):
        assert ours[theirs.measure][int(theirs.query_id)] == pytest.approx(theirs.value, abs=1e-6)


def test_all_tied_scores_give_the_mean_rank() -> None:
    """A model that scores everything alike gets neither the best nor the worst rank."""
    ranks = metrics.target_ranks(np.zeros((1, 9), np.float32), np.array([4]), np.array([0, 1]))
    assert ranks.tolist() == [5.0]


def test_nan_scores_are_refused() -> None:
    """NaN would compare false with everything and look like the best rank."""
    with pytest.raises(ValueError, match="NaN"):
        metrics.target_ranks(np.array([[np.nan, 1]], np.float32), np.array([0]), np.array([0, 1]))


def test_target_absent_from_the_list_is_a_miss() -> None:
    """A target outside the list has rank inf and no gain."""
    ranks = metrics.list_ranks(np.array([[3, 1, -1]]), np.array([1, 2]), np.array([0, 2]))
    assert ranks.tolist() == [2.0, np.inf]
    assert metrics.recall(ranks, np.array([0, 2]), 10).tolist() == [0.5]


def test_requests_without_targets_are_refused() -> None:
    """A request without truth has no metric; averaging it as 0 would be wrong."""
    with pytest.raises(ValueError, match="without targets"):
        metrics.hit_rate(np.array([1.0]), np.array([0, 0, 1]), 10)


def test_interval_covers_the_true_mean_about_95_times_in_100() -> None:
    """Over repeated samples of users with correlated requests the interval holds its promise."""
    covered = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        users = np.repeat(np.arange(60), 3)
        values = (rng.random(60) < 0.3)[users] * 0.5 + (rng.random(180) < 0.3) * 0.5
        interval = metrics.bootstrap_interval(values, users, samples=200, seed=seed)
        covered += interval.low <= 0.3 <= interval.high
    assert 175 <= covered <= 199


def test_difference_of_a_model_to_itself_is_exactly_zero() -> None:
    """Pairing removes all noise between equal rankings."""
    values = np.random.default_rng(0).random(50)
    gap = metrics.paired_difference(values, values, np.arange(50) // 2)
    assert (gap.value, gap.low, gap.high) == (0, 0, 0)


@settings(max_examples=30)
@given(st.integers(0, 10_000))
def test_the_auc_of_impressions_equals_that_of_scikit_learn(seed: int) -> None:
    """Of every request's list, ties included."""
    rng = np.random.default_rng(seed)
    labels = np.tile([True, False, *(rng.random(6) < 0.3)], 5)
    scores = rng.integers(1, 5, len(labels)) / 10
    offsets = np.arange(0, len(labels) + 1, 8)
    expected = [roc_auc_score(labels[at : at + 8], scores[at : at + 8]) for at in offsets[:-1]]
    np.testing.assert_allclose(metrics.impression_metrics(scores, labels, offsets)["auc"], expected)


def test_auc_and_log_loss_worked_by_hand() -> None:
    """A tie counts half; labels of one kind have a log loss, and no AUC."""
    probabilities, labels = np.array([0.8, 0.4, 0.4, 0.2], np.float32), np.array([1.0, 1.0, 0.0, 0.0])
    assert metrics.auc(probabilities, labels) == pytest.approx(3.5 / 4)
    assert metrics.logloss(probabilities, labels) == pytest.approx(-np.log([0.8, 0.4, 0.6, 0.8]).mean())
    assert metrics.logloss(probabilities, np.zeros(4)) == pytest.approx(-np.log([0.2, 0.6, 0.6, 0.8]).mean())
    assert np.isfinite(metrics.logloss(np.array([0.0, 1.0]), np.array([1.0, 0.0])))
    assert np.isnan(metrics.auc(probabilities, np.zeros(4))) and np.isnan(metrics.auc(probabilities, np.ones(4)))


def test_calibration_error_is_zero_for_true_rates_and_large_for_wrong_ones() -> None:
    """Probabilities that equal observed rates have no error; half wrong ones err by half."""
    labels = np.array([0.0, 1.0] * 50)
    assert metrics.calibration_error(np.full(100, 0.5), labels, bins=1) == pytest.approx(0)
    assert metrics.calibration_error(np.full(100, 1.0), labels, bins=1) == pytest.approx(0.5)


def test_impression_metrics_follow_mind_on_a_list_worked_by_hand() -> None:
    """Two clicks at positions 1 and 3 of four: mrr is the mean of 1 and 1/3."""
    values = metrics.impression_metrics(
        np.array([0.9, 0.8, 0.7, 0.1]), np.array([True, False, True, False]), np.array([0, 4])
    )
    assert values["mrr"][0] == pytest.approx((1 + 1 / 3) / 2)
    assert values["auc"][0] == pytest.approx(0.75)
    assert values["ndcg@5"][0] == pytest.approx((1 + 0.5) / (1 + 1 / np.log2(3)))


def test_list_properties_on_lists_worked_by_hand() -> None:
    """Coverage, diversity and popularity share of two short lists."""
    lists, vectors = np.array([[0, 1], [0, -1]]), np.eye(4, dtype=np.float32)
    assert metrics.coverage(lists, 4) == 0.5
    assert metrics.intra_list_diversity(lists, vectors).tolist() == [1.0, 0.0]
    assert metrics.popularity_share(lists, np.array([9, 1, 1, 1]), head=0.25).tolist() == [0.5, 1.0]
    novelty = metrics.novelty(lists, np.array([7, 0, 0, 0]))
    assert novelty[0] > novelty[1]
