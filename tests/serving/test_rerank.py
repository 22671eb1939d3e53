"""Diversity, caps, pins, promotions and exploration, on small cases with known answers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.rerank import Promotion, arranged, explore

ONE, TWO = [1.0, 0.0], [0.0, 1.0]


def floats(*rows: object) -> np.ndarray:
    return np.array(rows, np.float32)


def test_without_diversity_the_order_is_that_of_value() -> None:
    """What is no candidate stays out."""
    values = floats(1, 3, -np.inf, 2)
    assert arranged(values, floats(ONE, ONE, ONE, ONE), k=3).tolist() == [1, 3, 0]
    assert arranged(values, floats(ONE, ONE, ONE, ONE), k=9).tolist() == [1, 3, 0]


def test_diversity_prefers_what_is_unlike_the_items_above() -> None:
    """The best item stays first."""
    values, vectors = floats(1.0, 0.95, 0.5, 0.0), floats(ONE, ONE, TWO, TWO)
    assert arranged(values, vectors, k=3, diversity=0.5).tolist() == [0, 2, 1]
    assert arranged(values, vectors, k=3, diversity=0.01).tolist() == [0, 1, 2]


def test_a_brand_has_no_more_items_than_its_cap() -> None:
    """Items without a brand are not capped."""
    values, brands = floats(6, 5, 4, 3, 2, 1), np.array([1, 1, 1, 0, 0, 2])
    assert arranged(values, np.tile(floats(ONE), (6, 1)), k=6, caps=[(brands, 1)]).tolist() == [0, 3, 4, 5]
    assert arranged(values, np.tile(floats(ONE), (6, 1)), k=3, caps=[(brands, 2)]).tolist() == [0, 1, 3]


@given(st.integers(0, 1000), st.integers(1, 30), st.integers(1, 12), st.floats(0, 1), st.integers(0, 3))
def test_a_list_has_distinct_candidates_and_begins_with_the_best(
    seed: int, count: int, k: int, diversity: float, per_brand: int
) -> None:
    """Whatever the weights."""
    rng = np.random.default_rng(seed)
    values, vectors = rng.normal(size=count).astype(np.float32), rng.normal(size=(count, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    caps = [(rng.integers(0, 4, count), per_brand)] if per_brand else []
    chosen = arranged(values, vectors, k=k, diversity=diversity, caps=caps)
    assert len(set(chosen.tolist())) == len(chosen) <= k
    if diversity < 1:
        assert chosen[0] == values.argmax()
    if not per_brand:
        assert len(chosen) == min(k, count)


def test_a_pin_stands_at_its_position_and_counts_in_caps() -> None:
    """The best of its brand gives way to it."""
    values, brands, alike = floats(4, 3, 2, 1), np.array([1, 2, 1, 2]), floats(ONE, ONE, ONE, ONE)
    assert arranged(values, alike, k=4, pins={1: 3}).tolist() == [0, 3, 1, 2]
    assert arranged(values, alike, k=4, pins={1: 3}, caps=[(brands, 1)]).tolist() == [0, 3]
    assert arranged(values, alike, k=2, pins={3: 0}).tolist() == [1, 2]


def test_a_promotion_of_an_item_leaves_it_where_its_value_puts_it_if_that_is_high_enough() -> None:
    """Else it stands at the last position that it may have; two items share what is left."""
    values, alike = floats(4, 3, 2, 1), floats(ONE, ONE, ONE, ONE)
    first, last = np.array([True, False, False, False]), np.array([False, False, False, True])
    third = np.array([False, False, True, False])
    assert arranged(values, alike, k=4, promotions=[Promotion(first, within=3)]).tolist() == [0, 1, 2, 3]
    assert arranged(values, alike, k=4, promotions=[Promotion(last, within=2)]).tolist() == [0, 3, 1, 2]
    both = [Promotion(last, within=2), Promotion(third, within=2)]
    assert arranged(values, alike, k=4, promotions=both).tolist() == [2, 3, 0, 1]


def test_a_share_is_spread_over_the_list() -> None:
    """Members stand where the share falls due, the best first."""
    values, members = -np.arange(10, dtype=np.float32), np.arange(10) >= 7
    alike = np.tile(floats(ONE), (10, 1))
    chosen = arranged(values, alike, k=6, promotions=[Promotion(members, share=0.4)])
    assert chosen.tolist() == [0, 1, 7, 2, 8, 3]


@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 12), st.sampled_from([0.0, 0.3]), st.integers(0, 3))
def test_whatever_the_rules_a_list_has_distinct_items_its_pins_and_no_more_than_the_caps_allow(
    seed: int, count: int, k: int, diversity: float, cap: int
) -> None:
    """Shares hold wherever neither pins nor caps are in their way and there are enough members."""
    rng = np.random.default_rng(seed)
    values, vectors = rng.normal(size=count).astype(np.float32), rng.normal(size=(count, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    pinned = rng.permutation(count)[: rng.integers(0, 3)].tolist()
    pins = dict(zip(rng.permutation(k)[: len(pinned)].tolist(), pinned, strict=False))
    codes = rng.integers(0, 5, count)
    groups = rng.integers(0, 3, count)
    promotions = [Promotion(groups == 1, share=0.5), Promotion(groups == 2, share=rng.choice([0.2, 0.5]))]
    caps = [(codes, cap)] if cap else []
    chosen = arranged(values, vectors, k=k, diversity=diversity, caps=caps, pins=pins, promotions=promotions).tolist()
    assert len(set(chosen)) == len(chosen) <= k
    if len(chosen) == k:
        assert all(chosen[position] == column for position, column in pins.items())
    if cap:
        unpinned = [column for column in chosen if column not in pins.values()]
        for code in range(1, 5):
            fixed = sum(codes[column] == code for column in pins.values())
            assert (codes[unpinned] == code).sum() <= max(0, cap - fixed)
        return
    assert len(chosen) == min(k, count)
    if pins:
        return
    for n in range(1, len(chosen) + 1):
        for promotion in promotions:
            owed = min(int(promotion.share * n + 1e-9), int(promotion.members.sum()))
            assert promotion.members[chosen[:n]].sum() >= owed


@pytest.mark.parametrize("share", [0.2, 0.5])
@pytest.mark.parametrize("pool", [1, 2, 3, 4, 5, 20])
def test_explored_items_appear_as_often_as_their_logged_propensity_says(pool: int, share: float) -> None:
    """At each position, also where the pool is smaller than what is drawn, and each new item equally often."""
    rng = np.random.default_rng(0)
    listed, new, rounds = np.arange(5), np.arange(100, 100 + pool), 20_000
    lists, logged = np.empty((rounds, 5), np.int64), np.full((rounds, 5), np.nan)
    for row in range(rounds):
        lists[row], propensities = explore(listed, new, share, rng)
        logged[row] = [np.nan if propensity is None else propensity for propensity in propensities]
        assert len(set(lists[row].tolist())) == 5
    np.testing.assert_array_equal(lists >= 100, ~np.isnan(logged))
    for item in new.tolist():
        for position in range(5):
            hits = lists[:, position] == item
            propensity = np.unique(logged[hits, position])
            assert len(propensity) == 1
            error = np.sqrt(propensity[0] * (1 - propensity[0]) / rounds)
            assert abs(hits.mean() - propensity[0]) < 5 * error


def test_nothing_new_leaves_nothing_to_explore() -> None:
    """Nor does a new item that is in the list already."""
    items, probabilities = explore(np.arange(3), np.array([1]), 0.5, np.random.default_rng(0))
    assert items.tolist() == [0, 1, 2] and probabilities == [None] * 3
