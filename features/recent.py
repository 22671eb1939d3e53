"""Events since a fit, with what their users did just before: what brings counts and co-visits up to date.

In: an event log, or arrays of events. Out: `RecentEvents`.

Shapes: E events.
"""

from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from features.histories import EventLog
from recsys.arrays import Bools, Ints

REACH = 4
"""Events of a user before a recent one that are kept with it."""


@dataclass(frozen=True)
class RecentEvents:
    """Events after the moment `since`, and up to `REACH` events that each of their users had before it; sorted by user and time."""

    users: Ints
    """`[E]` a number for each user."""
    items: NDArray[np.int32]
    """`[E]` item indexes."""
    types: NDArray[np.int8]
    """`[E]` event type codes; none is an impression."""
    times: Ints
    """`[E]` microseconds."""
    since: int
    """When the newest event of the fit was, in microseconds."""
    opinions: NDArray[np.float64]
    """`[E]` opinion of the text of each event, from 0 to 1; NaN without one."""

    @classmethod
    def of(
        cls,
        users: Ints,
        items: NDArray[np.int32],
        types: NDArray[np.int8],
        times: Ints,
        since: int,
        opinions: NDArray[np.float64] | None = None,
    ) -> "RecentEvents":
        """Return the recent ones of events `[E]` in order of arrival."""
        order = np.lexsort((times, users))
        opinions = np.full(len(users), np.nan) if opinions is None else opinions[order]
        users, items, types, times = users[order], items[order], types[order], times[order]
        kept = (new := times > since).copy()
        for distance in range(1, REACH + 1):
            kept[:-distance] |= new[distance:] & (users[distance:] == users[:-distance])
        return cls(users[kept], items[kept], types[kept], times[kept], since, opinions[kept])

    @classmethod
    def of_log(cls, log: EventLog, since: int) -> "RecentEvents":
        """Return the recent events of `log`."""
        return cls.of(log.user_rows, log.items, log.types, log.times, since, log.opinions)

    @cached_property
    def new(self) -> Bools:
        """`[E]` whether the event lies after `since`."""
        return self.times > self.since

    @property
    def newest(self) -> int:
        """When the newest event was; `since` where there is none."""
        return int(self.times.max(initial=self.since))

    def save(self, path: Path) -> None:
        """Write all arrays to `path` (`.npz`)."""
        np.savez(path, allow_pickle=False, **{field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def load(cls, path: Path) -> "RecentEvents":
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as saved:
            arrays = {field.name: saved[field.name] for field in fields(cls)}
        return cls(**arrays | {"since": int(arrays["since"])})
