"""When each item may be in lists: from `available_from` on, and until `available_until`.

In: two times for each item of a catalogue. Out: masks `[N]` of the items that may be in lists at a moment.

Shapes: R requests, C candidates, N catalogue.
"""

from functools import cached_property

import numpy as np
import polars as pl

from recsys.arrays import Bools, Ints

EARLIEST, LATEST = np.iinfo(np.int64).min, np.iinfo(np.int64).max


class Windows:
    """The time in which each item may be in lists; the moment at which it opens belongs to it, the one at which it closes does not."""

    def __init__(self, opens: Ints, closes: Ints) -> None:
        """`opens` and `closes` `[N]` are microseconds or ordinals, whatever the requests' times are."""
        self.opens, self.closes = opens, closes
        self._latest: tuple[int, int, Bools] | None = None

    @classmethod
    def of(cls, items: pl.DataFrame) -> "Windows":
        """Return those that the columns `available_from` and `available_until` of `items` state; a missing time is no limit."""
        return cls(
            items["available_from"].fill_null(EARLIEST).to_numpy(),
            items["available_until"].fill_null(LATEST).to_numpy(),
        )

    def since(self, moments: Ints) -> "Windows":
        """Return the same windows, each from its moment of `moments` `[N]` on."""
        return Windows(np.maximum(self.opens, moments), self.closes)

    def open_at(self, moment: int) -> Bools | None:
        """Return a mask `[N]` of the items that may be in lists at `moment`; None for all."""
        return self._state_at(moment)[1]

    def open_between(self, first: int, last: int) -> tuple[Bools | None, int]:
        """Return a mask `[N]` (None for all) of the items that may be in lists at some moment from `first` to `last`.

        Also how many of them may not be at every such moment.
        """
        until, mask = self._state_at(first)
        if last < until:
            return mask, 0
        some = (self.opens <= last) & (self.closes > first)
        return some, int(np.count_nonzero(some & ((self.opens > first) | (self.closes <= last))))

    @property
    def limited(self) -> bool:
        """Whether any item may not be in lists at any time."""
        return self._last_opens > EARLIEST or self._first_closes < LATEST

    def open_for(self, moments: Ints) -> Bools:
        """Return a mask `[R, N]` of the items that may be in lists at each of the `moments` `[R]`."""
        mask: Bools = (self.opens <= moments[:, None]) & (self.closes > moments[:, None])
        return mask

    def has_open(self, items: Ints, moments: Ints) -> Bools:
        """Return whether each of `items` `[R, C]` (-1 padded) may be in a list at its request's moment of `moments` `[R]`."""
        now = moments[:, None]
        is_open: Bools = (items >= 0) & (self.opens[items] <= now) & (self.closes[items] > now)
        return is_open

    def _state_at(self, moment: int) -> tuple[int, Bools | None]:
        """Return the mask of `moment`, and before it the moment until which it stays the same."""
        if self._last_opens <= moment < self._first_closes:
            return self._first_closes, None
        latest = self._latest
        if latest is None or not latest[0] <= moment < latest[1]:
            latest = self._latest = self._made_at(moment)
        return latest[1:]

    def _made_at(self, moment: int) -> tuple[int, int, Bools]:
        """Return the mask of `moment`, and before it the moments from which and until which it is the same."""
        opened, closed = self.opens <= moment, self.closes <= moment
        first = max(self.opens[opened].max(initial=EARLIEST), self.closes[closed].max(initial=EARLIEST))
        last = min(self.opens[~opened].min(initial=LATEST), self.closes[~closed].min(initial=LATEST))
        return int(first), int(last), opened & ~closed

    @cached_property
    def _last_opens(self) -> int:
        return int(self.opens.max(initial=EARLIEST))

    @cached_property
    def _first_closes(self) -> int:
        return int(self.closes.min(initial=LATEST))
