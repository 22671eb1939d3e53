"""When items may be in lists: fast masks equal to the plain definition."""

import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from serving.retrieval.windows import EARLIEST, LATEST, Windows

MOMENTS = st.integers(-3, 12)
WINDOW = st.tuples(MOMENTS | st.just(EARLIEST), MOMENTS | st.just(LATEST))


def windows_of(pairs: list[tuple[int, int]]) -> Windows:
    opens, closes = np.array(pairs, np.int64).reshape(-1, 2).T
    return Windows(opens, closes)


@given(st.lists(WINDOW, max_size=6), st.lists(MOMENTS, min_size=1, max_size=8))
def test_the_mask_of_every_moment_is_that_of_the_definition(pairs: list[tuple[int, int]], moments: list[int]) -> None:
    """Whichever moments came before, since the mask of the one before is kept."""
    windows = windows_of(pairs)
    for moment in moments:
        mask, plain = windows.open_at(moment), [opens <= moment < closes for opens, closes in pairs]
        assert plain == ([True] * len(pairs) if mask is None else mask.tolist())
    assert windows.open_for(np.array(moments)).tolist() == [
        [opens <= moment < closes for opens, closes in pairs] for moment in moments
    ]


@given(st.lists(WINDOW, max_size=6), MOMENTS, st.integers(0, 6), MOMENTS)
def test_no_item_that_is_open_at_some_moment_is_left_out_of_a_span(
    pairs: list[tuple[int, int]], first: int, length: int, before: int
) -> None:
    """And those that are not open all the time are counted."""
    windows, last = windows_of(pairs), first + length
    windows.open_at(before)
    mask, varying = windows.open_between(first, last)
    at_each = np.array([[opens <= now < closes for opens, closes in pairs] for now in range(first, last + 1)], bool)
    some = at_each.any(0) if len(pairs) else np.ones(0, bool)
    assert np.array_equal(some | (True if mask is None else mask), np.ones(len(pairs), bool) if mask is None else mask)
    assert varying >= (some & ~at_each.all(0)).sum()
    if not varying:
        assert (at_each == (True if mask is None else mask)).all()


def test_windows_are_read_from_the_catalogue_where_a_missing_time_is_no_limit() -> None:
    """The moment of `available_from` belongs to the window, that of `available_until` does not."""
    items = pl.DataFrame({"available_from": [None, 5, None], "available_until": [None, None, 5]})
    windows = Windows.of(items.cast(pl.Int64))
    assert windows.open_at(5).tolist() == [True, True, False]  # type: ignore[union-attr]
    assert windows.open_at(4).tolist() == [True, False, True]  # type: ignore[union-attr]
    assert windows.limited and not windows_of([(EARLIEST, LATEST)]).limited
    assert windows.has_open(np.array([[0, 1, -1]]), np.array([4])).tolist() == [[True, False, False]]
