"""Translates between the ids of callers and the row numbers of the recommender.

In: user ids, histories as item ids or events. Out: `Histories`; item ids of rankings.
"""

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace

import numpy as np
import polars as pl

from features.context import ContextColumns, Named, Value, objects
from features.data.markup import plain
from features.histories import Histories
from features.item_lists import ItemLists
from features.rejections import Rejected, standing
from recsys.arrays import Bools, Ints
from recsys.events import EVENT_TYPES, REJECTIONS, TYPE_CODE
from serving.loading import Bundle
from serving.recommender import Recommender
from serving.retrieval.sources import Sentences

MATCHES = 200
"""Items at least among which a search looks for an exact title."""


@dataclass(frozen=True)
class PastEvent:
    """One event of a history."""

    item_id: str
    event_type: str = "click"
    timestamp: int | None = None
    """Microseconds since the epoch (or the dataset's ordinal)."""
    session_id: str | None = field(default=None, compare=False)
    """An event is the same with and without it: bundles did not always keep it."""


@dataclass(frozen=True)
class RequestContext:
    """What a user's request comes with besides the history."""

    named: Mapping[str, Value] = field(default_factory=dict)
    """Context and attributes of the user, by the names of their features; what is missing is not known."""
    session_id: str | None = None


def in_order(events: list[PastEvent]) -> list[PastEvent]:
    """Return `events` by time where each has one, otherwise as they are."""
    if all(event.timestamp is not None for event in events):
        return sorted(events, key=lambda event: event.timestamp or 0)
    return events


def rejected_items(past: Iterable[PastEvent]) -> dict[str, bool]:
    """Return the items that a user rejected in `past`, oldest first, and did not take back, and whether they were disliked."""
    return standing((event.item_id, event.event_type) for event in past)


def rejections_of(past: Sequence[PastEvent]) -> list[PastEvent]:
    """Return the rejections in `past`, oldest first, that were not taken back."""
    rejected = rejected_items(past)
    return [event for event in past if event.event_type in REJECTIONS and event.item_id in rejected]


