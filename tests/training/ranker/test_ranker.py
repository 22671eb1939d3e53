"""Every kind of ranker passes the same suite; what each learns; the value formula."""

import math
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from scipy.special import logit

from features.context import ContextColumns
from features.ranking import CATEGORICAL
from recsys.arrays import Floats, Ints
from recsys.config import Config, RankerConfig, ValueConfig
from recsys.models.rankers import LightGbmRanker, Ranker, TorchRecRanker, value
from serving.retrieval.retriever import Retriever
from training.ranker import fit_ranker
from training.ranker.data import RankingData
from training.ranker.linear import linear_scores
from training.ranker.neural import epochs_of, ranking_loss
from training.ranker.trees import HALF_WEIGHT, Rows, fit_trees

NAMES, SIZES = ["a", "b", "c"], {"brand": 5, "category": 3, "last_type": 9}
FACTS = SimpleNamespace(brand=np.array([4]), category=np.array([2]))


def new_ranker(seed: int = 0) -> TorchRecRanker:
    torch.manual_seed(seed)
    ranker = TorchRecRanker(RankerConfig(dropout=0.0), NAMES, SIZES)
    ranker.start_from(torch.randn(50, 3), torch.rand(50, 2) * 0.2)
    return ranker.eval()


def some_data(seed: int, purchases: bool = True) -> RankingData:
    """Return 300 requests whose candidate with the largest first feature is clicked."""
    rng = np.random.default_rng(seed)
    dense = rng.normal(size=(300, 6, 3)).astype(np.float32)
    clicked = (dense[..., 0] == dense[..., 0].max(1, keepdims=True)).astype(np.float32)
    labels = np.stack([clicked, clicked * purchases], -1)
    codes = rng.integers(0, 3, (300, 6, 3))
    return RankingData(np.tile(np.arange(6), (300, 1)), dense, codes, labels, np.ones((300, 6), np.float32))


def fitted(data: RankingData, trees: int = 20, shown: RankingData | None = None) -> Ranker:
    features = SimpleNamespace(names=NAMES, facts=FACTS, context=ContextColumns(), codes=CATEGORICAL)
    retriever = SimpleNamespace(config=Config(ranker=RankerConfig(trees=trees)), features=features)
    return fit_ranker(data, cast(Retriever, retriever), seed=0, shown=shown)


def test_trees_learn_what_the_network_alone_can_tell() -> None:
    """Its scores have a share in what is learned."""
    data = some_data(0)
    preferred = np.zeros((*data.candidates.shape, 2), np.float32)
    preferred[data.dense[..., 1] > 0] = 5  # nothing that a label says
    plain, taught = (fit_trees(data, RankerConfig(), 0, told).log_odds(data.dense, data.categorical)[..., 0]
                     for told in ([], [preferred]))  # fmt: skip
    above = data.dense[..., 1] > 0
    assert (taught - plain)[above].mean() > (taught - plain)[~above].mean() + 0.05


@pytest.mark.parametrize(("requests", "passes"), [(32, 300), (320, 30), (9600, 3), (96_000, 3)])
def test_few_requests_are_passed_over_more_often(requests: int, passes: int) -> None:
    """At least so many steps, at least so many passes."""
    assert epochs_of(requests, RankerConfig()) == passes


def new_trees(seed: int = 0) -> Ranker:
    return fitted(some_data(seed))


@pytest.fixture(params=[new_ranker, new_trees], ids=["torchrec", "lightgbm"])
def ranker(request: pytest.FixtureRequest) -> Ranker:
    """Return each kind of ranker in turn."""
    return request.param()


def inputs() -> tuple[Floats, Ints]:
    rng = np.random.default_rng(1)
    return rng.normal(size=(4, 6, 3)).astype(np.float32), rng.integers(0, 3, (4, 6, 3))


def test_probabilities_are_probabilities(ranker: Ranker) -> None:
    """Two heads, each between 0 and 1."""
    probabilities = ranker.probabilities(*inputs())
    assert probabilities.shape == (4, 6, 2) and probabilities.dtype == np.float32
    assert ((probabilities > 0) & (probabilities < 1)).all()


def test_a_batch_equals_its_requests_and_its_candidates_alone(ranker: Ranker) -> None:
    """Neither other requests nor other candidates change a probability."""
    dense, codes = inputs()
    whole = ranker.probabilities(dense, codes)
    for row in range(4):
        alone = ranker.probabilities(dense[row : row + 1], codes[row : row + 1])
        np.testing.assert_allclose(alone[0], whole[row], rtol=1e-5)
    one_candidate = ranker.probabilities(dense[:, 2:3].copy(), codes[:, 2:3].copy())
    np.testing.assert_allclose(one_candidate, whole[:, 2:3], rtol=1e-5)


