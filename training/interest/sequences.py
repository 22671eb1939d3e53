"""Lay out a log's events as the sequences that the interest model is fitted on.

In: the log, the catalogue's tokens. Out: `InterestData`.

Shapes: K requests, W items shown in one.
"""

import numpy as np
from numpy.typing import NDArray

from features.histories import VALID, EventLog, Ints, Requests, spans
from recsys.config import Config
from recsys.events import EVENT_TYPES
from recsys.models.encoder import Tokens
from training.interest.data import InterestData

MAX_VALID_REQUESTS = 10_000
"""Validation requests that early stopping looks at, the latest ones."""


def prepare(
    log: EventLog, segments: tuple[int, ...], tokens: Tokens, weights: dict[str, float], has_clock: bool, config: Config
) -> InterestData:
    """Lay out the sequences of the events in `segments`, and the validation requests beside them."""
    length = config.interest.max_history + 1
    fitted = log.in_segments(*segments)
    items, types, times, keys = _sequences(fitted, length)
    requests = latest(log.requests(VALID), MAX_VALID_REQUESTS)
    valid = log.histories(requests.users, requests.times, config.interest.max_history)
    return InterestData(
        tokens.ids,
        tokens.offsets,
        items,
        types,
        times,
        keys,
        _impression_table(log),
        valid.items,
        valid.types,
        valid.times,
        requests.targets,
        requests.offsets,
        np.array([weights[name] for name in EVENT_TYPES]),
        np.array([has_clock]),
    )


def latest(requests: Requests, count: int) -> Requests:
    """Return the last `count` requests in time."""
    return requests.select(np.arange(max(0, len(requests) - count), len(requests)))


def _sequences(log: EventLog, length: int) -> tuple[NDArray[np.int32], NDArray[np.int8], Ints, Ints]:
    """Cut every user's events into pieces of `length` that overlap by one event."""
    counts = np.diff(log.offsets)
    pieces = np.maximum(0, -(-(counts - 1) // (length - 1)))
    user = np.repeat(np.arange(len(counts)), pieces)
    piece = spans(np.zeros(len(counts), np.int64), pieces)
    stops = log.offsets[user + 1] - piece * (length - 1)
    places = stops[:, None] - np.arange(length, 0, -1)
    valid = places >= log.offsets[user][:, None]
    places = np.where(valid, places, 0)
    return (
        np.where(valid, log.items[places], -1).astype(np.int32),
        np.where(valid, log.types[places], 0).astype(np.int8),
        np.where(valid, log.times[places], 0),
        np.where(valid, log.request_index[places], -1),
    )


def _impression_table(log: EventLog, width: int = 20) -> NDArray[np.int32]:
    """Return at most `width` shown items per request `[K, W]`; `[1, 0]` where nothing is known."""
    counts = np.diff(log.impression_offsets)
    width = min(width, int(counts.max(initial=0)))
    columns = np.arange(width)
    valid = columns < counts[:, None]
    places = np.where(valid, log.impression_offsets[:-1][:, None] + columns, 0)
    if not width:
        return np.empty((max(1, len(counts)), 0), np.int32)
    return np.where(valid, log.impressions[places], -1).astype(np.int32)
