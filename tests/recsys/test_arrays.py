"""Arrays that grow."""

import numpy as np
import pytest

from recsys.arrays import grow


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
