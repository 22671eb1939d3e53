"""Whether lists show items without events, and whether users find them there, by the age of the items.

In: lists and the targets' ranks. Out: a `NewItems` per age.

Shapes: R requests, T targets, N catalogue, K list length.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.histories import Requests
from recsys.arrays import Bools, Ints
from recsys.events import DAY_US

TOP = 10
"""First positions of a list that are looked at."""

AGES = {"less than 7 days": (0, 7), "7 to 29 days": (7, 30), "30 days or more, or unknown": (30, np.inf)}
"""Least and greatest age in days, the latter not included."""

ALL = "of any age"


@dataclass(frozen=True)
class NewItems:
    """The items of one age that have no event in what was fitted."""

    targets: int
    found: int
    """Targets that are in the first 10 of their list."""
    share_of_targets: float
    share_of_lists: float
    """Share of the first 10 positions of all lists."""


@dataclass(frozen=True)
class Ages:
    """Which targets and which of the first 10 positions of lists are items without events, by age."""

    groups: dict[str, tuple[Bools, Bools]]
    """`[T]` and `[P]`"""
    listed_for: Ints
    """`[P]` the request of each position."""


def new_items(
    lists: Ints, ranks: NDArray[np.float64], requests: Requests, counts: Ints, since: Ints | None
) -> dict[str, NewItems]:
    """Return what becomes of items without events, by age at the request; of any age alone where there is no clock.

    `ranks` `[T]` are those of the targets; the rest is as in `ages_of`.
    """
    ages = ages_of(lists, requests, counts, since)
    return {name: _new_items(wanted, listed, ranks) for name, (wanted, listed) in ages.groups.items()}


def ages_of(lists: Ints, requests: Requests, counts: Ints, since: Ints | None) -> Ages:
    """Sort targets and positions by the age of items without events; of any age alone where there is no clock.

    `lists` `[R, K]` are padded with -1. `counts` `[N]` are the items' events in what was fitted, `since` `[N]` when they
    came to exist, in microseconds, negative where unknown.
    """
    owners = np.repeat(np.arange(len(requests)), np.diff(requests.offsets))
    shown_to, column = np.nonzero(lists[:, :TOP] >= 0)
    shown = lists[shown_to, column]
    groups = {ALL: (counts[requests.targets] == 0, counts[shown] == 0)}
    if since is not None:
        target_ages = _ages(since[requests.targets], requests.times[owners])
        shown_ages = _ages(since[shown], requests.times[shown_to])
        for name, (least, greatest) in AGES.items():
            wanted, listed = ((least <= ages) & (ages < greatest) for ages in (target_ages, shown_ages))
            groups[name] = groups[ALL][0] & wanted, groups[ALL][1] & listed
    return Ages(groups, shown_to)


def _ages(since: Ints, now: Ints) -> NDArray[np.float64]:
    return np.where(since >= 0, np.maximum(now - since, 0) / DAY_US, np.nextafter(np.inf, 0))


def _new_items(wanted: Bools, listed: Bools, ranks: NDArray[np.float64]) -> NewItems:
    return NewItems(
        targets=int(wanted.sum()),
        found=int((ranks[wanted] <= TOP).sum()),
        share_of_targets=float(wanted.sum() / max(1, len(wanted))),
        share_of_lists=float(listed.sum() / max(1, len(listed))),
    )
