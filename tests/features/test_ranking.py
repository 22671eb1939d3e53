"""Ranking features: values computed by hand, and none that knows the future."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.facts import extend_facts, fit_facts
from features.histories import VALID, EventLog, Histories, Requests
from features.leakage import leaking, refuse_leakage
from features.ranking import ATTRIBUTES, RankingFeatures, occurrences
from recsys.arrays import Floats
from recsys.errors import RecsysError
from tests.worlds import DAY, START, catalogue, log_of

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
    similarity = same_items(everything, histories)
    return built.dense(built.inputs(histories, everything, {}, similarity, similarity, similarity > 0))


def same_items(candidates: np.ndarray, histories: Histories) -> Floats:
    """Return the similarities of items whose vectors are orthogonal."""
    return (candidates[:, :, None] == histories.items[:, None, :]).astype(np.float32)


def test_honest_features_leak_nothing() -> None:
    """Taking the future away changes none of them."""
    assert leaking(features_at, FEATURES.names, LOG, LOG.requests(VALID)) == []


def test_a_planted_leak_is_caught_and_named() -> None:
    """A popularity that counts later events is caught."""

    def planted(log: EventLog, requests: Requests) -> Floats:
        dense = features_at(log, requests)
        dense[:, :, FEATURES.names.index("purchases")] = np.bincount(log.items, minlength=6)
        return dense

    assert leaking(planted, FEATURES.names, LOG, LOG.requests(VALID)) == ["purchases"]


def test_attributes_of_an_item_are_compared_with_those_of_the_history() -> None:
    """The same attributes have the cosine 1; a single attribute is a feature by itself alone."""
    items = ITEMS.with_columns(
        quiet=pl.Series([1.0, 1.0, 0.0, 0.0, 0.0, 0.0]), small=pl.Series([0.0, 0.0, 1.0, 1.0, 0.0, 0.0])
    )
    log = log_of([("a", "i0", "click", 0)], 6)
    built = RankingFeatures(fit_facts(items, log, ("quiet", "small")), True, (), ("quiet", "small"))
    histories, candidates = log.histories(np.array([0]), np.array([START + DAY]), 1), np.array([[1, 2, 4]])
    similarity = same_items(candidates, histories)
    dense = built.dense(built.inputs(histories, candidates, {}, similarity, similarity, similarity >= 0))
    columns = dict(zip(built.names, dense[0].T, strict=True))
    assert columns["attribute_mean"][0] == pytest.approx(1)
    assert columns["attribute_best"][1] < 0
    np.testing.assert_allclose(columns["attribute_category"], columns["attribute_mean"], rtol=1e-5)
    alone = RankingFeatures(fit_facts(items, log, ("quiet",)), True, (), ("quiet",))
    assert not set(alone.names) & set(ATTRIBUTES)


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
    similarity = same_items(candidates, histories)
    dense = built.dense(built.inputs(histories, candidates, {}, similarity, similarity, similarity > 0))
    columns = dict(zip(built.names, dense[0].T, strict=True))
    np.testing.assert_allclose(columns["popularity"], np.log1p([2, 1, 0]), rtol=1e-6)
    np.testing.assert_allclose(columns["popularity_1d"], np.log1p([0, 1, 0]), rtol=1e-6)
    np.testing.assert_allclose(columns["seen"], np.log1p([1, 1, 0]), rtol=1e-6)
    np.testing.assert_allclose(columns["seen_back"], [1 / 2, 1, 0], rtol=1e-6)
    np.testing.assert_allclose(columns["seen_age"], np.log1p([3, 1, 365]), rtol=1e-6)
    np.testing.assert_allclose(columns["similarity_last"], [0, 1, 0])
    np.testing.assert_allclose(columns["brand_share"], [1, 1, 0])
    np.testing.assert_allclose(columns["history_length"], np.log1p([2, 2, 2]), rtol=1e-6)


def test_features_are_the_same_however_far_a_history_is_padded() -> None:
    """So a user's list does not depend on whose requests share the batch."""
    features, rng = RankingFeatures(fit_facts(ITEMS, LOG, ()), True, (), ()), np.random.default_rng(0)
    candidates, values = np.array([[0, 1, 2, 3, 4, 5]]), -rng.random((1, 6, 6), np.float32)
    rows = []
    for length in (6, 9):
        histories = LOG.histories(np.array([0]), LOG.times.max(keepdims=True) + DAY, length)
        assert histories.lengths.tolist() == [6]
        similarity = np.zeros((1, 6, length), np.float32)
        similarity[:, :, -6:] = values
        same = np.zeros((1, 6, length), bool)
        same[:, 1:, -2:] = True
        rows.append(features.dense(features.inputs(histories, candidates, {}, similarity, similarity, same)))
    columns = dict(zip(features.names, rows[0][0].T, strict=True))
    assert columns["taste_best"][0] == 0 and (columns["taste_best"][1:] < 0).all()
    np.testing.assert_allclose(rows[1], rows[0], rtol=1e-6)


ROW = st.lists(st.integers(-1, 4), min_size=3, max_size=3)


@given(st.lists(st.tuples(ROW, ROW), min_size=1, max_size=5))
def test_occurrences_are_counted_with_their_last_position(rows: list[tuple[list[int], list[int]]]) -> None:
    """As comparing every pair would count them; padding is nothing."""
    past, items = np.array([row[0] for row in rows]), np.abs([row[1] for row in rows])
    counts, positions = occurrences(past, items)
    same = past[:, None, :] == items[:, :, None]
    np.testing.assert_array_equal(counts, same.sum(2))
    np.testing.assert_array_equal(positions, np.where(same, np.arange(3), -1).max(2))


def test_an_ordinal_time_gives_no_feature_of_a_clock() -> None:
    """Ages, windows and hours are left out."""
    names = RankingFeatures(FEATURES.facts, False, ("interest",), ()).names
    assert "popularity" in names and "relative_interest" in names
    assert not [name for name in names if "age" in name.split("_") or "hour" in name or name.endswith("d")]


def test_new_items_have_facts_of_their_own_and_leave_the_others_alone() -> None:
    """Brands that only new items have stay unknown, as the ranker never saw them."""
    facts = fit_facts(ITEMS, LOG, ())
    new = catalogue(["new", "newer"], brand=["A", "Z"], price=[3.0, None]).with_columns(item_id=np.array(["n1", "n2"]))
    grown = extend_facts(facts, ITEMS, ITEMS.vstack(new), np.arange(ITEMS.height, ITEMS.height + new.height), ())
    for name in ("price", "purchases", "brand", "created", "text_length"):
        np.testing.assert_array_equal(getattr(grown, name)[:6], getattr(facts, name), err_msg=name)
    assert grown.brand[6:].tolist() == [facts.brand[0], 0]
    assert grown.events.count_before(np.array([6]), np.array([START + 99 * DAY])).tolist() == [0]
