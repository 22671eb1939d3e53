"""What a store drops in time: events and lists by age, and item changes that the model has learnt.

In: a store, the moment before which is old, and the items of a bundle. Out: how much was deleted.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from serving.columns import items_table, with_attributes
from serving.loading import changed_catalogue, offered_items, same_rows, with_columns_of
from serving.store.changes import later_changes
from serving.store.rows import ItemChange
from serving.store.store import Store


@dataclass(frozen=True)
class Pruned:
    """How many rows were deleted."""

    events: int
    lists: int
    item_changes: int

    def __str__(self) -> str:
        return f"{self.events:,} events, {self.lists:,} lists and {self.item_changes:,} item changes"

    @property
    def total(self) -> int:
        """All rows."""
        return self.events + self.lists + self.item_changes


def prune(store: Store, before: int, items: pl.DataFrame | None = None, as_of: int | None = None) -> Pruned:
    """Delete what is older than the time `before`: events, lists, and changes that the bundle with `items` knows.

    Those are changes that it has learnt, and those from before the time `as_of` at which its items were read. Other item
    changes stay, however old: without them the items would be gone.
    """
    events, lists = store.prune(before)
    if items is None:
        return Pruned(events, lists, 0)
    old = [change for change in store.item_changes() if (change.at or 0) < before]
    later = later_changes(old, as_of)
    known = {change.number for change in old} - {change.number for change in later}
    return Pruned(events, lists, store.prune_item_changes([*known, *learnt_changes(items, later)]))


def learnt_changes(items: pl.DataFrame, changes: list[ItemChange]) -> list[int]:
    """Return the numbers of those `changes` that would leave `items`, the bundle's as of its fit, as they are."""
    offered = set(items.filter(pl.Series(offered_items(items)))["item_id"])
    deleted = [change.number for change in changes if change.body is None and change.item_id not in offered]
    kept = [change for change in changes if change.body is not None]
    if not kept:
        return deleted
    bodies = [{"item_id": change.item_id, **(change.body or {})} for change in kept]
    table = items_table(bodies, with_attributes(items.schema, bodies))
    before, after = with_columns_of(items, table.schema), changed_catalogue(items, table)
    rows = np.flatnonzero(after["item_id"].is_in(table["item_id"].implode()).to_numpy())
    learnt = set(after["item_id"][rows[same_rows(before, after, rows, after.columns)]])
    return deleted + [change.number for change in kept if change.item_id in learnt]
