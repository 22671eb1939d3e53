"""Candidates of past requests with what became of them: what rankers are fitted on.

In: a `Retriever` and later `Requests`. Out: `RankingData`.

Shapes: R requests, C candidates, F dense and G categorical features.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from features.histories import EventLog, Requests
from recsys.arrays import Bools, Floats, Ints, distinct, spans
from recsys.events import PURCHASE
from serving.retrieval.retriever import BLOCK, OpenBatch, Retriever


@dataclass(frozen=True)
class RankingData:
    """Candidates of R requests with what became of them."""

    candidates: Ints
    """`[R, C]`, -1 padded."""
    dense: Floats
    """`[R, C, F]`"""
    categorical: Ints
    """`[R, C, G]`"""
    labels: Floats
    """`[R, C, 2]` 1 where the item was a target (click head) or was bought (purchase head)."""
    price: Floats
    """`[R, C]`"""

    def __len__(self) -> int:
        return len(self.candidates)

    @property
    def present(self) -> Bools:
        """`[R, C]`, False where padded."""
        return self.candidates >= 0

    def rows(self, rows: Ints | slice) -> "RankingData":
        """Return some requests."""
        return RankingData(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    @classmethod
    def join(cls, parts: list["RankingData"]) -> "RankingData":
        """Put the requests of several blocks together, padded to the widest."""
        width = max(part.candidates.shape[1] for part in parts)
        return cls(
            **{
                field.name: np.concatenate(
                    [
                        _padded(getattr(part, field.name), width, -1 if field.name == "candidates" else 0)
                        for part in parts
                    ]
                )
                for field in fields(cls)
            }
        )


def ranking_data(
    retriever: Retriever,
    log: EventLog,
    requests: Requests,
    hidden: Bools,
    on_block: Callable[[int], None] = lambda done: None,
) -> RankingData:
    """Retrieve and describe the candidates of `requests`, exactly as serving would.

    A target that no source retrieves is left out: forced in, it would teach the ranker that an item
    without scores is a sure hit. Of the items that `retriever` takes for new, the `hidden` `[N]` ones, those in
    the history are left out: nobody has met a new item, and what returns to lists is learned from the others.
    """

    def retrieved(batch: OpenBatch, rows: slice) -> Ints:
        items = retriever.candidates(batch, retriever.propose(batch), k=1)
        met = batch.requests.histories.seen(items)
        return distinct(np.where(met & hidden[items], -1, items))

    return _described(retriever, log, requests, retrieved, on_block)


def impression_data(retriever: Retriever, log: EventLog, requests: Requests) -> tuple[Requests, RankingData]:
    """Describe the impressions of those of `requests` that have any, exactly as serving would rank them."""
    has = requests.request_index >= 0
    ignored = np.zeros(len(requests), np.int64)
    ignored[has] = np.diff(log.impression_offsets)[requests.request_index[has]]
    rows = np.flatnonzero(ignored)
    part, ignored = requests.select(rows), ignored[rows]
    counts = np.diff(part.offsets)
    candidates = np.full((len(rows), int((ignored + counts).max(initial=0))), -1, np.int64)
    candidates[np.repeat(np.arange(len(rows)), counts), spans(np.zeros(len(rows), np.int64), counts)] = part.targets
    impressions = spans(log.impression_offsets[part.request_index], ignored)
    columns = spans(counts, ignored)
    candidates[np.repeat(np.arange(len(rows)), ignored), columns] = log.impressions[impressions]
    return part, _described(retriever, log, part, lambda batch, block: candidates[block])


def _described(
    retriever: Retriever,
    log: EventLog,
    requests: Requests,
    candidates_of: Callable[[OpenBatch, slice], Ints],
    on_block: Callable[[int], None] = lambda done: None,
) -> RankingData:
    blocks = []
    length = retriever.config.interest.max_history
    for start in range(0, max(1, len(requests)), BLOCK):
        rows = slice(start, min(start + BLOCK, len(requests)))
        part = requests.select(np.arange(rows.start, rows.stop))
        batch = retriever.open(log.histories_of(part, length))
        items = candidates_of(batch, rows)
        dense, categorical = retriever.describe(batch, batch.requests.candidates(items))
        blocks.append(RankingData(items, dense, categorical, _labels(items, part), retriever.price[items]))
        on_block(len(part))
    return RankingData.join(blocks)


def _labels(candidates: Ints, requests: Requests) -> Floats:
    labels = np.zeros((*candidates.shape, 2), np.float32)
    counts = np.diff(requests.offsets)
    owners = np.repeat(np.arange(len(requests)), counts)
    rows = spans(requests.offsets[:-1], counts)
    hit = candidates[owners] == requests.targets[rows][:, None]
    target, column = np.nonzero(hit)
    labels[owners[target], column, 0] = 1
    bought = requests.types[rows][target] == PURCHASE
    labels[owners[target[bought]], column[bought], 1] = 1
    return labels


def _padded(array: NDArray[np.generic], width: int, fill: float) -> NDArray[np.generic]:
    """Return `array` `[R, C, …]` with `width` columns; those from the C-th on hold `fill`."""
    missing = [(0, 0), (0, width - array.shape[1]), *((0, 0) for _ in array.shape[2:])]
    return np.pad(array, missing, constant_values=fill)
