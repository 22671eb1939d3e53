"""The nearest-neighbour index over item vectors: the door to FAISS.

In: unit vectors `[N, D]`. Out: for unit queries `[R, D]` the k items of largest inner product.
"""

from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray


class VectorIndex:
    """An exact inner-product index, on the GPU where FAISS finds one."""

    def __init__(self, index: faiss.Index) -> None:
        self._stored = index
        self._index = _on_gpu(index)

    @classmethod
    def build(cls, vectors: NDArray[np.float32], items: NDArray[np.integer]) -> "VectorIndex":
        """Index `vectors` `[n, D]` of the items `[n]`, which a search then finds."""
        index = faiss.IndexIDMap(faiss.IndexFlatIP(vectors.shape[1]))
        index.add_with_ids(np.ascontiguousarray(vectors, np.float32), np.ascontiguousarray(items, np.int64))
        return cls(index)

    @classmethod
    def load(cls, path: Path) -> "VectorIndex":
        """Read what `save` wrote."""
        return cls(faiss.read_index(str(path)))

    def save(self, path: Path) -> None:
        """Write the index to `path`."""
        faiss.write_index(self._stored, str(path))

    def __len__(self) -> int:
        return int(self._stored.ntotal)

    def search(self, queries: NDArray[np.float32], k: int) -> NDArray[np.int64]:
        """Return the items `[R, k]` nearest to `queries` `[R, D]`, best first, -1 past the end."""
        _, items = self._index.search(np.ascontiguousarray(queries, np.float32), k)
        return np.asarray(items, np.int64)

    def vectors(self) -> NDArray[np.float32]:
        """Return the vectors `[n, D]` of what is indexed, in the order in which they came."""
        mapped: Any = faiss.downcast_index(self._stored)
        return np.asarray(faiss.downcast_index(mapped.index).reconstruct_n(0, len(self)), np.float32)


def _on_gpu(index: faiss.Index) -> faiss.Index:
    if getattr(faiss, "get_num_gpus", lambda: 0)() == 0:
        return index
    return faiss.index_cpu_to_all_gpus(index)
