"""The data that the interest model is fitted on: plain arrays in one file that every worker reads.

In: arrays laid out by `training.interest.sequences`. Out: `InterestData`, saved as `.npz` without pickle.

Shapes: S sequences, L positions, N catalogue, Q request ids, W impressions of a request, R validation requests,
T their targets, B sequences of a batch.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from recsys.arrays import Bools, Ints
from recsys.models.encoder import Tokens
from recsys.models.interest import HistoryBatch, recency_buckets
from training.interest.objective import Batch

SORTED_STEPS = 32
"""Steps' worth of sequences that are sorted by length at a time."""


@dataclass(frozen=True)
class InterestData:
    """Arrays of one fit; sequences are right-aligned, `items` padded with -1."""

    token_ids: NDArray[np.int32]
    token_offsets: Ints
    """`[N + 1]` item i's tokens are `token_ids[token_offsets[i]:token_offsets[i + 1]]`."""
    items: NDArray[np.int32]
    """`[S, L + 1]` item indexes."""
    types: NDArray[np.int8]
    """`[S, L + 1]` event type codes."""
    times: Ints
    """`[S, L + 1]` microseconds or ordinals."""
    request_index: Ints
    """`[S, L + 1]` request of each event, a row of `impressions`; -1 where it has none."""
    impressions: NDArray[np.int32]
    """`[Q, W]` items shown in each request and not acted on, padded with -1."""
    valid_items: NDArray[np.int32]
    """`[R, L]` histories of the validation requests."""
    valid_types: NDArray[np.int8]
    """`[R, L]` event type codes."""
    valid_times: Ints
    """`[R, L]` microseconds or ordinals."""
    valid_targets: NDArray[np.int32]
    """`[T]` item indexes."""
    valid_offsets: Ints
    """`[R + 1]` request r's targets are `valid_targets[valid_offsets[r]:valid_offsets[r + 1]]`."""
    event_weights: NDArray[np.float64]
    """Weight of each event type, by code."""
    has_clock: Bools
    """`[1]` whether times are microseconds."""
    counts: Ints
    """`[N]` events of each item, also of those that are in no sequence here."""

    @property
    def tokens(self) -> Tokens:
        """The catalogue's texts as token ids."""
        return Tokens(self.token_ids, self.token_offsets)

    def valid_histories(self, rows: Ints) -> HistoryBatch:
        """Return the histories of the validation requests `rows`, without the columns that are padding in all of them."""
        where = rows, slice(-max(1, int(self.valid_lengths[rows].max(initial=0))), None)
        return self._history(self.valid_items[where], self.valid_types[where], self.valid_times[where])

    @property
    def valid_lengths(self) -> Ints:
        """Return the number of events `[R]` in each validation request's history."""
        return (self.valid_items >= 0).sum(1)

    def frequencies(self) -> NDArray[np.float64]:
        """Return each item's share `[N]` of the training events."""
        return self.counts / max(self.counts.sum(), 1)

    def save(self, path: Path) -> None:
        """Write all arrays to `path` (`.npz`)."""
        np.savez(path, allow_pickle=False, **{field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def load(cls, path: Path) -> "InterestData":
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(**{field.name: arrays[field.name] for field in fields(cls)})

    def batches(self, epoch_seed: int, batch_users: int, rank: int = 0, world_size: int = 1) -> Iterator[Batch]:
        """Yield the batches of worker `rank` in one epoch; sequences of similar length come together.

        A step has `batch_users` sequences, one per worker at least, which are dealt out to the workers in turn; a step with fewer
        sequences than workers is left out.
        """
        rng = np.random.default_rng(epoch_seed)
        steps = self._steps(rng.permutation(len(self.items)), batch_users, world_size)
        for step in rng.permutation(len(steps)):
            if len(steps[step]) >= world_size:
                yield self._batch(steps[step][rank::world_size])

    def steps_per_epoch(self, batch_users: int, world_size: int) -> int:
        """Return how many batches `batches` yields to each worker."""
        steps = self._steps(np.arange(len(self.items)), batch_users, world_size)
        return sum(len(step) >= world_size for step in steps)

    def _steps(self, order: Ints, batch_users: int, world_size: int) -> list[Ints]:
        """Return the sequences of each step of all workers together; `order` `[S]` is cut, sorted and cut again."""
        size = max(batch_users, world_size)
        lengths = (self.items >= 0).sum(1)
        pools = [pool[np.argsort(lengths[pool], kind="stable")] for pool in _chunks(order, SORTED_STEPS * size)]
        return [step for pool in pools for step in _chunks(pool, size)]

    def _batch(self, rows: Ints) -> Batch:
        """Return the sequences `rows` `[B]`, without the columns that are padding in all of them."""
        length = int((self.items[rows] >= 0).sum(1).max())
        columns = slice(-length, None)
        items, types = self.items[rows, columns], self.types[rows, columns]
        history = self._history(items[:, :-1], types[:, :-1], self.times[rows, columns][:, :-1])
        target_types = torch.from_numpy(types[:, 1:]).long()
        requests = torch.from_numpy(self.request_index[rows, columns][:, 1:])
        impressions = torch.from_numpy(self.impressions)[requests].long()  # [B, L, W]
        return Batch(
            history=history,
            targets=torch.where(history.mask, torch.from_numpy(items[:, 1:]).long(), -1),
            target_types=target_types,
            weights=torch.from_numpy(self.event_weights).float()[target_types] * history.mask,
            impressions=torch.where((requests >= 0).unsqueeze(-1), impressions, -1),
        )

    def _history(self, items: NDArray[np.int32], types: NDArray[np.int8], times: Ints) -> HistoryBatch:
        indexes = torch.from_numpy(items).long()
        recency = recency_buckets(torch.from_numpy(times), indexes >= 0, bool(self.has_clock[0]))
        return HistoryBatch(indexes, torch.from_numpy(types).long(), recency)


def _chunks(rows: Ints, size: int) -> list[Ints]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]