class Lookup:
    """A loaded bundle with its ids."""

    def __init__(self, bundle: Bundle, before: "Lookup | None" = None) -> None:
        """`before` is that of the same bundle before items were added at its end, or changed."""
        self.bundle, self.recommender = bundle, bundle.recommender
        self.retriever = self.recommender.retriever
        ids = self.retriever.items["item_id"]
        if before is None:
            self.ids = ids.to_list()
            self.rows = dict(zip(self.ids, range(len(ids)), strict=True))
            self.titles = self.retriever.items["title"].to_list()
            users = bundle.users["user_id"].to_list()
            self.users = dict(zip(users, range(len(users)), strict=True))
            self.rejections = self._rejections()
        else:
            known = len(before.ids)
            self.ids = before.ids + ids[known:].to_list()
            self.rows = before.rows | dict(zip(self.ids[known:], range(known, len(ids)), strict=True))
            self.titles = _changed(before.titles, before.retriever.items["title"], self.retriever.items["title"])
            self.users, self.rejections = before.users, before.rejections
        self.newest = self.retriever.features.facts.events.newest
        """The time of the newest event that the bundle knows."""

    def with_recommender(self, recommender: Recommender) -> "Lookup":
        """Return the same ids with another `recommender` for the same catalogue."""
        other = copy(self)
        other.bundle, other.recommender = replace(self.bundle, recommender=recommender), recommender
        other.retriever = recommender.retriever
        return other

    @property
    def length(self) -> int:
        """The longest history that is read."""
        return self.retriever.config.interest.max_history

    def offered(self, item_id: str) -> int | None:
        """Return the row of an item, also before and after its time; None where the catalogue lacks it or no longer offers it."""
        row, available = self.rows.get(item_id), self.retriever.available
        return row if row is None or available is None or available[row] else None

    def offered_at(self, item_ids: Sequence[str], now: int) -> dict[str, int]:
        """Return the rows of those of the items that the catalogue offers at the time `now`."""
        found, offered = zip(item_ids, map(self.rows.get, item_ids), strict=True), self.retriever.offered(now)
        rows = {item: row for item, row in found if row is not None}
        return rows if offered is None else {item: row for item, row in rows.items() if offered[row]}

    def moment(self, now: int | None) -> int:
        """Return the time `now` of a request, which by default, or without a clock, is just after the newest event that the bundle knows."""
        return now if now is not None and self.retriever.has_clock else self.newest + 1

    def past(self, user_id: str) -> list[PastEvent]:
        """Return the user's events as of the fit, oldest first, rejections among them; none for a user that the bundle does not know."""
        row, rejections = self.users.get(user_id), self.rejections.get(user_id, [])
        if row is None:
            return rejections
        user = self.bundle.users.row(row, named=True)
        items, types, times = (user[name] for name in ("items", "types", "times"))
        sessions = user.get("sessions") or [None] * len(items)
        acted = [
            PastEvent(self.ids[item], EVENT_TYPES[kind], time, session)
            for item, kind, time, session in zip(items, types, times, sessions, strict=True)
        ]
        return in_order([*rejections, *acted]) if rejections else acted

    def earlier(self, user_id: str) -> Ints:
        """Return the distinct items of the user's events as of the fit that are too old for `past`."""
        row = self.users.get(user_id)
        if row is None or "earlier" not in self.bundle.users.columns:  # bundles did not have it always
            return np.empty(0, np.int64)
        return self.bundle.users["earlier"][row].to_numpy()

    def histories(
        self,
        requests: Sequence[tuple[str | None, Sequence[str | PastEvent] | None]],
        now: int | None = None,
        typed: bool = False,
        earlier: Ints | None = None,
        context: RequestContext | None = None,
    ) -> Histories:
        """Return the histories of requests `(user_id, history)`.

        A history that is sent replaces what the bundle knows of the user; items that the catalogue lacks are left out.
        Where every event has a time, the times tell the order. Users without events have an empty history. `now` is in
        microseconds; by default just after the newest event that the bundle knows. `typed` puts what the users
        typed behind their events (see `Sentences`). `earlier` are items that a single user met before the history.
        `context` is that of a single request; by default the bundle's attributes of each user.
        """
        length, moment = self.length, self.newest + 1 if now is None else now
        items = np.full((len(requests), length), -1, np.int32)
        types, times = np.zeros((len(requests), length), np.int8), np.zeros((len(requests), length), np.int64)
        session, in_session = context.session_id if context else None, np.zeros((len(requests), length), bool)
        met, rejected = [], []
        for row, (user, sent) in enumerate(requests):
            history = self._known(sent if sent is not None else self.past(user) if user is not None else [])
            rejected.append({self.rows[item]: disliked for item, disliked in rejected_items(history).items()})
            known = self._coded(history, moment, session)
            cut = max(0, len(known) - (length - typed))
            older = self.earlier(user) if sent is None and user is not None else earlier
            met.append(np.array([*(() if older is None else older), *(event[0] for event in known[:cut])], np.int32))
            events = known[cut:] + [(len(self.ids), TYPE_CODE["click"], moment, False)] * typed
            if events:
                last = slice(-len(events), None)
                items[row, last], types[row, last], times[row, last], in_session[row, last] = zip(*events, strict=True)
        return Histories(
            items,
            types,
            times,
            np.full(len(requests), moment, np.int64),
            ItemLists.of(met) if any(map(len, met)) else None,
            self._named([user for user, _ in requests], context),
            in_session if self.context.sessions else None,
            Rejected.of(rejected),
        )

    @property
    def context(self) -> ContextColumns:
        """The columns of context and attributes that the ranker knows."""
        return self.retriever.features.context

    def _named(self, users: Sequence[str | None], context: RequestContext | None) -> Named:
        if context is None:
            return self.bundle.attributes.of(users)
        return {column.name: objects([context.named.get(column.name)]) for column in self.context.columns}

    def _known(self, history: Sequence[str | PastEvent]) -> list[PastEvent]:
        """Return the events on known items, oldest first."""
        events = [PastEvent(event) if isinstance(event, str) else event for event in history]
        return in_order([event for event in events if event.item_id in self.rows])

    def _coded(self, known: Sequence[PastEvent], moment: int, session: str | None) -> list[tuple[int, int, int, bool]]:
        """Return item, type code, time, and whether they are of the session, of the events `known` that models read."""
        return [
            (
                self.rows[event.item_id],
                TYPE_CODE[event.event_type],
                moment if event.timestamp is None else event.timestamp,
                session is not None and event.session_id == session,
            )
            for event in known
            if event.event_type not in REJECTIONS
        ]

    def _rejections(self) -> dict[str, list[PastEvent]]:
        """Return what each user had rejected as of the fit, oldest first."""
        of_user: dict[str, list[PastEvent]] = {}
        for user, item, kind, time in self.bundle.rejections.iter_rows():
            of_user.setdefault(user, []).append(PastEvent(self.ids[item], kind, time))
        return of_user

    def unknown(self, history: Sequence[str | PastEvent]) -> list[str]:
        """Return the item ids of `history` that the catalogue lacks."""
        ids = [event if isinstance(event, str) else event.item_id for event in history]
        return [item for item in ids if item not in self.rows]

    def found(self, query: str, sentences: Sentences, k: int, allowed: Bools | None, now: int | None = None) -> Ints:
        """Return the k items that match `query`, which is read as `sentences`: those of exactly this title first, then the best."""
        matches = self.retriever.matching(sentences, max(k, MATCHES), allowed, self.moment(now))
        title = plain(pl.Series([query])).item().strip().casefold()
        others = np.array([self.titles[item].strip().casefold() != title for item in matches.tolist()], bool)
        return matches[np.argsort(others, kind="stable")[:k]]

    def item_ids(self, items: Ints) -> list[list[str]]:
        """Return the ids of lists `[R, K]`, without padding."""
        return [[self.ids[item] for item in row if item >= 0] for row in items]


def _changed(texts: list[str], before: pl.Series, after: pl.Series) -> list[str]:
    """Return the `texts` that are the column `before` as they are in `after`, which may be longer."""
    known = len(before)
    changed = [*texts, *after[known:].to_list()]
    for row in (before.ne_missing(after[:known])).arg_true().to_list():
        changed[row] = after[row]
    return changed
