"""Past requests as the ranker saw them: their histories at that moment, and the features of what was listed.

In: a loaded model and lists of a store, or the latest requests that the model itself knows. Out: `Described`.

Nothing of this is logged: it is computed again, from what was known strictly before each request.

Shapes: R requests, K listed items, L history positions, C candidates, F features.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import polars as pl

from features.histories import Histories
from recsys.arrays import Bools, Floats, Ints, distinct
from serving.lookup import Lookup, PastEvent
from serving.recommender import RecommendOptions
from serving.retrieval.retriever import BLOCK
from serving.store.store import ImpressionList, Store


@dataclass(frozen=True)
class Described:
    """R requests with their first K listed items."""

    present: Bools
    """`[R, K]`, False where there is no item, or one that the model does not know."""
    dense: Floats
    """`[R, K, F]`"""
    p_click: Floats
    """`[R, K]` of an item that is shown."""


def describe_served(lookup: Lookup, lists: Sequence[ImpressionList], store: Store, length: int) -> Described:
    """Return the first `length` items of each of `lists`, all of named users, as the model of `lookup` describes them.

    The users' events since the fit are in `store`, as are the users whose fitted events must not be read.
    """
    stored, forgotten = _stored(store, lists), store.forgotten_users()
    histories = [
        lookup.histories(
            [(None, _before(lookup, one, stored, forgotten))], one.timestamp if lookup.retriever.has_clock else None
        )
        for one in lists
    ]
    items = np.full((len(lists), length), -1, np.int64)
    for row, one in enumerate(lists):
        known = [lookup.rows.get(item, -1) for item in one.items[:length]]
        items[row, : len(known)] = known
    return describe(lookup, Histories.join(histories), items)


def describe_known(lookup: Lookup, count: int, length: int) -> Described:
    """Return the lists that the model of `lookup` would have made at the latest events of `count` users, those with the newest ones.

    The event itself and all later ones are left out of the history.
    """
    last = pl.col("times").cast(pl.List(pl.Int64)).list.last()
    users = lookup.bundle.users.select("user_id", last).drop_nulls().sort("times", descending=True).head(count)
    histories = [
        lookup.histories([(None, lookup.past(user)[:-1])], time if lookup.retriever.has_clock else None)
        for user, time in users.iter_rows()
    ]
    joined = Histories.join(histories)
    return describe(lookup, joined, lookup.recommender.recommend(joined, RecommendOptions(length)).items)


def describe(lookup: Lookup, histories: Histories, items: Ints) -> Described:
    """Return `items` `[R, K]` (-1 padded) among the candidates of each request, as the ranker sees them."""
    retriever, ranker, parts = lookup.retriever, lookup.recommender.ranker, []
    for start in range(0, len(items), BLOCK):
        rows = slice(start, start + BLOCK)
        batch = retriever.open(histories.rows(rows))
        retrieved = retriever.candidates(batch, retriever.propose(batch), k=items.shape[1])
        candidates = distinct(np.concatenate([retrieved, items[rows]], axis=1))
        dense, categorical = retriever.describe(batch, batch.requests.candidates(candidates))
        p_click = ranker.when_shown(ranker.probabilities(dense, categorical))[..., 0]
        columns = _columns(candidates, items[rows])
        listed = np.take_along_axis(dense, columns[:, :, None], axis=1)
        parts.append(Described(items[rows] >= 0, listed, np.take_along_axis(p_click, columns, axis=1)))
    return Described(
        **{part.name: np.concatenate([getattr(one, part.name) for one in parts]) for part in fields(Described)}
    )


def _columns(candidates: Ints, items: Ints) -> Ints:
    """Return the column of each of `items` `[R, K]` in its row of `candidates` `[R, C]`; 0 where padded."""
    return np.asarray((candidates[:, :, None] == np.where(items < 0, -2, items)[:, None, :]).argmax(1))


def _stored(store: Store, lists: Sequence[ImpressionList]) -> Mapping[str, list[PastEvent]]:
    """Return the events since the fit of each user of `lists`."""
    of_user: dict[str, list[PastEvent]] = {}
    for event in store.events_of(sorted({one.user_id for one in lists if one.user_id})):
        past = PastEvent(event.item_id, event.event_type, event.timestamp, event.session_id)
        of_user.setdefault(event.user_id, []).append(past)
    return of_user


def _before(
    lookup: Lookup, one: ImpressionList, stored: Mapping[str, list[PastEvent]], forgotten: Mapping[str, int]
) -> list[PastEvent]:
    """Return what was known of the user of a list when it was made, in no order."""
    user = one.user_id or ""
    since = forgotten.get(user, -1)
    fitted = [event for event in lookup.past(user) if event.timestamp is None or event.timestamp > since]
    both = dict.fromkeys([*fitted, *stored.get(user, [])])  # exported and fitted events are in both
    return [event for event in both if event.timestamp is None or event.timestamp < one.timestamp]
