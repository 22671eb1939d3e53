"""Apply the store's item changes to a recommender, as servers do.

In: a recommender for the catalogue of its bundle, and item changes. Out: the recommender for the catalogue that is served.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from serving.columns import items_table, with_attributes
from serving.loading import with_items
from serving.recommender import Recommender
from serving.store.rows import ItemChange


def later_changes(changes: Sequence[ItemChange], as_of: int | None) -> list[ItemChange]:
    """Return the changes that a catalogue does not know which was read at the time `as_of`: those made since.

    Where either time is not known, as in bundles and changes of earlier releases, the change counts.
    """
    return [change for change in changes if as_of is None or change.at is None or change.at > as_of]


def with_changes(recommender: Recommender, tokenizer: Any, changes: Sequence[ItemChange]) -> Recommender:
    """Return the recommender with items added, replaced and deleted."""
    bodies = [{"item_id": change.item_id, **change.body} for change in changes if change.body is not None]
    if bodies:
        table = items_table(bodies, with_attributes(recommender.retriever.items.schema, bodies))
        recommender = with_items(recommender, tokenizer, table)
    deleted = [change.item_id for change in changes if change.body is None]
    if not deleted:
        return recommender
    retriever = recommender.retriever
    offered = ~retriever.items["item_id"].is_in(deleted).to_numpy()
    available = offered if retriever.available is None else offered & retriever.available
    return replace(recommender, retriever=retriever.restricted(available))
