"""Lay out a log's requests as the pairs that the taste model is fitted on.

In: the log and the catalogue's segments. Out: `TasteData`.

Shapes: P pairs of request and target, L history positions, W impressions of a request, N catalogue.
"""

import numpy as np

from features.histories import EventLog, type_weights
from recsys.arrays import Ints
from recsys.config import Config
from recsys.models.taste import SegmentVectors
from training.interest.sequences import impression_table, later_and_some
from training.taste.fit import TasteData


def prepare_taste(
    log: EventLog,
    segments: tuple[int, ...],
    texts: SegmentVectors,
    category: Ints,
    weights: dict[str, float],
    config: Config,
    since: int | None = None,
) -> TasteData:
    """Return the pairs of the requests in `segments` with a history, and the `category` `[N]` of each item.

    With `since`, the requests are those that are later, and `update.older` times as many others.
    """
    requests = log.requests(*segments)
    if since is not None:
        requests = requests.select(later_and_some(requests.times, since, config.update.older))
    counts = np.bincount(log.in_segments(*segments).items, minlength=len(category))
    past = log.histories(requests.users, requests.times, config.interest.max_history).items
    owners = np.repeat(np.arange(len(requests)), np.diff(requests.offsets))
    pairs = np.flatnonzero(np.any(past >= 0, axis=1)[owners])
    owners = owners[pairs]
    shown = impression_table(log)
    index = requests.request_index[owners]
    return TasteData(
        texts=texts,
        category=category,
        counts=counts,
        drawn=np.flatnonzero(counts),
        past=past[owners],
        targets=requests.targets[pairs],
        weights=type_weights(weights)[requests.types[pairs]],
        impressions=np.where(index[:, None] >= 0, shown[index], -1),
    )
