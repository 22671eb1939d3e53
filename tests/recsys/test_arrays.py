"""Arrays that grow."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.arrays import grow, with_rows


@pytest.mark.parametrize(
    ("array", "fill"),
    [
        (np.array([1, 2], np.int64), -1),
        (np.array([[1, 2], [3, 4]], np.float32), 0),
        (np.empty((0, 3), np.float32), 7),
        (np.array([True, False]), True),
    ],
)
def test_grown_arrays_keep_their_rows_and_type_and_end_with_the_fill(array: np.ndarray, fill: int) -> None:
    """The first rows are a copy, and nothing of them is repeated in the new ones, as `np.resize` would."""
    grown = grow(array, 4, fill)
    assert grown.shape == (4, *array.shape[1:]) and grown.dtype == array.dtype
    np.testing.assert_array_equal(grown[: len(array)], array)
    assert (grown[len(array) :] == fill).all()
    assert not np.shares_memory(grown, array)


def test_arrays_do_not_shrink() -> None:
    """A catalogue never loses rows, so fewer rows are a mistake of the caller."""
    with pytest.raises(ValueError, match="2 rows cannot grow to 0"):
        grow(np.zeros(2), 0, 0)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 9),  # which of the arrays so far changes
            st.integers(0, 3),  # rows at its end
            st.lists(st.integers(0, 20), max_size=3),  # rows with values
        ),
        max_size=12,
    )
)
def test_rows_are_put_as_into_copies(steps: list[tuple[int, int, list[int]]]) -> None:
    """Whichever array of a catalogue's past grows next, and however often: none of them changes."""
    arrays, right = [np.array([[1, 2], [3, 4]])], [np.array([[1, 2], [3, 4]])]
    for number, (which, added, put) in enumerate(steps):
        array, copy = arrays[which % len(arrays)], right[which % len(arrays)]
        count = len(array) + added
        rows = np.unique([row % count for row in put]).astype(np.int64)
        values = np.full((len(rows), 2), 100 + number)
        expected = grow(copy, count, 0)
        expected[rows] = values
        arrays.append(with_rows(array, rows, values, count))
        right.append(expected)
    for array, expected in zip(arrays, right, strict=True):
        np.testing.assert_array_equal(array, expected)


def test_one_item_after_the_other_is_put_without_a_copy() -> None:
    """A catalogue of a million items has gigabytes of vectors."""
    first = with_rows(np.zeros((100, 4)), np.array([100]), np.ones((1, 4)), 101)
    second = with_rows(first, np.array([101]), np.ones((1, 4)), 102)
    assert np.shares_memory(first, second)
    assert not np.shares_memory(second, with_rows(first, np.array([101]), np.ones((1, 4)), 102))
    assert not np.shares_memory(second, with_rows(second, np.array([7]), np.ones((1, 4)), 102))
