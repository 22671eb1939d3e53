"""Event types, their weights, splits and the unit of time: what models and tables share."""

from datetime import UTC, datetime, timedelta

EVENT_TYPES = ("impression", "view", "click", "like", "share", "comment", "cart", "purchase")
"""Weakest to strongest; the index in this tuple is the type's code."""

DISLIKE = "dislike"
REJECTIONS = (DISLIKE, "hide")
"""What users do not want; these types have no code, since no model reads them in a history."""
LOGGED_TYPES = (*EVENT_TYPES, *REJECTIONS)
NO_ACTION = ("impression", *REJECTIONS)
"""Types of events that say nothing in favour of their item."""
TAKES_BACK = ("like", "share", "cart", "purchase")
"""Types of events after which an item is no longer rejected."""

TYPE_CODE = {name: code for code, name in enumerate(EVENT_TYPES)}
IMPRESSION = TYPE_CODE["impression"]
PURCHASE = TYPE_CODE["purchase"]

DEFAULT_EVENT_WEIGHTS = {
    "impression": 0.0,
    "view": 0.5,
    "click": 1.0,
    "like": 1.5,
    "share": 2.0,
    "comment": 2.0,
    "cart": 2.0,
    "purchase": 3.0,
}

SPLITS = ("train", "valid", "test")

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

DAY_US = 86_400_000_000
"""Microseconds in a day. Every clock timestamp is in microseconds once it is read."""


def microseconds(moment: datetime) -> int:
    """Return a time in microseconds since 1970, exactly."""
    return (moment - EPOCH) // timedelta(microseconds=1)


def moment_at(time: int) -> datetime:
    """Return the time of `microseconds`."""
    return EPOCH + timedelta(microseconds=time)
