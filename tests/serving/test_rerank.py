"""Diversity, brand caps and exploration, on small cases with known answers."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from serving.rerank import choose, explore

ONE, TWO = [1.0, 0.0], [0.0, 1.0]
NONE = np.zeros(4, np.int64)


def floats(*rows: object) -> np.ndarray:
    return np.array(rows, np.float32)


def test_without_diversity_the_order_is_that_of_value() -> None:
    """What is no candidate stays out."""
    values = floats(1, 3, -np.inf, 2)
    assert choose(values, floats(ONE, ONE, ONE, ONE), NONE, 3).tolist() == [1, 3, 0]
    assert choose(values, floats(ONE, ONE, ONE, ONE), NONE, 9).tolist() == [1, 3, 0]


def test_diversity_prefers_what_is_unlike_the_places_above() -> None:
    """The best item stays first."""
    values, vectors = floats(1.0, 0.95, 0.5, 0.0), floats(ONE, ONE, TWO, TWO)
    assert choose(values, vectors, NONE, 3, diversity=0.5).tolist() == [0, 2, 1]
    assert choose(values, vectors, NONE, 3, diversity=0.01).tolist() == [0, 1, 2]


def test_a_brand_has_no_more_places_than_its_cap() -> None:
    """Items without a brand know no cap."""
    values, brands = floats(6, 5, 4, 3, 2, 1), np.array([1, 1, 1, 0, 0, 2])
    assert choose(values, np.tile(floats(ONE), (6, 1)), brands, 6, per_brand=1).tolist() == [0, 3, 4, 5]
    assert choose(values, np.tile(floats(ONE), (6, 1)), brands, 3, per_brand=2).tolist() == [0, 1, 3]


@given(st.integers(0, 1000), st.integers(1, 30), st.integers(1, 12), st.floats(0, 1), st.integers(0, 3))
def test_a_list_has_distinct_candidates_and_begins_with_the_best(
    seed: int, count: int, k: int, diversity: float, per_brand: int
) -> None:
    """Whatever the weights."""
    rng = np.random.default_rng(seed)
    values, vectors = rng.normal(size=count).astype(np.float32), rng.normal(size=(count, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    chosen = choose(values, vectors, rng.integers(0, 4, count), k, diversity, per_brand)
    assert len(set(chosen.tolist())) == len(chosen) <= k
    if diversity < 1:
        assert chosen[0] == values.argmax()
    if not per_brand:
        assert len(chosen) == min(k, count)


def test_explored_places_have_the_share_and_the_propensity_that_are_told() -> None:
    """Each new item stands at each place with the chance share / new items."""
    rng = np.random.default_rng(0)
    listed, new = np.arange(10), np.arange(100, 120)
    rounds = [explore(listed, new, 0.2, rng) for _ in range(4000)]
    lists = np.stack([items for items, _ in rounds])
    assert abs((lists >= 100).mean() - 0.2) < 0.01
    assert abs((lists == 107).mean() - 0.2 / 20) < 0.002
    for items, probabilities in rounds[:50]:
        assert len(set(items.tolist())) == 10
        assert [chance is not None for chance in probabilities] == (items >= 100).tolist()
        assert {chance for chance in probabilities if chance} <= {0.2 / 20}


def test_nothing_new_leaves_nothing_to_explore() -> None:
    """Nor does a new item that stands in the list already."""
    items, probabilities = explore(np.arange(3), np.array([1]), 0.5, np.random.default_rng(0))
    assert items.tolist() == [0, 1, 2] and probabilities == [None] * 3
