"""The NumPy types that every module shares, and what -1 means in them.

An index array names items, users or requests by their row in another array. -1 in it means "none":
padding where the rows of a table differ in length, or something that the other array does not have.
NumPy would read -1 as the last row, so it is replaced or masked before the array is used as an index.
"""

import threading
import weakref
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

Scalar = TypeVar("Scalar", bound=np.generic)


def grow(array: NDArray[Scalar], rows: int, fill: Any) -> NDArray[Scalar]:
    """Return a copy of `array` `[n, …]` with `rows` rows; those from the n-th on hold `fill`.

    Raises:
        ValueError: `array` has more than `rows` rows.
    """
    if rows < len(array):
        raise ValueError(f"an array of {len(array)} rows cannot grow to {rows}")
    grown = np.empty((rows, *array.shape[1:]), array.dtype)
    grown[: len(array)], grown[len(array) :] = array, fill
    return grown


_used: dict[int, int] = {}
"""How many rows are in use of each array that was made with room behind its rows, by the array's `id`."""
_taking_room = threading.Lock()


def with_rows(array: NDArray[Scalar], rows: Ints, values: NDArray[Scalar], count: int) -> NDArray[Scalar]:
    """Return `array` `[n, …]` with `count` rows, of which `rows` hold `values`, and the other new ones 0; `array` stays as it is.

    If all `rows` are new, they are written into the room that an earlier call left behind the array, and nothing is copied.
    """
    new = rows.min(initial=count) >= len(array)
    grown = _in_its_room(array, count) if new else None
    if grown is None:
        grown = _with_room(array, count)
    grown[len(array) :] = 0
    if len(rows):
        grown[rows] = values
    return grown


def _in_its_room(array: NDArray[Scalar], count: int) -> NDArray[Scalar] | None:
    """Return `array` and the rows behind it up to `count`; None where there is no room, or another array took it."""
    whole = array.base
    if not isinstance(whole, np.ndarray) or (array.ctypes.data, array.strides) != (whole.ctypes.data, whole.strides):
        return None
    with _taking_room:
        if _used.get(id(whole)) != len(array) or count > len(whole):
            return None
        _used[id(whole)] = count
    return whole[:count]


def _with_room(array: NDArray[Scalar], count: int) -> NDArray[Scalar]:
    """Return a copy of `array` with `count` rows and room for an eighth more, which takes memory once it is used."""
    whole = np.empty((count + count // 8 + 1, *array.shape[1:]), array.dtype)
    whole[: len(array)] = array
    _used[id(whole)] = count
    weakref.finalize(whole, _used.pop, id(whole))
    return whole[:count]


def found_in(items: Ints, past: NDArray[np.integer]) -> Bools:
    """Return which of `items` `[R, C]` are in their row of `past` `[R, L]`."""
    found: Bools = (items[:, :, None] == past[:, None, :]).any(2)
    return found


def distinct(items: Ints) -> Ints:
    """Return each row's distinct items in ascending order, -1 padded to the longest row, or to one column."""
    ordered = np.sort(items, axis=1)
    repeated = np.zeros_like(ordered, bool)
    repeated[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    kept = ~repeated & (ordered >= 0)
    width = int(kept.sum(1).max(initial=1))
    order = np.argsort(~kept, axis=1, kind="stable")[:, :width]
    return np.where(np.take_along_axis(kept, order, 1), np.take_along_axis(ordered, order, 1), -1)


def offsets_of(counts: NDArray[np.integer]) -> Ints:
    """Return the offsets `[n + 1]` of n runs, of which run i has `counts[i]` entries."""
    offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets


def spans(starts: Ints, counts: NDArray[np.integer]) -> Ints:
    """Return the ranges `[starts[i], starts[i] + counts[i])`, one after the other."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(starts - (ends - counts), counts)
