"""Diversity, brand caps and exploration, on small cases with known answers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.rerank import diverse, explore

ONE, TWO = [1.0, 0.0], [0.0, 1.0]
NONE = np.zeros(4, np.int64)


def floats(*rows: object) -> np.ndarray:
    return np.array(rows, np.float32)


def test_without_diversity_the_order_is_that_of_value() -> None:
    """What is no candidate stays out."""
    values = floats(1, 3, -np.inf, 2)
    assert diverse(values, floats(ONE, ONE, ONE, ONE), NONE, k=3).tolist() == [1, 3, 0]
    assert diverse(values, floats(ONE, ONE, ONE, ONE), NONE, k=9).tolist() == [1, 3, 0]


def test_diversity_prefers_what_is_unlike_the_items_above() -> None:
    """The best item stays first."""
    values, vectors = floats(1.0, 0.95, 0.5, 0.0), floats(ONE, ONE, TWO, TWO)
    assert diverse(values, vectors, NONE, k=3, diversity=0.5).tolist() == [0, 2, 1]
    assert diverse(values, vectors, NONE, k=3, diversity=0.01).tolist() == [0, 1, 2]


def test_a_brand_has_no_more_items_than_its_cap() -> None:
    """Items without a brand are not capped."""
    values, brands = floats(6, 5, 4, 3, 2, 1), np.array([1, 1, 1, 0, 0, 2])
    assert diverse(values, np.tile(floats(ONE), (6, 1)), brands, k=6, per_brand=1).tolist() == [0, 3, 4, 5]
    assert diverse(values, np.tile(floats(ONE), (6, 1)), brands, k=3, per_brand=2).tolist() == [0, 1, 3]


@given(st.integers(0, 1000), st.integers(1, 30), st.integers(1, 12), st.floats(0, 1), st.integers(0, 3))
def test_a_list_has_distinct_candidates_and_begins_with_the_best(
    seed: int, count: int, k: int, diversity: float, per_brand: int
) -> None:
    """Whatever the weights."""
    rng = np.random.default_rng(seed)
    values, vectors = rng.normal(size=count).astype(np.float32), rng.normal(size=(count, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    chosen = diverse(values, vectors, rng.integers(0, 4, count), k=k, diversity=diversity, per_brand=per_brand)
    assert len(set(chosen.tolist())) == len(chosen) <= k
    if diversity < 1:
        assert chosen[0] == values.argmax()
    if not per_brand:
        assert len(chosen) == min(k, count)


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
