"""What the interest model is fitted on, as plain arrays in one file that every worker reads.

In: the log, the catalogue's tokens. Out: `InterestData`, saved as `.npz` without pickle.

Shapes: S sequences, L positions, N catalogue, R validation requests, T their targets.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from recsys.models.encoder import Tokens
from recsys.models.interest import HistoryBatch, recency_buckets
from training.interest.objective import Batch

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class InterestData:
    """Arrays of one fit; sequences are right-aligned and padded with -1."""

    token_ids: NDArray[np.int32]
    token_offsets: Ints
    items: NDArray[np.int32]
    """`[S, L + 1]`"""
    types: NDArray[np.int8]
    """`[S, L + 1]`"""
    times: Ints
    """`[S, L + 1]`"""
    request_index: Ints
    """`[S, L + 1]` request of each event, a row of `impressions`; -1 without one."""
    impressions: NDArray[np.int32]
    """`[K, W]` items shown and left alone per request, padded with -1."""
    valid_items: NDArray[np.int32]
    valid_types: NDArray[np.int8]
    valid_times: Ints
    valid_targets: NDArray[np.int32]
    valid_offsets: Ints
    event_weights: NDArray[np.float64]
    """By event type code."""
    has_clock: NDArray[np.bool_]
    """`[1]`"""

    @property
    def tokens(self) -> Tokens:
        return Tokens(self.token_ids, self.token_offsets)

    def valid_histories(self, rows: slice) -> HistoryBatch:
        """Return the histories of some validation requests."""
        items = torch.from_numpy(self.valid_items[rows]).long()
        recency = recency_buckets(torch.from_numpy(self.valid_times[rows]), items >= 0, bool(self.has_clock[0]))
        return HistoryBatch(items, torch.from_numpy(self.valid_types[rows]).long(), recency)

    def frequencies(self) -> NDArray[np.float64]:
        """Return each item's share `[N]` of the training events."""
        counts = np.bincount(self.items[self.items >= 0], minlength=len(self.tokens))
        return counts / max(counts.sum(), 1)

    def save(self, path: Path) -> None:
        """Write all arrays to `path` (`.npz`)."""
        np.savez(path, allow_pickle=False, **{field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def load(cls, path: Path) -> "InterestData":
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(**{field.name: arrays[field.name] for field in fields(cls)})

    def batches(self, epoch_seed: int, batch_users: int, rank: int, world_size: int) -> Iterator[Batch]:
        """Yield one epoch's batches for worker `rank` of `world_size`, sequences of like length together."""
        rng = np.random.default_rng(epoch_seed)
        lengths = (self.items >= 0).sum(1)
        order = rng.permutation(len(self.items))
        pool = batch_users * world_size * 32
        groups = [chunk[np.argsort(lengths[chunk], kind="stable")] for chunk in _chunks(order, pool)]
        steps = [step for group in groups for step in _chunks(group, batch_users * world_size)]
        for step in rng.permutation(len(steps)):
            rows = steps[step][rank::world_size]
            if len(steps[step]) >= world_size:
                yield self._batch(rows, int(lengths[rows].max()))

    def steps_per_epoch(self, batch_users: int, world_size: int) -> int:
        """Return how many batches `batches` yields to each worker."""
        return sum(1 for _ in self._step_sizes(batch_users, world_size))

    def _step_sizes(self, batch_users: int, world_size: int) -> Iterator[int]:
        pool = batch_users * world_size * 32
        for group in _chunks(np.arange(len(self.items)), pool):
            yield from (len(step) for step in _chunks(group, batch_users * world_size) if len(step) >= world_size)

    def _batch(self, rows: Ints, length: int) -> Batch:
        items, types, times, keys = (
            torch.from_numpy(array[rows, -length:])
            for array in (self.items, self.types, self.times, self.request_index)
        )
        history = HistoryBatch(
            items[:, :-1].long(),
            types[:, :-1].long(),
            recency_buckets(times[:, :-1], items[:, :-1] >= 0, bool(self.has_clock[0])),
        )
        targets = torch.where(history.mask, items[:, 1:].long(), -1)
        target_types = types[:, 1:].long()
        weights = torch.from_numpy(self.event_weights).float()[target_types] * history.mask
        impressions = torch.from_numpy(self.impressions)[keys[:, 1:]].long()
        impressions = torch.where((keys[:, 1:] >= 0).unsqueeze(-1), impressions, -1)
        return Batch(history, targets, target_types, weights, impressions)


def _chunks(rows: Ints, size: int) -> list[Ints]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]
