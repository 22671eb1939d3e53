"""Why the logic of the API refuses a request.

In: what a request names. Out: errors, which `serving.api.errors` answers.
"""

from collections.abc import Sequence
from datetime import datetime

from features.data.values import EARLIEST
from recsys.errors import RecsysError


class BusyError(RecsysError):
    """Too much waits; it may be sent again."""


class UnknownItemError(RecsysError):
    """An item that the catalogue lacks."""


class UnknownListError(RecsysError):
    """A list that is not kept."""


class BadTimeError(RecsysError):
    """A time in the future, or in another unit than microseconds."""


def refuse_other_units(moments: Sequence[datetime | int | None]) -> None:
    """Raise BadTimeError where whole numbers, as microseconds, are times before 1990: they were meant as seconds or milliseconds."""
    early = [moment for moment in moments if isinstance(moment, int) and moment < EARLIEST * 1_000_000]
    if early:
        raise BadTimeError(
            f"{len(early)} of {len(moments)} times are whole numbers before 1990, for example {early[0]}; "
            "send microseconds since 1970, or ISO times"
        )
