"""Rows of lists, one for each of the last things that a user did: "Because you liked …".

In: what the user did, and a ranking of each of these things. Out: what the rows are for, their titles, lists that share no item.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from recsys.arrays import Ints
from serving.lookup import PastEvent
from serving.recommender import Ranking

TITLES = {
    "view": "Because you viewed {}",
    "click": "Because you looked at {}",
    "like": "Because you liked {}",
    "share": "Because you shared {}",
    "comment": "Because you commented on {}",
    "cart": "Because you put {} into the cart",
    "purchase": "Because you bought {}",
}
"""The title of a row by the type of the event that it is for; other events have no row."""


def occasions(past: Sequence[PastEvent], known: Mapping[str, int], count: int) -> list[PastEvent]:
    """Return the last of the events `past`, oldest first, that a row can be for, the latest first: at most `count`, each on another `known` item."""
    if all(event.timestamp is not None for event in past):
        past = sorted(past, key=lambda event: event.timestamp or 0)
    last: dict[str, PastEvent] = {}
    for event in reversed(past):
        if event.item_id in known and event.event_type in TITLES:
            last.setdefault(event.item_id, event)
    return list(last.values())[:count]


def without_repeats(ranking: Ranking, k: int) -> list[Ints]:
    """Return the positions of the first k items of each list that no list before it has."""
    taken: set[int] = set()
    positions = []
    for items in ranking.items.tolist():
        kept = [position for position, item in enumerate(items) if item >= 0 and item not in taken][:k]
        taken.update(items[position] for position in kept)
        positions.append(np.array(kept, np.int64))
    return positions
