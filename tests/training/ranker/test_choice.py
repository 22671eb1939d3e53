"""Whether the linear ranker teaches the trees is decided by requests that neither has seen."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from recsys.arrays import Floats
from recsys.config import RankerConfig
from training.ranker import choice
from training.ranker.choice import FOLDS, Lesson, choose_lessons, ndcg_of
from training.ranker.data import RankingData

CONFIG = RankerConfig(trees=30)


def chosen_by(worth: Floats, dense: Floats, bought: bool = False) -> RankingData:
    """Return requests whose candidate of the highest `worth` `[R, C]` is clicked, and bought as well."""
    labels = np.zeros((*worth.shape, 2), np.float32)
    labels[np.arange(len(worth)), worth.argmax(1), : 1 + bought] = 1
    candidates = np.tile(np.arange(worth.shape[1]), (len(worth), 1))
    price = np.ones(worth.shape, np.float32)
    return RankingData(candidates, dense, np.zeros((*worth.shape, 1), np.int64), labels, price)


def many(requests: int) -> Floats:
    """Return eight features of twenty candidates."""
    return np.random.default_rng(0).normal(size=(requests, 20, 8)).astype(np.float32)


def linear(data: RankingData) -> list[bool]:
    """Return which heads have the linear ranker among their teachers."""
    return [lesson.linear for lesson in choose_lessons(data, CONFIG, 0)]


def test_few_requests_that_follow_many_features_alike_have_the_linear_ranker() -> None:
    dense = many(60)
    assert linear(chosen_by(dense.sum(2), dense, bought=True)) == [True, True]


def test_where_the_middle_is_wanted_the_linear_ranker_is_left_out() -> None:
    """No weight of a feature says that neither its lowest nor its highest values are liked."""
    dense = many(600)
    assert linear(chosen_by(-np.abs(dense[..., 0] - 0.3), dense)) == [False, False]


def test_each_head_decides_for_itself() -> None:
    dense = many(400)
    data = chosen_by(-np.abs(dense[..., 0] - 0.3), dense)
    data.labels[np.arange(60), dense[:60].sum(2).argmax(1), 1] = 1
    assert linear(data) == [False, True]


def test_lambdarank_serves_where_its_student_loses_much_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a student where it is as good or what is lost may be chance."""
    figures = np.tile([[0.5], [0.4], [0.3], [0.9]], 20)  # the mixture is not asked: its sum is worse

    def say(*_: object) -> Floats:
        return figures

    monkeypatch.setattr(choice, "_figures", say)
    data = chosen_by(many(20).sum(2), many(20))
    assert choose_lessons(data, CONFIG, 0) == [Lesson(False, True)] * 2
    figures[2] = 0.5
    assert choose_lessons(data, CONFIG, 0)[0] == Lesson(False, False)
    figures[2, ::2] = np.array([0.4, 0.61] * 5)
    assert choose_lessons(data, CONFIG, 0)[0] == Lesson(False, False)
    figures[1] = 0.6
    assert choose_lessons(data, CONFIG, 0)[0] == Lesson(True, False)


@pytest.mark.parametrize("positives", [0, 2 * FOLDS - 1])
def test_too_few_positives_to_ask_have_a_student_without_the_linear_ranker(positives: int) -> None:
    dense = many(50)
    data = chosen_by(dense.sum(2), dense)
    data.labels[positives:] = 0
    assert choose_lessons(data, CONFIG, 0)[0] == Lesson(linear=False, direct=not positives)


@settings(deadline=None)
@given(st.integers(2, 30), st.integers(1, 5), st.integers(0, 2**16))
def test_ndcg_is_that_of_scikit_learn(candidates: int, positives: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.permuted(np.tile(np.arange(candidates, dtype=np.float64), (4, 1)), axis=1)
    labels = (scores.argsort(1).argsort(1) * 7 % candidates < min(positives, candidates)).astype(np.float32)
    expected = [ndcg_score([own], [order], k=10) for own, order in zip(labels, scores, strict=True)]
    np.testing.assert_allclose(ndcg_of(scores, labels), expected)
