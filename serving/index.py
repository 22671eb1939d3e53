"""The nearest-neighbour index over item vectors: the door to FAISS.

In: unit vectors `[N, D]`. Out: for unit queries `[R, D]` the k items of largest inner product.
"""

from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]


class VectorIndex:
    """An exact inner-product index, on the GPU where FAISS finds one.

    Vectors that come later, or in the place of others, stand in an index of their own beside it.
    """

    def __init__(self, index: Any, later: Any = None) -> None:
        """`later` are the items `[m]` and vectors `[m, D]` that `index` lacks or has in an older form."""
        self._stored = index
        self._index = _on_gpu(index)
        self._later = later
        if later is not None:
            self._beside = _exact(later[1], later[0])
            self._current: Bools = np.ones(1 + int(faiss.vector_to_array(index.id_map).max(initial=-1)), np.bool_)
            self._current[later[0][later[0] < len(self._current)]] = False

    @classmethod
    def build(cls, vectors: Floats, items: NDArray[np.integer]) -> "VectorIndex":
        """Index `vectors` `[n, D]` of the items `[n]`, which a search then finds."""
        return cls(_exact(vectors, items))

    def extended(self, vectors: Floats, items: NDArray[np.integer]) -> "VectorIndex":
        """Return an index that also has `vectors` `[n, D]` of the items `[n]`, in the place of older ones."""
        if self._later is not None:
            kept = ~np.isin(self._later[0], items)
            items = np.concatenate([self._later[0][kept], items])
            vectors = np.concatenate([self._later[1][kept], vectors])
        return VectorIndex(self._stored, (items, vectors))

    @classmethod
    def load(cls, path: Path) -> "VectorIndex":
        """Read what `save` wrote."""
        return cls(faiss.read_index(str(path)))

    def save(self, path: Path) -> None:
        """Write the index to `path`; what came later is not kept."""
        faiss.write_index(self._stored, str(path))

    def __len__(self) -> int:
        return int(self._stored.ntotal)

    def search(self, queries: Floats, k: int, allowed: Bools | None = None) -> NDArray[np.int64]:
        """Return the `allowed` `[N]` items `[R, k]` nearest to `queries` `[R, D]`, best first, -1 past the end."""
        queries = np.ascontiguousarray(queries, np.float32)
        if self._later is None:
            return self._search(self._index, queries, k, allowed)[1]
        current = self._current if allowed is None else allowed[: len(self._current)] & self._current
        main = self._search(self._index, queries, k, current)
        beside = self._search(self._beside, queries, k, allowed)
        scores, items = np.concatenate([main[0], beside[0]], axis=1), np.concatenate([main[1], beside[1]], axis=1)
        order = np.argsort(-np.where(items >= 0, scores, -np.inf), axis=1, kind="stable")[:, :k]
        return np.take_along_axis(items, order, axis=1)

    def vectors(self) -> Floats:
        """Return the vectors `[n, D]` of what is indexed, in the order in which they came."""
        mapped: Any = faiss.downcast_index(self._stored)
        return np.asarray(faiss.downcast_index(mapped.index).reconstruct_n(0, len(self)), np.float32)

    def _search(self, index: Any, queries: Floats, k: int, allowed: Bools | None) -> tuple[Floats, NDArray[np.int64]]:
        if allowed is None:
            scores, items = index.search(queries, k)
        else:
            mask: Any = np.packbits(allowed, bitorder="little")
            among = faiss.SearchParameters(sel=faiss.IDSelectorBitmap(mask))  # type: ignore[call-arg]
            # An index on a GPU takes no selector; the same vectors lie beside it.
            kept = self._stored if index is self._index else index
            scores, items = kept.search(queries, k, params=among)
        return scores, np.asarray(items, np.int64)


def _exact(vectors: Floats, items: NDArray[np.integer]) -> Any:
    index = faiss.IndexIDMap(faiss.IndexFlatIP(vectors.shape[1]))
    index.add_with_ids(np.ascontiguousarray(vectors, np.float32), np.ascontiguousarray(items, np.int64))
    return index


def _on_gpu(index: Any) -> Any:
    if getattr(faiss, "get_num_gpus", lambda: 0)() == 0:
        return index
    return faiss.index_cpu_to_all_gpus(index)
