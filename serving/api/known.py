"""What is known of who requests a list: the past, the circumstances, the attributes.

In: a request, the snapshot that answers it, and the store. Out: events, and what else describes the request.
"""

from collections.abc import Callable, Sequence

import numpy as np

from features.context import OF_EVENT, OF_USER, Value
from recsys.arrays import Ints
from serving.api import schemas
from serving.api.live import Snapshot
from serving.api.refusals import refuse_other_units
from serving.lookup import PastEvent, RequestContext, in_order
from serving.store.store import Store

MOST_EVENTS = 10_000
"""Events of a user that are read from the store, the latest ones."""


class Known:
    """Reads what the bundle of a snapshot and the store know; `clock` gives the time in microseconds."""

    def __init__(self, store: Store, clock: Callable[[], int]) -> None:
        self.store, self.clock = store, clock

    def past(
        self, snapshot: Snapshot, user_id: str | None, history: Sequence[str | schemas.HistoryEvent] | None
    ) -> list[PastEvent]:
        """Return the user's events, oldest first: the history that was sent, or those of the bundle and the store."""
        if history is not None:
            if snapshot.lookup.retriever.has_clock:
                refuse_other_units([event.timestamp for event in history if not isinstance(event, str)])
            return in_order([PastEvent(event) if isinstance(event, str) else event.past() for event in history])
        return [] if user_id is None else self.events_of(snapshot, user_id)

    def moment(self, snapshot: Snapshot, context: schemas.Context | None) -> int:
        """Return when a list will be seen: now, unless its request says otherwise."""
        if context is None or context.time is None:
            return self.clock()
        if snapshot.lookup.retriever.has_clock:
            refuse_other_units([context.time])
        return schemas.microseconds(context.time) or 0

    def context(self, snapshot: Snapshot, request: schemas.ListRequest) -> RequestContext:
        """Return what the request says of its circumstances, and what is known of its user.

        Raises:
            ContextError: the model does not know a name, or a value is of another kind than its column.
        """
        columns, stated = snapshot.lookup.context, request.context or schemas.Context()
        named = columns.named(stated.attributes, OF_EVENT, "context.attributes")
        if request.user_id is not None and columns.names(OF_USER):
            named |= self._attributes_of(snapshot, request.user_id)
        return RequestContext(named, stated.session_id)

    def _attributes_of(self, snapshot: Snapshot, user_id: str) -> dict[str, Value]:
        """Return the attributes of a user by the names of their features: those in the store over those of the bundle."""
        fitted = {name: values[0] for name, values in snapshot.bundle.attributes.of([user_id]).items()}
        if fitted and self.store.forgotten_at(user_id) is not None:
            fitted = {}
        return fitted | {OF_USER + name: value for name, value in self.store.user_attributes(user_id).items()}

    def earlier(self, snapshot: Snapshot, request: schemas.ListRequest) -> Ints | None:
        """Return items that the user met before the events of `events_of`; None where a history was sent instead."""
        if request.history is not None or request.user_id is None:
            return None
        earlier = snapshot.lookup.earlier(request.user_id)
        return earlier if len(earlier) and self.store.forgotten_at(request.user_id) is None else None

    def met(self, snapshot: Snapshot, request: schemas.ListRequest, past: Sequence[PastEvent]) -> Ints:
        """Return all known items that the user met, in the events `past` and before them."""
        earlier, rows = self.earlier(snapshot, request), snapshot.lookup.rows
        known = [rows[event.item_id] for event in past if event.item_id in rows]
        return np.array([*(() if earlier is None else earlier), *known], np.int64)

    def events_of(self, snapshot: Snapshot, user_id: str) -> list[PastEvent]:
        """Return what the user did, oldest first, as of the bundle and the store; nothing from before the user was forgotten."""
        fitted = snapshot.lookup.past(user_id)
        forgotten = self.store.forgotten_at(user_id) if fitted else None
        if forgotten is not None:
            fitted = [event for event in fitted if (event.timestamp or 0) > forgotten]
        stored = self.store.history(user_id, MOST_EVENTS)
        later = [PastEvent(event.item_id, event.event_type, event.timestamp, event.session_id) for event in stored]
        # Events that were exported and fitted are in both.
        return sorted(dict.fromkeys([*fitted, *later]), key=lambda event: event.timestamp or 0)
