"""What applications tell the API: events, items, users.

In: the requests of `serving.api.schemas`. Out: the store with them, and its responses.
"""

import uuid
from collections.abc import Callable
from typing import Any

from features.context import OF_EVENT, OF_USER
from serving.api import schemas
from serving.api.live import ModelHolder
from serving.api.metrics import Metrics
from serving.api.refusals import BadTimeError, UnknownItemError, refuse_other_units
from serving.columns import refuse_unfit
from serving.store.store import Store, StoredEvent
from serving.text.attributes import with_read_attributes
from serving.text.heads import TextHeads
from serving.text.score import with_read_opinions

AHEAD_US = 5 * 60 * 1_000_000
"""How far an event's time may lie ahead of this machine's clock."""


class Changes:
    """Changes of what the store knows; `clock` gives the time in microseconds, `heads` read attributes and opinions."""

    def __init__(
        self, holder: ModelHolder, store: Store, metrics: Metrics, clock: Callable[[], int], heads: TextHeads
    ) -> None:
        self.holder, self.store, self.metrics, self.clock, self.heads = holder, store, metrics, clock, heads

    def add_events(self, body: schemas.EventsRequest) -> schemas.EventsResponse:
        """Keep events; the next request sees them.

        Raises:
            BadTimeError: an event lies in the future, or its time is in another unit than microseconds.
            ContextError: an attribute is of another kind than the model knows it as.
            StoreError: they could not be kept, none of them.
        """
        now, rows = self.clock(), self.holder.snapshot.lookup.rows
        for event in body.events:
            self.holder.snapshot.lookup.context.refuse_other_kinds(event.attributes, OF_EVENT, "events.attributes")
        attributes = self._with_opinions([event.attributes for event in body.events])
        events = [_stored(event, now, own) for event, own in zip(body.events, attributes, strict=True)]
        if self.holder.snapshot.lookup.retriever.has_clock:
            refuse_other_units([event.timestamp for event in body.events])
            late = [event for event in events if event.timestamp > now + AHEAD_US]
            if late:
                raise BadTimeError(
                    f"events: {len(late)} of {len(events)} lie in the future, for example that on "
                    f"{late[0].item_id!r} at {late[0].timestamp}; send ISO times or microseconds since 1970"
                )
        accepted = self.store.add_events(events)
        self.metrics.events.inc(accepted)
        unknown = list(dict.fromkeys(event.item_id for event in events if event.item_id not in rows))
        return schemas.EventsResponse(accepted=accepted, duplicates=len(events) - accepted, unknown_items=unknown)

    def _with_opinions(self, attributes: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the attributes of events with the opinions of their texts, where the model ranks by these and a head reads them."""
        column = self.holder.snapshot.lookup.retriever.config.ranker.opinion
        if not (column and self.heads.classifier):
            return attributes
        return with_read_opinions(attributes, self.heads.classifier, column)

    def put_items(self, body: schemas.ItemsRequest) -> schemas.ItemsResponse:
        """Add or replace items; they can be recommended when this returns.

        Raises:
            BadTimeError: a time is in another unit than microseconds.
            UnfitError: a value that its column cannot hold.
        """
        if self.holder.snapshot.lookup.retriever.has_clock:
            refuse_other_units([moment for item in body.items for moment in item.moments().values()])
        schema = self.holder.snapshot.lookup.retriever.items.schema
        bodies = [item.body() for item in body.items]
        if self.heads.tagger:
            bodies = with_read_attributes(bodies, self.heads.tagger)
        ids = [item.item_id for item in body.items]
        refuse_unfit([{"item_id": item_id, **own} for item_id, own in zip(ids, bodies, strict=True)], schema)
        return self._change(list(zip(ids, bodies, strict=True)))

    def delete_item(self, item_id: str) -> schemas.ItemsResponse:
        """Take an item out of all lists; histories keep it.

        Raises:
            UnknownItemError: the catalogue lacks it, or it was deleted before.
        """
        if self.holder.snapshot.lookup.offered(item_id) is None:
            raise UnknownItemError(f"item {item_id!r} is not in the catalogue")
        return self._change([(item_id, None)])

    def put_user(self, user_id: str, body: schemas.UserRequest) -> schemas.UserResponse:
        """Keep the attributes of a user; the next list knows them.

        Raises:
            ContextError: one of them is of another kind than the model knows it as.
        """
        columns = self.holder.snapshot.lookup.context
        columns.refuse_other_kinds(body.attributes, OF_USER, "attributes")
        self.store.put_user(user_id, body.attributes)
        known = columns.names(OF_USER)
        unused = [name for name in body.attributes if name not in known]
        return schemas.UserResponse(user_id=user_id, attributes=body.attributes, unused=unused)

    def forget_user(self, user_id: str) -> schemas.ForgetUserResponse:
        """Delete a user's events, attributes and lists, and have the model ignore what it knows of the user."""
        return schemas.ForgetUserResponse(user_id=user_id, deleted=self.store.forget_user(user_id))

    def _change(self, changes: list[tuple[str, dict[str, object] | None]]) -> schemas.ItemsResponse:
        self.store.change_items(changes)
        self.holder.take_changes()
        return schemas.ItemsResponse(changed=len(changes), items=self.holder.snapshot.offered(self.clock()))


def _stored(event: schemas.Event, now: int, attributes: dict[str, Any]) -> StoredEvent:
    time = schemas.microseconds(event.timestamp)
    return StoredEvent(
        event_id=event.event_id or uuid.uuid4().hex,
        user_id=event.user_id,
        item_id=event.item_id,
        event_type=event.event_type,
        timestamp=now if time is None else time,
        value=event.value,
        session_id=event.session_id,
        request_id=event.request_id,
        position=event.position,
        context=attributes or None,
    )
