"""Every ranker passes the same suite; the value formula, and features that cannot know the future."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from features.histories import VALID, EventLog, Histories, Requests
from features.leakage import leaking, refuse_leakage
from features.ranking import Floats, RankingFeatures, extend_facts, fit_facts, occurrences
from recsys.config import RankerConfig, ValueConfig
from recsys.errors import RecsysError
from recsys.models.rankers import LightGbmRanker, Ranker, TorchRecRanker, value
from tests.worlds import DAY, START, catalogue, log_of
from training.ranker.data import RankingData
from training.ranker.neural import ranking_loss
from training.ranker.trees import fit_trees

NAMES, SIZES = ["a", "b", "c"], {"brand": 5, "category": 3}


def new_ranker(seed: int = 0) -> TorchRecRanker:
    torch.manual_seed(seed)
    ranker = TorchRecRanker(RankerConfig(dropout=0.0), NAMES, SIZES)
    ranker.start_from(torch.randn(50, 3), torch.rand(50, 2) * 0.2)
    return ranker.eval()


def some_data(seed: int, purchases: bool = True) -> RankingData:
    """Return 300 requests whose first candidates with a large first feature are clicked."""
    generator = torch.Generator().manual_seed(seed)
    dense = torch.randn(300, 6, 3, generator=generator)
    clicked = (dense[..., 0] == dense[..., 0].max(1, keepdim=True).values).float()
    labels = torch.stack([clicked, clicked * purchases], -1)
    codes = torch.randint(0, 3, (300, 6, 2), generator=generator)
    return RankingData(torch.arange(6).expand(300, 6), dense, codes, labels, torch.ones(300, 6))


def new_trees(seed: int = 0) -> LightGbmRanker:
    return fit_trees(some_data(seed), RankerConfig(trees=20), seed)


@pytest.fixture(params=[new_ranker, new_trees], ids=["torchrec", "lightgbm"])
def ranker(request: pytest.FixtureRequest) -> Ranker:
    """Return each kind of ranker in turn."""
    return request.param()


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    dense = torch.randn(4, 6, 3, generator=generator)
    return dense, torch.randint(0, 3, (4, 6, 2), generator=generator)


def test_probabilities_are_probabilities(ranker: Ranker) -> None:
    """Two heads, each between 0 and 1."""
    probabilities = ranker.probabilities(*inputs())
    assert probabilities.shape == (4, 6, 2)
    assert ((probabilities > 0) & (probabilities < 1)).all()


def test_a_batch_equals_its_requests_and_its_candidates_alone(ranker: Ranker) -> None:
    """Neither other requests nor other candidates change a probability."""
    dense, codes = inputs()
    whole = ranker.probabilities(dense, codes)
    for row in range(4):
        torch.testing.assert_close(ranker.probabilities(dense[row : row + 1], codes[row : row + 1])[0], whole[row])
    torch.testing.assert_close(ranker.probabilities(dense[:, 2:3], codes[:, 2:3]), whole[:, 2:3])


def test_contributions_are_finite_and_the_features_that_decide_have_the_largest(ranker: Ranker) -> None:
    """One for each feature of each candidate; for trees they add up to the log odds but for a constant."""
    dense, codes = inputs()
    shares = ranker.contributions(dense, codes)
    assert shares.shape == (4, 6, 5) and shares.isfinite().all()
    if isinstance(ranker, LightGbmRanker):
        assert shares.abs().mean((0, 1)).argmax() == 0
        rest = torch.logit(ranker.probabilities(dense, codes)[..., 0]) - shares.sum(-1)
        torch.testing.assert_close(rest, rest[:1, :1].expand(4, 6), atol=1e-3, rtol=0)


def test_a_saved_ranker_is_read_back_the_same(ranker: Ranker, tmp_path: Path) -> None:
    """Weights, configuration and scaling survive the bundle."""
    ranker.save(tmp_path)
    torch.testing.assert_close(type(ranker).load(tmp_path).probabilities(*inputs()), ranker.probabilities(*inputs()))


def test_the_same_seed_gives_the_same_ranker() -> None:
    """And another seed another one."""
    one, same, other = (new_ranker(seed).probabilities(*inputs()) for seed in (0, 0, 1))
    torch.testing.assert_close(one, same)
    assert not torch.allclose(one, other)


def test_trees_learn_what_was_clicked_and_their_probabilities_have_its_level() -> None:
    """One of six candidates is clicked, the one with the largest first feature."""
    probabilities = new_trees().probabilities(some_data(7).dense, some_data(7).categorical)[..., 0]
    clicked = some_data(7).labels[..., 0]
    assert (probabilities.argmax(1) == clicked.argmax(1)).float().mean() > 0.8
    assert probabilities.mean().item() == pytest.approx(1 / 6, abs=0.05)


def test_a_head_without_positives_gets_its_base_rate() -> None:
    """Data without purchases are no error, and no purchase is promised."""
    data = some_data(0, purchases=False)
    trees = fit_trees(data, RankerConfig(trees=5), seed=0)
    bought = trees.probabilities(data.dense, data.categorical)[..., 1]
    assert (bought < 1e-3).all()


def test_the_value_formula_is_as_documented() -> None:
    """click · p(click) + purchase · p(purchase) · price^power."""
    probabilities, price = torch.tensor([[[0.3, 0.1]]]), torch.tensor([[20.0]])
    worth = value(probabilities, price, ValueConfig(click=2.0, purchase=3.0, price_power=0.5))
    assert worth.item() == pytest.approx(2 * 0.3 + 3 * 0.1 * math.sqrt(20))
    assert value(probabilities, price, ValueConfig()).item() == pytest.approx(0.3 + 2 * 0.1)


def test_padded_candidates_do_not_touch_the_loss() -> None:
    """A wider block of candidates gives the same loss."""
    dense, codes = inputs()
    labels = torch.zeros(4, 6, 2)
    labels[:, 1] = 1
    data = RankingData(torch.arange(24).view(4, 6), dense, codes, labels, torch.ones(4, 6))
    wide = RankingData(*(torch.cat([tensor, torch.zeros_like(tensor[:, :2])], 1) for tensor in vars(data).values()))
    wide.candidates[:, 6:] = -1
    torch.testing.assert_close(ranking_loss(new_ranker(), wide), ranking_loss(new_ranker(), data))


FEATURES = RankingFeatures(fit_facts(catalogue(["x"]), None, ()), True, (), ())
LOG = log_of(
    [
        (f"u{u}", f"i{(u + s) % 6}", "purchase" if s in (2, 5) else "click", 4 * s + u)
        for u in range(5)
        for s in range(6)
    ],
    6,
    (["train"] * 4 + ["valid"] * 2) * 5,
)
ITEMS = catalogue(
    [f"item {row}" for row in range(6)], brand=["A", "B", None, "A", "", "C"], price=[1, 2, None, 4, 5, 6]
)


def features_at(log: EventLog, requests: Requests) -> Floats:
    """Return honest features of all items, from the events of `log` before each request."""
    before = log.only(log.times < requests.times.min())
    built = RankingFeatures(fit_facts(ITEMS, before, ()), True, (), ())
    histories = log.histories(requests.users, requests.times, 5)
    everything = np.tile(np.arange(6), (len(requests), 1))
    return built.dense(histories, everything, {}, same_items(everything, histories))


def same_items(candidates: np.ndarray, histories: Histories) -> Floats:
    """Return the similarities of items whose vectors are orthogonal."""
    return (candidates[:, :, None] == histories.items[:, None, :]).astype(np.float32)


def test_honest_features_leak_nothing() -> None:
    """Taking the future away changes none of them."""
    assert leaking(features_at, FEATURES.names, LOG, LOG.requests(VALID)) == []


def test_a_planted_leak_is_caught_and_named() -> None:
    """A popularity that counts later events is found out."""

    def planted(log: EventLog, requests: Requests) -> Floats:
        dense = features_at(log, requests)
        dense[:, :, FEATURES.names.index("purchases")] = np.bincount(log.items, minlength=6)
        return dense

    assert leaking(planted, FEATURES.names, LOG, LOG.requests(VALID)) == ["purchases"]


def test_facts_of_events_after_the_request_stop_training() -> None:
    """The pipeline's own check refuses facts fitted on the requests' future."""
    requests = LOG.requests(VALID)
    refuse_leakage(FEATURES, ITEMS, LOG.only(LOG.times < requests.times.min()), LOG, requests)
    with pytest.raises(RecsysError, match=r"leakage: .* for example purchases"):
        refuse_leakage(FEATURES, ITEMS, LOG, LOG, requests)


def test_features_have_the_known_values_of_a_small_history() -> None:
    """Counts, ages and shares as one computes them by hand."""
    log = log_of([("a", "i0", "click", 0), ("a", "i3", "click", 2), ("b", "i0", "click", 1)], 6)
    built = RankingFeatures(fit_facts(ITEMS, log, ()), True, (), ())
    now = np.array([START + 3 * DAY])
    histories, candidates = log.histories(np.array([0]), now, 4), np.array([[0, 3, 1]])
    dense = built.dense(histories, candidates, {}, same_items(candidates, histories))
    found = dict(zip(built.names, dense[0].T, strict=True))
    np.testing.assert_allclose(found["popularity"], np.log1p([2, 1, 0]), rtol=1e-6)
    np.testing.assert_allclose(found["popularity_1d"], np.log1p([0, 1, 0]), rtol=1e-6)
    np.testing.assert_allclose(found["seen"], np.log1p([1, 1, 0]), rtol=1e-6)
    np.testing.assert_allclose(found["seen_back"], [1 / 2, 1, 0], rtol=1e-6)
    np.testing.assert_allclose(found["seen_age"], np.log1p([3, 1, 365]), rtol=1e-6)
    np.testing.assert_allclose(found["similarity_last"], [0, 1, 0])
    np.testing.assert_allclose(found["brand_share"], [1, 1, 0])
    np.testing.assert_allclose(found["history_length"], np.log1p([2, 2, 2]), rtol=1e-6)


ROW = st.lists(st.integers(-1, 4), min_size=3, max_size=3)


@given(st.lists(st.tuples(ROW, ROW), min_size=1, max_size=5))
def test_occurrences_are_counted_and_the_last_place_is_found(rows: list[tuple[list[int], list[int]]]) -> None:
    """As comparing every pair would find; padding stands nowhere."""
    past, wanted = np.array([row[0] for row in rows]), np.abs([row[1] for row in rows])
    counts, places = occurrences(past, wanted)
    same = past[:, None, :] == wanted[:, :, None]
    np.testing.assert_array_equal(counts, same.sum(2))
    np.testing.assert_array_equal(places, np.where(same, np.arange(3), -1).max(2))


def test_an_ordinal_time_gives_no_feature_of_a_clock() -> None:
    """Ages, windows and hours are left out."""
    names = RankingFeatures(FEATURES.facts, False, ("interest",), ()).names
    assert "popularity" in names and "relative_interest" in names
    assert not [name for name in names if "age" in name.split("_") or "hour" in name or name.endswith("d")]


def test_new_items_have_facts_of_their_own_and_leave_the_others_alone() -> None:
    """Brands that only new items have stay unknown, as the ranker never saw them."""
    facts = fit_facts(ITEMS, LOG, ())
    new = catalogue(["new", "newer"], brand=["A", "Z"], price=[3.0, None]).with_columns(item_id=np.array(["n1", "n2"]))
    grown = extend_facts(facts, ITEMS.vstack(new), np.arange(ITEMS.height, ITEMS.height + new.height), ())
    for name in ("price", "purchases", "brand", "created", "text_length"):
        np.testing.assert_array_equal(getattr(grown, name)[:6], getattr(facts, name), err_msg=name)
    assert grown.brand[6:].tolist() == [facts.brand[0], 0]
    assert grown.count_before(np.array([6]), np.array([START + 99 * DAY])).tolist() == [0]
