"""The nearest-neighbour index over item vectors: the door to FAISS.

In: unit vectors `[N, D]` of a catalogue. Out: for unit queries `[R, D]` the k items of largest inner
product. Up to `EXACT_UP_TO` items are searched exactly, more of them in the inverted lists nearest to
the query, with 8 bits a dimension.
"""

import math
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from recsys.arrays import Bools, Floats, Ints

Items = NDArray[np.integer]

EXACT_UP_TO = 20_000
"""Items that are all compared with a query."""

PROBED = 32
"""Lists that are searched."""

TRAINED_PER_LIST = 64
"""Vectors per list from which the lists' centres are learned."""


class VectorIndex:
    """The nearest of some items of a catalogue, on the GPU where FAISS finds one.

    Items that are new or changed since it was built are in a second, exact index.
    """

    def __init__(self, index: Any, vectors: Floats, items: Items, later: Items | None = None) -> None:
        """`index` holds `items` `[n]` of the catalogue with `vectors` `[N, D]`; `later` `[m]` are new or changed since."""
        self._stored, self._items, self.vectors, self._later = index, items, vectors, later
        self._index = _on_gpu(index)
        self._exact = len(items) <= EXACT_UP_TO
        self._current = np.zeros(len(vectors), np.bool_)
        self._current[items] = True
        if later is not None:
            self._later_index = _exact(vectors, later)
            self._current[later] = False

    @classmethod
    def build(cls, vectors: Floats, items: Items) -> "VectorIndex":
        """Index the `items` `[n]` of the catalogue with `vectors` `[N, D]`."""
        make = _exact if len(items) <= EXACT_UP_TO else _inverted
        return cls(make(vectors, items), vectors, items)

    def extended(self, vectors: Floats, items: Items) -> "VectorIndex":
        """Return an index that also holds the `items` `[m]`, with their current `vectors` `[N, D]`."""
        later = items if self._later is None else np.union1d(self._later, items)
        return VectorIndex(self._stored, vectors, self._items, later)

    @classmethod
    def load(cls, path: Path, vectors: Floats, items: Items) -> "VectorIndex":
        """Read what `save` wrote for the `items` `[n]` with `vectors` `[N, D]`."""
        return cls(faiss.read_index(str(path)), vectors, items)

    def save(self, path: Path) -> None:
        """Write the index to `path`, without later items."""
        faiss.write_index(self._stored, str(path))

    def search(self, queries: Floats, k: int, allowed: Bools | None = None) -> Ints:
        """Return the `allowed` `[N]` items `[R, k]` nearest to `queries` `[R, D]`, best first, -1 past the end."""
        queries = np.ascontiguousarray(queries, np.float32)
        if self._later is None and allowed is None:
            return _searched(self._index, queries, k)[1]
        main = self._among(queries, k, self._current if allowed is None else allowed & self._current)
        if self._later is None:
            return main[1]
        later = _searched(self._later_index, queries, k, _selecting(allowed))
        scores, items = np.concatenate([main[0], later[0]], axis=1), np.concatenate([main[1], later[1]], axis=1)
        order = np.argsort(-np.where(items >= 0, scores, -np.inf), axis=1, kind="stable")[:, :k]
        return np.take_along_axis(items, order, axis=1)

    def _among(self, queries: Floats, k: int, allowed: Bools) -> tuple[Floats, Ints]:
        """Search the `allowed` `[N]` among the items that have not changed since the index was built."""
        if self._exact:
            # An index on a GPU takes no selector; the same vectors are in main memory.
            return _searched(self._stored, queries, k, _selecting(allowed))
        count = np.count_nonzero(allowed)
        if count <= EXACT_UP_TO:
            return _nearest(queries, self.vectors, np.flatnonzero(allowed), k)
        # Where fewer items are allowed, more lists have to be searched to find k of them.
        probed = math.ceil(PROBED * len(self._items) / count)
        return _searched(self._stored, queries, k, _selecting(allowed, probed))


def _exact(vectors: Floats, items: Items) -> Any:
    index = faiss.IndexIDMap(faiss.IndexFlatIP(vectors.shape[1]))
    index.add_with_ids(np.ascontiguousarray(vectors[items], np.float32), np.ascontiguousarray(items, np.int64))
    return index


def _inverted(vectors: Floats, items: Items) -> Any:
    lists = min(4 * math.isqrt(len(items)), len(items) // 40)
    index: Any = faiss.index_factory(vectors.shape[1], f"IVF{lists},SQ8", faiss.METRIC_INNER_PRODUCT)
    index.cp.max_points_per_centroid = TRAINED_PER_LIST
    added = np.ascontiguousarray(vectors[items], np.float32)
    index.train(added)
    index.add_with_ids(added, np.ascontiguousarray(items, np.int64))
    index.nprobe = PROBED
    return index


def _selecting(allowed: Bools | None, probed: int | None = None) -> Any:
    """Return FAISS' parameters for a search among `allowed` `[N]` items, in `probed` lists."""
    if allowed is None:
        return None
    mask: Any = np.packbits(allowed, bitorder="little")
    selector = faiss.IDSelectorBitmap(mask)  # type: ignore[call-arg]
    if probed is None:
        return faiss.SearchParameters(sel=selector)  # type: ignore[call-arg]
    return faiss.SearchParametersIVF(sel=selector, nprobe=probed)  # type: ignore[call-arg]


def _searched(index: Any, queries: Floats, k: int, parameters: Any = None) -> tuple[Floats, Ints]:
    scores, items = index.search(queries, k, params=parameters)
    return scores, np.asarray(items, np.int64)


def _nearest(queries: Floats, vectors: Floats, rows: Items, k: int) -> tuple[Floats, Ints]:
    """Return the k items among `rows` `[n]` nearest to `queries` `[R, D]` by comparing all of them."""
    scores = queries @ vectors[rows].T  # [R, n]
    nearest = (
        np.argpartition(-scores, min(k, len(rows)) - 1, axis=1)[:, :k]
        if len(rows)
        else np.zeros((len(queries), 0), int)
    )
    largest = np.take_along_axis(scores, nearest, 1)
    order = np.argsort(-largest, axis=1, kind="stable")
    missing = ((0, 0), (0, k - order.shape[1]))
    return (
        np.pad(np.take_along_axis(largest, order, 1), missing, constant_values=-np.inf),
        np.pad(rows[np.take_along_axis(nearest, order, 1)], missing, constant_values=-1),
    )


def _on_gpu(index: Any) -> Any:
    if getattr(faiss, "get_num_gpus", lambda: 0)() == 0:
        return index
    return faiss.index_cpu_to_all_gpus(index)
