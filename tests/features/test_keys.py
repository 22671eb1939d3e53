"""Searches in many sorted runs at once."""

from bisect import bisect_left

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from features.keys import SortedRuns, composite_keys

ENTRY = st.tuples(st.integers(0, 4), st.integers(-3, 10**15))


@settings(max_examples=100)
@given(st.lists(ENTRY, max_size=30), st.lists(ENTRY, min_size=1, max_size=10))
def test_one_search_in_all_runs_equals_a_search_in_each(
    entries: list[tuple[int, int]], searches: list[tuple[int, int]]
) -> None:
    """Equal values, runs without entries and values outside a run are found where a plain bisection finds them."""
    entries.sort()
    expected = [bisect_left(entries, search) for search in searches]
    runs, values = (np.array([entry[part] for entry in entries], np.int64) for part in (0, 1))
    rows = SortedRuns.of(runs, values).first_not_below(*np.array(searches, np.int64).T)
    assert rows.tolist() == expected


def test_composite_keys_sort_as_pairs_do() -> None:
    """First by run, then by value."""
    runs, values = np.divmod(np.random.default_rng(0).permutation(20), 5)
    order = np.argsort(composite_keys(runs, values, 5))
    assert order.tolist() == np.lexsort((values, runs)).tolist()
