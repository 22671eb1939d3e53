"""Items of several requests, as many of each as there are: no padding.

In: item indexes by request. Out: `ItemLists`.

Shapes: R requests, C candidates.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.arrays import Bools, Ints, offsets_of, spans


@dataclass(frozen=True)
class ItemLists:
    """The items of each of R requests, end to end."""

    offsets: Ints
    """`[R + 1]` request r's items are `items[offsets[r]:offsets[r + 1]]`."""
    items: NDArray[np.int32]
    """Item indexes."""

    @classmethod
    def of(cls, rows: Sequence[NDArray[np.int32]]) -> "ItemLists":
        """Put the items of each request end to end."""
        counts = np.array([len(row) for row in rows], np.int64)
        return cls(offsets_of(counts), np.concatenate([np.empty(0, np.int32), *rows]))

    @classmethod
    def none(cls, requests: int) -> "ItemLists":
        """Return those of `requests` requests that have none."""
        return cls(np.zeros(requests + 1, np.int64), np.empty(0, np.int32))

    @classmethod
    def join(cls, parts: Sequence["ItemLists"]) -> "ItemLists":
        """Put those of several groups of requests together."""
        counts, items = ([getattr(part, name) for part in parts] for name in ("counts", "items"))
        return cls(offsets_of(np.concatenate(counts)), np.concatenate(items))

    @property
    def counts(self) -> Ints:
        """`[R]` items of each request."""
        return np.diff(self.offsets)

    @property
    def owners(self) -> Ints:
        """The request of each item."""
        return np.repeat(np.arange(len(self.counts)), self.counts)

    def rows(self, rows: slice | Ints) -> "ItemLists":
        """Return those of some requests."""
        counts = self.counts[rows]
        return ItemLists(offsets_of(counts), self.items[spans(self.offsets[:-1][rows], counts)])

    def hold(self, items: Ints) -> Bools:
        """Return which of `items` `[R, C]` are among those of their request."""
        if not len(self.items):
            return np.zeros(items.shape, bool)
        size = 1 + max(int(items.max(initial=0)), int(self.items.max()))
        own = self.owners * size + self.items
        return np.isin(np.arange(len(items))[:, None] * size + items, own) & (items >= 0)

    def by_request(self) -> list[NDArray[np.int32]]:
        """Return the items of each request."""
        return np.split(self.items, self.offsets[1:-1])
