"""What the store keeps, one dataclass per kind of row. Times are microseconds since the epoch, or ordinals."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class StoredEvent:
    """One event; two events with the same `event_id` are the same event."""

    event_id: str
    user_id: str
    item_id: str
    event_type: str
    timestamp: int
    value: float | None = None
    session_id: str | None = None
    request_id: str | None = None
    position: int | None = None
    context: dict[str, Any] | None = None
    """Circumstances, by the names of further columns of the events."""


@dataclass(frozen=True)
class ItemChange:
    """The state of an item since the change `number`; `body` is None if the item was deleted."""

    number: int
    item_id: str
    body: dict[str, Any] | None
    at: int | None = None
    """When it was changed; None for changes from before this was kept."""


@dataclass(frozen=True)
class ImpressionList:
    """A list that was returned to a client.

    `propensities` has the probability of each explored position, and None for the other positions. `pool` has the items
    that were drawn from; None where no position was explored, and in lists from before it was kept.
    """

    request_id: str
    user_id: str | None
    timestamp: int
    model: str
    items: list[str]
    scores: list[float]
    propensities: list[float | None]
    pool: list[str] | None = None
    scenario: str | None = None
    """The kind of list, where one was requested."""
    scenario_version: int | None = None
    after: str | None = None
    """The `request_id` of the list of which this is the next page."""
    experiment: str | None = None
    arm: str | None = None
    teams: list[str] | None = None
    """The arm that each item of an interleaved list is from."""
    query: str | None = None
    """What was typed, where the list is what a search found."""


@dataclass(frozen=True)
class StoredExperiment:
    """An experiment; `stopped` is None while it runs."""

    name: str
    body: dict[str, Any]
    started: int
    stopped: int | None


@dataclass(frozen=True)
class StoredScenario:
    """One version of a scenario."""

    name: str
    version: int
    """From 1."""
    definition: dict[str, Any]
    at: int
    """When it was stored."""
    switched_on: int | None = None
    """When it was switched on last; None if it never was."""
    is_on: bool = False


@dataclass(frozen=True)
class StoredKey:
    """An API key, with a digest in place of its secret."""

    key_id: str
    name: str
    digest: str
    scopes: str
    created: int
    revoked: int | None