def test_contributions_are_finite_and_the_features_that_decide_have_the_largest(ranker: Ranker) -> None:
    """One for each feature of each candidate; for trees they add up to the log odds but for a constant."""
    dense, codes = inputs()
    shares = ranker.contributions(dense, codes)
    assert shares.shape == (4, 6, 6) and np.isfinite(shares).all()
    if isinstance(ranker, LightGbmRanker):
        assert np.abs(shares).mean((0, 1)).argmax() == 0
        rest = logit(ranker.probabilities(dense, codes)[..., 0]) - shares.sum(-1)
        np.testing.assert_allclose(rest, np.full((4, 6), rest[0, 0]), atol=1e-3, rtol=0)


def test_a_saved_ranker_is_read_back_the_same(ranker: Ranker, tmp_path: Path) -> None:
    """Weights, configuration and scaling survive the bundle."""
    ranker.shown = [(0.5, 1.0), (0.7, 2.0)]
    ranker.save(tmp_path)
    again, probabilities = type(ranker).load(tmp_path), ranker.probabilities(*inputs())
    np.testing.assert_allclose(again.probabilities(*inputs()), probabilities, rtol=1e-6)
    np.testing.assert_array_equal(again.when_shown(probabilities), ranker.when_shown(probabilities))


def test_linear_scores_order_by_the_feature_that_decides() -> None:
    """Whatever the features' units are."""
    data = some_data(0)
    scores = linear_scores(replace(data, dense=data.dense * np.array([100, 1, 0.01], np.float32) + np.float32(7)), 0)
    assert (scores.argmax(1) == data.labels[..., 0].argmax(1)).mean() > 0.9
    np.testing.assert_allclose(scores, linear_scores(data, 0), atol=0.05)


def test_padding_neither_teaches_nor_shifts_a_linear_score() -> None:
    """Its features are noise of another scale here."""
    data = some_data(0)
    noise = np.full((300, 2, 3), 1000, np.float32)
    padded = RankingData(
        np.pad(data.candidates, ((0, 0), (0, 2)), constant_values=-1),
        np.concatenate([data.dense, noise], 1),
        np.pad(data.categorical, ((0, 0), (0, 2), (0, 0))),
        np.pad(data.labels, ((0, 0), (0, 2), (0, 0))),
        np.pad(data.price, ((0, 0), (0, 2))),
    )
    np.testing.assert_allclose(linear_scores(padded, 0)[:, :6], linear_scores(data, 0), atol=1e-4)


def test_heads_with_the_same_labels_are_fitted_once() -> None:
    """Where every event counts for both."""
    same, other = (
        fit_trees(some_data(0), RankerConfig(trees=5), 0),
        fit_trees(some_data(0, False), RankerConfig(trees=5), 0),
    )
    assert same.trees[0] is same.trees[1] and other.trees[0] is not other.trees[1]


def test_calibration_is_a_line_of_the_log_odds(ranker: Ranker) -> None:
    """Of each head, and a second one comes on top of the first."""
    before = ranker.log_odds(*inputs())
    ranker.calibrate([(0.5, 1.0), (2.0, -1.0)])
    np.testing.assert_allclose(ranker.log_odds(*inputs()), before * [0.5, 2.0] + [1.0, -1.0], rtol=1e-4, atol=1e-4)
    ranker.calibrate([(2.0, 0.0), (1.0, 0.5)])
    np.testing.assert_allclose(ranker.log_odds(*inputs()), before * [1.0, 2.0] + [2.0, -0.5], rtol=1e-4, atol=1e-4)


def test_without_impressions_what_is_shown_is_like_any_candidate(ranker: Ranker) -> None:
    """Its probabilities stay as they are."""
    probabilities = ranker.probabilities(*inputs())
    np.testing.assert_allclose(ranker.when_shown(probabilities), probabilities, rtol=1e-4)


def test_impressions_set_the_level_of_what_is_shown_and_leave_candidates_alone() -> None:
    """Three of six candidates were shown, so that one of three is clicked and not one of six."""
    data = some_data(7)
    clicked = data.labels[..., 0].argmax(1)
    ids = np.arange(6)
    shown = replace(data, candidates=np.where((ids - clicked[:, None]) % 6 < 3, ids, -1))
    with_impressions, without = fitted(data, shown=shown), fitted(data)
    of_candidates = with_impressions.probabilities(data.dense, data.categorical)
    np.testing.assert_array_equal(of_candidates, without.probabilities(data.dense, data.categorical))
    of_shown = with_impressions.when_shown(of_candidates)[shown.present][:, 0]
    assert of_candidates[..., 0].mean() == pytest.approx(1 / 6, abs=0.05)
    assert of_shown.mean() == pytest.approx(1 / 3, abs=0.05)


