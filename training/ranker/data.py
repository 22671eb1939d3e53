"""Candidates of past requests with what became of them: what rankers are fitted on.

In: a `Recommender` without a ranker and later `Requests`. Out: `RankingData`.

Shapes: R requests, C candidates, F dense and G categorical features.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from features.histories import EventLog, Ints, Requests, spans
from recsys.events import PURCHASE
from serving.recommender import BLOCK, Recommender
from serving.retrieval.sources import RequestBatch, Scores


@dataclass(frozen=True)
class RankingData:
    """Candidates of R requests with what became of them."""

    candidates: Tensor
    """`[R, C]`, -1 padded."""
    dense: Tensor
    """`[R, C, F]`"""
    categorical: Tensor
    """`[R, C, G]`"""
    labels: Tensor
    """`[R, C, 2]` 1 where the item was a target (click head) or was bought (purchase head)."""
    price: Tensor
    """`[R, C]`"""

    def __len__(self) -> int:
        return len(self.candidates)

    def rows(self, rows: Tensor | slice) -> "RankingData":
        """Return some requests."""
        return RankingData(
            self.candidates[rows], self.dense[rows], self.categorical[rows], self.labels[rows], self.price[rows]
        )


def ranking_data(
    recommender: Recommender, log: EventLog, requests: Requests, on_block: Callable[[int], None] = lambda done: None
) -> RankingData:
    """Retrieve and describe the candidates of `requests`, exactly as serving would.

    A target that no source retrieves is left out: forcing it in would tell the ranker that an item
    without scores is a sure hit.
    """

    def retrieved(batch: RequestBatch, opened: dict[str, Scores], rows: slice) -> Ints:
        return recommender.candidates(batch, opened, k=1)

    return _described(recommender, log, requests, retrieved, on_block)


def impression_data(recommender: Recommender, log: EventLog, requests: Requests) -> tuple[Requests, RankingData]:
    """Describe what was shown in those of `requests` of which it is known, exactly as serving would rank it."""
    has = requests.request_index >= 0
    beside = np.zeros(len(requests), np.int64)
    beside[has] = np.diff(log.impression_offsets)[requests.request_index[has]]
    rows = np.flatnonzero(beside)
    part, beside = requests.select(rows), beside[rows]
    counts = np.diff(part.offsets)
    candidates = np.full((len(rows), int((beside + counts).max(initial=0))), -1, np.int64)
    candidates[np.repeat(np.arange(len(rows)), counts), spans(np.zeros(len(rows), np.int64), counts)] = part.targets
    places = spans(log.impression_offsets[part.request_index], beside)
    candidates[np.repeat(np.arange(len(rows)), beside), spans(counts, beside)] = log.impressions[places]
    return part, _described(recommender, log, part, lambda batch, opened, block: candidates[block])


def _described(
    recommender: Recommender,
    log: EventLog,
    requests: Requests,
    candidates_of: Callable[[RequestBatch, dict[str, Scores], slice], Ints],
    on_block: Callable[[int], None] = lambda done: None,
) -> RankingData:
    blocks: list[tuple[Tensor, ...]] = []
    length = recommender.config.interest.max_history
    for start in range(0, max(1, len(requests)), BLOCK):
        rows = slice(start, min(start + BLOCK, len(requests)))
        part = requests.select(np.arange(rows.start, rows.stop))
        batch = recommender.batch(log.histories(part.users, part.times, length))
        opened = recommender.open(batch)
        candidates = candidates_of(batch, opened, rows)
        dense, categorical = recommender.inputs(batch, opened, candidates)
        arrays = (candidates, dense, categorical, _labels(candidates, part), recommender.price[candidates])
        blocks.append(tuple(torch.from_numpy(array) for array in arrays))
        on_block(len(part))
    width = max(block[0].shape[1] for block in blocks)
    columns = zip(*blocks, strict=True)
    fill = (-1, 0, 0, 0, 0)
    padded = [
        torch.cat([_pad_candidates(tensor, width, value) for tensor in column])
        for column, value in zip(columns, fill, strict=True)
    ]
    return RankingData(*padded)


def _labels(candidates: np.ndarray, requests: Requests) -> np.ndarray:
    labels = np.zeros((*candidates.shape, 2), np.float32)
    counts = np.diff(requests.offsets)
    owners = np.repeat(np.arange(len(requests)), counts)
    places = spans(requests.offsets[:-1], counts)
    hit = candidates[owners] == requests.targets[places][:, None]
    target, column = np.nonzero(hit)
    labels[owners[target], column, 0] = 1
    bought = requests.types[places][target] == PURCHASE
    labels[owners[target[bought]], column[bought], 1] = 1
    return labels


def _pad_candidates(tensor: Tensor, width: int, fill: float) -> Tensor:
    short = width - tensor.shape[1]
    if not short:
        return tensor
    return torch.cat([tensor, tensor.new_full((len(tensor), short, *tensor.shape[2:]), fill)], 1)
