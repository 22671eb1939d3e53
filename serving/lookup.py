"""Between the ids that callers know and the rows that the recommender works on.

In: user ids, histories as item ids or events. Out: `Histories`; item ids of rankings.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from features.histories import Histories, Ints
from recsys.events import TYPE_CODE
from serving.loading import Bundle, user_histories


@dataclass(frozen=True)
class PastEvent:
    """One event of a history that a caller sends."""

    item_id: str
    event_type: str = "click"
    timestamp: int | None = None
    """Microseconds since the epoch (or the dataset's ordinal)."""


class Lookup:
    """A loaded bundle with its ids."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle, self.recommender = bundle, bundle.recommender
        self.ids = self.recommender.items["item_id"].to_list()
        self.rows = {item: row for row, item in enumerate(self.ids)}
        self.users = {user: row for row, user in enumerate(bundle.users["user_id"])}

    def histories(
        self, requests: Sequence[tuple[str | None, Sequence[str | PastEvent] | None]], now: int | None = None
    ) -> Histories:
        """Return the histories of requests `(user_id, history)`.

        A history that is sent stands for what the bundle knows of the user; items that it does not
        know are left out. Users known by neither have an empty history. `now` is in microseconds;
        by default just after the newest event that the bundle knows.
        """
        length = self.recommender.config.interest.max_history
        moment = self.newest + 1 if now is None else now
        known = [self.users.get(user, -1) if user is not None else -1 for user, _ in requests]
        stored = user_histories(self.bundle.users[[row for row in known if row >= 0]], length, moment)
        items = np.full((len(requests), length), -1, np.int32)
        types, times = np.zeros((len(requests), length), np.int8), np.zeros((len(requests), length), np.int64)
        places = np.flatnonzero(np.array(known) >= 0)
        items[places], types[places], times[places] = stored.items, stored.types, stored.times
        for row, (_, sent) in enumerate(requests):
            if sent is not None:
                items[row], types[row], times[row] = self._sent(sent, length, moment)
        return Histories(items, types, times, np.full(len(requests), moment, np.int64))

    @property
    def newest(self) -> int:
        """The time of the newest event that the bundle knows."""
        return int(self.recommender.features.facts.event_times.max(initial=0))

    def unknown(self, history: Sequence[str | PastEvent]) -> list[str]:
        """Return the item ids of `history` that the catalogue lacks."""
        ids = [event if isinstance(event, str) else event.item_id for event in history]
        return [item for item in ids if item not in self.rows]

    def item_ids(self, items: Ints) -> list[list[str]]:
        """Return the ids of lists `[R, K]`, without padding."""
        return [[self.ids[item] for item in row if item >= 0] for row in items]

    def _sent(self, history: Sequence[str | PastEvent], length: int, moment: int) -> tuple[Ints, Ints, Ints]:
        events = [PastEvent(event) if isinstance(event, str) else event for event in history]
        events = [event for event in events if event.item_id in self.rows][-length:]
        items, types, times = np.full(length, -1), np.zeros(length, np.int64), np.zeros(length, np.int64)
        if events:
            items[-len(events) :] = [self.rows[event.item_id] for event in events]
            types[-len(events) :] = [TYPE_CODE[event.event_type] for event in events]
            times[-len(events) :] = [moment if event.timestamp is None else event.timestamp for event in events]
        return items, types, times