def test_the_same_seed_gives_the_same_ranker() -> None:
    """And another seed another one."""
    one, same, other = (new_ranker(seed).probabilities(*inputs()) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert not np.allclose(one, other)


def test_trees_learn_what_was_clicked_and_their_probabilities_have_its_level() -> None:
    """One of six candidates is clicked, the one with the largest first feature."""
    data = some_data(7)
    probabilities = new_trees().probabilities(data.dense, data.categorical)[..., 0]
    assert (probabilities.argmax(1) == data.labels[..., 0].argmax(1)).mean() > 0.8
    assert probabilities.mean() == pytest.approx(1 / 6, abs=0.05)


def test_trees_learn_what_only_a_text_of_the_context_tells() -> None:
    """The third candidate is clicked where a fourth code, which holds for the whole request, is 2 or 4, and the first elsewhere."""
    data = some_data(3, purchases=False)
    device = np.random.default_rng(1).integers(0, 5, 300)
    position = np.where((device == 2) | (device == 4), 2, 0)
    labels = np.zeros_like(data.labels)
    labels[np.arange(300), position, 0] = 1
    dense = np.concatenate([data.dense, np.tile(np.arange(6, dtype=np.float32), (300, 1))[:, :, None]], -1)
    codes = np.concatenate([data.categorical, np.broadcast_to(device[:, None, None], (300, 6, 1))], -1)
    told = replace(data, labels=labels, dense=dense, categorical=codes)
    trees = fit_trees(told, RankerConfig(trees=30, teachers=1), 0)
    assert (trees.log_odds(dense, codes)[..., 0].argmax(1) == position).mean() > 0.95
    assert Rows.of(told).texts == [7] and Rows.of(data).texts == []


def test_trees_learn_the_order_of_each_request_and_its_first_candidates_most() -> None:
    """Two requests of three and two candidates: what is above the request's mean, weighted by rank."""
    rows = Rows(np.zeros((5, 1), np.float32), np.zeros((5, 2), np.float32), np.array([3, 2]))
    lesson = rows.order(np.array([1.0, 3.0, 2.0, 10.0, 12.0]))
    np.testing.assert_allclose(lesson.label, [-1, 1, 0, -1, 1])
    weight_of = {rank: 1 / (1 + rank / HALF_WEIGHT) for rank in range(3)}
    np.testing.assert_allclose(lesson.weight, [weight_of[rank] for rank in (2, 0, 1, 1, 0)])


def test_the_same_seed_gives_the_same_trees_and_more_teachers_trees_that_differ_less() -> None:
    """The clicked candidate is hard to tell, so that a single teacher goes by its seed."""
    data = some_data(3, purchases=False)
    noise = np.random.default_rng(5).normal(size=data.dense.shape).astype(np.float32)
    noisy = replace(data, dense=data.dense + 2 * noise)

    def scores(seed: int, teachers: int) -> Floats:
        trees = fit_trees(noisy, RankerConfig(trees=5, teachers=teachers), seed)
        return trees.log_odds(data.dense, data.categorical)

    def distance(teachers: int) -> float:
        one, other = scores(0, teachers)[..., 0].ravel(), scores(1, teachers)[..., 0].ravel()
        return 1 - float(np.corrcoef(one, other)[0, 1])

    np.testing.assert_array_equal(scores(0, 2), scores(0, 2))
    assert 0 < distance(6) < distance(1)


def test_a_head_without_positives_gets_its_base_rate() -> None:
    """Data without purchases are no error, and no purchase is promised."""
    data = some_data(0, purchases=False)
    bought = fitted(data, trees=5).probabilities(data.dense, data.categorical)[..., 1]
    assert (bought < 1e-3).all()


def test_the_value_formula_is_as_documented() -> None:
    """click · p(click) + purchase · p(purchase) · price^power."""
    probabilities, price = np.array([[[0.3, 0.1]]], np.float32), np.array([[20.0]], np.float32)
    values = value(probabilities, price, ValueConfig(click=2.0, purchase=3.0, price_power=0.5))
    assert values.item() == pytest.approx(2 * 0.3 + 3 * 0.1 * math.sqrt(20))
    assert value(probabilities, price, ValueConfig()).item() == pytest.approx(0.3 + 2 * 0.1)


def test_padded_candidates_do_not_touch_the_loss() -> None:
    """A wider block of candidates gives the same loss."""
    dense, codes = inputs()
    labels = np.zeros((4, 6, 2), np.float32)
    labels[:, 1] = 1
    data = RankingData(np.arange(24).reshape(4, 6), dense, codes, labels, np.ones((4, 6), np.float32))
    padding = {field.name: getattr(data, field.name)[:1, :1].repeat(8, 1) for field in fields(data)}
    wide = RankingData.join([data, RankingData(**padding)]).rows(slice(0, 4))
    assert wide.candidates.shape == (4, 8) and (wide.candidates[:, 6:] == -1).all()
    torch.testing.assert_close(ranking_loss(new_ranker(), wide), ranking_loss(new_ranker(), data))
