"""The interest model's vectors of users, kept for the histories that came lately.

In: histories and the vectors of their items. Out: user vectors `[R, 2, D]`. A user who gets several lists between two
events has one vector, which the user tower computes once.

Shapes: R requests, L history positions, D width.
"""

import threading

import numpy as np
import torch
from cachetools import LRUCache

from features.histories import Histories
from recsys.arrays import Bools, Floats
from recsys.models.interest import HistoryBatch, UserTower, recency_buckets
from recsys.models.user_tower_cpu import CpuUserTower

KEPT = 4096
"""Histories whose vectors are kept: 20 MB at a width of 384."""


class UserVectors:
    """The user tower over one catalogue, with a memory; safe to share between threads."""

    def __init__(self, tower: UserTower, has_clock: bool) -> None:
        self._tower, self._has_clock = CpuUserTower(tower), has_clock
        self._kept: LRUCache[bytes, Floats] = LRUCache(KEPT)
        self._lock = threading.Lock()

    def of(self, histories: Histories, past: Floats, lasting: Bools) -> Floats:
        """Return the vectors `[R, 2, D]` after `histories`, whose events have the vectors `past` `[R, L, D]`.

        Only those of `lasting` `[R]` histories are kept: the others have events that are not items of the catalogue.
        """
        keys = _keys(histories)
        with self._lock:
            known = [self._kept.get(key) if lasts else None for key, lasts in zip(keys, lasting, strict=True)]
        missing = np.array([row for row, vectors in enumerate(known) if vectors is None], np.int64)
        users = np.empty((len(known), 2, past.shape[2]), np.float32)
        for row, vectors in enumerate(known):
            if vectors is not None:
                users[row] = vectors
        if len(missing):
            users[missing] = self._computed(histories.rows(missing), past[missing])
            with self._lock:
                self._kept.update((keys[row], users[row].copy()) for row in missing if lasting[row])
        return users

    def _computed(self, histories: Histories, past: Floats) -> Floats:
        items = torch.from_numpy(histories.items).long()
        recency = recency_buckets(torch.from_numpy(histories.times), items >= 0, self._has_clock)
        history = HistoryBatch(items, torch.from_numpy(histories.types).long(), recency)
        return self._tower.last(torch.from_numpy(past), history).numpy()


def _keys(histories: Histories) -> list[bytes]:
    """Return of each history what its vectors follow from: the items, their types, and the time between them."""
    starts = histories.items.shape[1] - histories.lengths
    gaps = np.diff(histories.times, axis=1)
    return [
        b"".join((items[start:].tobytes(), types[start:].tobytes(), between[start:].tobytes()))
        for start, items, types, between in zip(starts, histories.items, histories.types, gaps, strict=True)
    ]
