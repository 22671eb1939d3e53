"""Lay out a log's events as the sequences that the interest model is fitted on.

In: the log, the catalogue's tokens. Out: `InterestData`.

Shapes: S sequences, L positions, V users, Q request ids, W impressions of a request.
"""

import numpy as np
from numpy.typing import NDArray

from features.histories import VALID, EventLog, Requests
from recsys.arrays import Ints, offsets_of, spans
from recsys.config import Config
from recsys.events import EVENT_TYPES
from recsys.models.encoder import Tokens
from recsys.progress import console
from training.interest.data import InterestData

MAX_VALID_REQUESTS = 10_000
"""Most validation requests that early stopping looks at."""

MAX_IMPRESSIONS = 20
"""Most impressions of a request that the loss looks at, the first ones."""


def prepare(
    log: EventLog,
    segments: tuple[int, ...],
    tokens: Tokens,
    *,
    weights: dict[str, float],
    has_clock: bool,
    config: Config,
    since: int | None = None,
) -> InterestData:
    """Return the sequences of the events in `segments` and the validation requests.

    `weights` are those of the event types; `has_clock` says whether times are microseconds. With `since`, the sequences
    are those that end later, and `update.older` times as many others. Of more than `interest.max_sequences`, the newest are
    taken, or any where there is no clock; a line on the console says so.
    """
    fitted, length = log.in_segments(*segments), config.interest.max_history + 1
    starts, stops = _sequences(fitted.offsets, length)
    counts = _event_counts(fitted, stops, len(tokens))
    if since is not None:
        kept = later_and_some(fitted.times[stops - 1], since, config.update.older)
        starts, stops = starts[kept], stops[kept]
    if len(stops) > config.interest.max_sequences:
        kept = newest(config.interest.max_sequences, fitted.times[stops - 1], has_clock)
        which = "the newest" if has_clock else "drawn at random"
        console.print(f"interest.max_sequences: training on {len(kept):,} of {len(stops):,} sequences, {which}")
        starts, stops = starts[kept], stops[kept]
    rows = stops[:, None] - np.arange(length, 0, -1)  # [S, length]
    known = rows >= starts[:, None]
    rows = np.where(known, rows, 0)
    requests = valid_requests(log, has_clock)
    valid = log.histories(requests.users, requests.times, config.interest.max_history)
    return InterestData(
        token_ids=tokens.ids,
        token_offsets=tokens.offsets,
        items=np.where(known, fitted.items[rows], -1).astype(np.int32),
        types=np.where(known, fitted.types[rows], 0).astype(np.int8),
        times=np.where(known, fitted.times[rows], 0),
        request_index=np.where(known, fitted.request_index[rows], -1),
        impressions=impression_table(log),
        valid_items=valid.items,
        valid_types=valid.types,
        valid_times=valid.times,
        valid_targets=requests.targets,
        valid_offsets=requests.offsets,
        event_weights=np.array([weights[name] for name in EVENT_TYPES]),
        has_clock=np.array([has_clock]),
        counts=counts,
    )


def later_and_some(times: Ints, since: int, older: float) -> Ints:
    """Return the rows of `times` after `since`, and for each of them `older` others, drawn at random, in order."""
    later, rest = np.flatnonzero(times > since), np.flatnonzero(times <= since)
    count = min(len(rest), round(older * len(later)))
    return np.sort(np.concatenate([later, np.random.default_rng(0).choice(rest, count, replace=False)]))


def valid_requests(log: EventLog, has_clock: bool) -> Requests:
    """Return the requests of `valid` that the interest model is validated on."""
    return at_most(MAX_VALID_REQUESTS, log.requests(VALID), has_clock)


def at_most(count: int, requests: Requests, has_clock: bool) -> Requests:
    """Return the last `count` requests in time, or any `count` in any order where there is no clock.

    Ordinals of different users are not comparable: the last ones would be those of users with long histories.
    """
    order = np.arange(len(requests)) if has_clock else np.random.default_rng(0).permutation(len(requests))
    return requests.select(order[max(0, len(requests) - count) :])


def newest(count: int, times: Ints, has_clock: bool) -> Ints:
    """Return the rows of the `count` latest of `times`, or any `count` where those of different users do not compare; in order."""
    rows = np.argsort(times, kind="stable") if has_clock else np.random.default_rng(0).permutation(len(times))
    return np.sort(rows[max(0, len(times) - count) :])


def _sequences(offsets: Ints, length: int) -> tuple[Ints, Ints]:
    """Cut the events of users at `offsets` `[V + 1]` into sequences of at most `length` that overlap by one event.

    Return for each sequence `[S]` the log's row of its user's first event, and that behind its own last event; each
    user's latest sequence comes first.
    """
    counts = np.diff(offsets)
    pieces = np.maximum(0, -(-(counts - 1) // (length - 1)))  # [V]
    user = np.repeat(np.arange(len(counts)), pieces)  # [S]
    piece = spans(np.zeros(len(counts), np.int64), pieces)  # [S], 0 is the user's latest
    return offsets[user], offsets[user + 1] - piece * (length - 1)


def _event_counts(log: EventLog, stops: Ints, count: int) -> Ints:
    """Return how many events each of `count` items has in sequences that end before `stops` `[S]`.

    An event on which one sequence ends and the next begins counts twice.
    """
    lengths = np.diff(log.offsets)
    counts = np.bincount(log.items[np.repeat(lengths > 1, lengths)], minlength=count)
    shared = np.flatnonzero(~np.isin(stops, log.offsets[1:], kind="sort"))
    return counts + np.bincount(log.items[stops[shared] - 1], minlength=count)


def impression_table(log: EventLog) -> NDArray[np.int32]:
    """Return what the user of each request did not want `[Q, W]`, padded with -1; `[1, 0]` where there are no requests.

    That is what was rejected, and after it the impressions.
    """
    requests, rejections = len(log.request_ids), log.rejections
    taught = rejections.request_index >= 0
    shown = np.repeat(np.arange(requests), np.diff(log.impression_offsets))
    owners = np.concatenate([rejections.request_index[taught], shown])
    items = np.concatenate([rejections.items[taught], log.impressions])[np.argsort(owners, kind="stable")]
    counts = np.bincount(owners, minlength=requests)
    columns = np.arange(min(MAX_IMPRESSIONS, int(counts.max(initial=0))))
    if not len(columns):
        return np.empty((max(1, requests), 0), np.int32)
    known = columns < counts[:, None]
    rows = np.where(known, offsets_of(counts)[:-1, None] + columns, 0)
    return np.where(known, items[rows], -1).astype(np.int32)
