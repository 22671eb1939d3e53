"""What the API does, free of HTTP: lists from the live model and the store, and what changes either.

In: the bodies of `serving.bodies`. Out: its answers. Every call reads the model once and keeps it.
"""

import threading
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TypeVar

import numpy as np

from features.histories import Histories, Ints
from recsys.errors import RecsysError
from serving import bodies
from serving.columns import refuse_unfit
from serving.filters import matching
from serving.live import Live, Model
from serving.loading import read_sentences
from serving.lookup import PastEvent
from serving.metrics import Metrics
from serving.recommender import Ranking
from serving.rerank import explore
from serving.shown import ShownLog
from serving.sources import Bools, Floats, Sentences
from serving.store import ShownList, Store, StoredEvent

T = TypeVar("T")

CACHED = 256
"""Sentences and filters that are remembered for a model."""

NEAREST = 3
STRONGEST = 5
"""Reasons that are given for an item."""

AHEAD_US = 5 * 60 * 1_000_000
"""How far an event's time may lie ahead of this machine's clock."""


class UnknownItemError(RecsysError):
    """An item that the catalogue lacks."""


class BadTimeError(RecsysError):
    """An event of the future."""


def wall_clock() -> int:
    """Return the microseconds since the epoch."""
    return int(datetime.now(UTC).timestamp() * 1e6)


class Service:
    """Answers from one live model and one store."""

    def __init__(
        self,
        live: Live,
        store: Store,
        metrics: Metrics,
        shown: ShownLog,
        clock: Callable[[], int] = wall_clock,
        seed: int | None = None,
    ) -> None:
        """`clock` is asked for the moment of each request; `seed` makes exploration repeatable."""
        self.live, self.store, self.metrics, self.shown, self.clock = live, store, metrics, shown, clock
        self._rng, self._drawing = np.random.default_rng(seed), threading.Lock()

    def recommend(self, body: bodies.RecommendBody) -> bodies.Answer:
        """Return the best items for a user, a history, a sentence, or (with none) anyone."""
        model, now = self.live.model, self.clock()
        past = self._past(model, body.user_id, body.history)
        histories, sentences = self._histories(model, past, now, body.query)
        if not (past or body.query):
            self.metrics.cold.inc()
        proposed: dict[str, Ints] = {}
        recommender = model.lookup.recommender
        share = recommender.config.lists.explore
        ranking = recommender.recommend(
            histories,
            # New items that are explored stand further down, with scores of their own.
            max(body.k, sum(recommender.config.sources.model_dump().values())) if share else body.k,
            sentences,
            self._allowed(model, body.filters),
            body.exclude_seen,
            body.diversity,
            body.explain,
            proposed.update,
        )
        for name, items in proposed.items():
            self.metrics.candidates.labels(name).inc(int((items >= 0).sum()))
        propensities: list[float | None] | None = None
        if share:
            ranking, propensities = self._explored(ranking, proposed.get("new"), body.k, share)
        unknown = model.lookup.unknown(past) if body.history is not None else []
        return self._answer(model, body.user_id, now, histories, ranking, unknown, propensities)

    def rank(self, body: bodies.RankBody) -> bodies.Answer:
        """Return the candidates in order of value; those that the model lacks are listed apart."""
        model = self.live.model
        time = bodies.microseconds(body.context.time) if body.context else None
        now = self.clock() if time is None else time
        past = self._past(model, body.user_id, body.history)
        histories, _ = self._histories(model, past, now, None)
        rows = model.lookup.rows
        known = [rows[item] for item in body.candidates if item in rows]
        unknown = [item for item in body.candidates if item not in rows]
        if body.history is not None:
            unknown = model.lookup.unknown(past) + unknown
        candidates = np.array([known], np.int64).reshape(1, -1)
        ranking = model.lookup.recommender.rank(histories, candidates, body.explain) if known else None
        return self._answer(model, body.user_id, now, histories, ranking, unknown)

    def search(self, body: bodies.SearchBody) -> bodies.Answer:
        """Return the items that a sentence asks for."""
        return self.recommend(bodies.RecommendBody(query=body.query, k=body.k, filters=body.filters))

    def similar(self, item_id: str, k: int) -> bodies.SimilarAnswer:
        """Return the items nearest to one by their vectors.

        Raises:
            UnknownItemError: the catalogue lacks it.
        """
        model = self.live.model
        recommender, row = model.lookup.recommender, model.lookup.rows.get(item_id)
        if row is None:
            raise UnknownItemError(f"item {item_id!r} is not in the catalogue; PUT /v1/items adds items")
        cosines = recommender.vectors @ recommender.vectors[row]
        if recommender.available is not None:
            cosines = np.where(recommender.available, cosines, -np.inf)
        cosines[row] = -np.inf
        nearest = np.argpartition(-cosines, min(k, len(cosines) - 1))[:k]
        nearest = nearest[np.argsort(-cosines[nearest], kind="stable")]
        items = [
            bodies.SimilarItem(
                item_id=model.lookup.ids[item], title=model.lookup.titles[item], similarity=float(cosines[item])
            )
            for item in nearest
            if np.isfinite(cosines[item])
        ]
        return bodies.SimilarAnswer(item_id=item_id, model=model.name, items=items)

    def add_events(self, body: bodies.EventsBody) -> bodies.EventsAnswer:
        """Keep events; the next request sees them.

        Raises:
            BadTimeError: an event lies in the future.
            StoreError: they could not be kept, none of them.
        """
        now, rows = self.clock(), self.live.model.lookup.rows
        events = [_stored(event, now) for event in body.events]
        if self.live.model.lookup.recommender.has_clock:
            late = [event for event in events if event.timestamp > now + AHEAD_US]
            if late:
                raise BadTimeError(
                    f"events: {len(late)} of {len(events)} lie in the future, for example that on "
                    f"{late[0].item_id!r} at {late[0].timestamp}; send ISO times or microseconds since 1970"
                )
        accepted = self.store.add_events(events)
        self.metrics.events.inc(accepted)
        unknown = list(dict.fromkeys(event.item_id for event in events if event.item_id not in rows))
        return bodies.EventsAnswer(accepted=accepted, duplicates=len(events) - accepted, unknown_items=unknown)

    def put_items(self, body: bodies.ItemsBody) -> bodies.ItemsAnswer:
        """Add or replace items; they can be recommended when this returns.

        Raises:
            UnfitError: a value that its column cannot hold.
        """
        schema = self.live.model.lookup.recommender.items.schema
        refuse_unfit([{"item_id": item.item_id, **item.body()} for item in body.items], schema)
        return self._change([(item.item_id, item.body()) for item in body.items])

    def delete_item(self, item_id: str) -> bodies.ItemsAnswer:
        """Take an item out of all lists; histories keep it.

        Raises:
            UnknownItemError: the catalogue lacks it, or it was deleted before.
        """
        recommender, row = self.live.model.lookup.recommender, self.live.model.lookup.rows.get(item_id)
        if row is None or (recommender.available is not None and not recommender.available[row]):
            raise UnknownItemError(f"item {item_id!r} is not in the catalogue")
        return self._change([(item_id, None)])

    def forget_user(self, user_id: str) -> bodies.Forgotten:
        """Delete a user's events and lists, and have the model ignore what it knows of the user."""
        return bodies.Forgotten(user_id=user_id, deleted=self.store.forget_user(user_id))

    def about_model(self) -> bodies.ModelAnswer:
        """Say what answers now."""
        model = self.live.model
        manifest, recommender = model.bundle.manifest, model.lookup.recommender
        count = len(model.lookup.ids) if recommender.available is None else int(recommender.available.sum())
        return bodies.ModelAnswer(
            model=model.name,
            dataset=manifest["dataset"],
            fit_on=manifest["fit_on"],
            metrics=manifest["metrics"],
            items=count,
            users=len(model.lookup.users),
            failed=self.live.failed,
        )

    def _change(self, changes: list[tuple[str, dict[str, object] | None]]) -> bodies.ItemsAnswer:
        self.store.change_items(changes)
        self.live.take_changes()
        return bodies.ItemsAnswer(changed=len(changes), items=self.about_model().items)

    def _past(
        self, model: Model, user_id: str | None, history: Sequence[str | bodies.HistoryEvent] | None
    ) -> list[PastEvent]:
        """Return what is known of the user, oldest first: the history that was sent, or the store's upon the bundle's."""
        if history is not None:
            return [PastEvent(event) if isinstance(event, str) else event.past() for event in history]
        if user_id is None:
            return []
        fitted = model.lookup.past(user_id)
        if fitted and self.store.is_forgotten(user_id):
            fitted = []
        kept = self.store.history(user_id, model.lookup.length)
        later = [PastEvent(event.item_id, event.event_type, event.timestamp) for event in kept]
        # Events that were exported and fitted are in both.
        return sorted(dict.fromkeys([*fitted, *later]), key=lambda event: event.timestamp or 0)

    def _histories(
        self, model: Model, past: list[PastEvent], now: int, query: str | None
    ) -> tuple[Histories, Sentences | None]:
        lookup = model.lookup
        moment = now if lookup.recommender.has_clock else None
        histories = lookup.histories([(None, past)], moment, typed=query is not None)
        if query is None:
            return histories, None
        return histories, self._cached(
            model, "sentence", query, lambda: read_sentences(lookup.recommender, model.bundle.tokenizer, [query])
        )

    def _allowed(self, model: Model, filters: bodies.Filters | None) -> Bools | None:
        if filters is None:
            return None
        key = filters.model_dump_json()
        return self._cached(model, "filter", key, lambda: matching(model.lookup.recommender.items, filters))

    def _cached(self, model: Model, kind: str, key: str, make: Callable[[], T]) -> T:
        """Return what was made for `key`, for this model, or make it."""
        known = model.cache.get((kind, key))
        self.metrics.cache.labels(kind, "miss" if known is None else "hit").inc()
        if known is None:
            if len(model.cache) >= CACHED:
                model.cache.clear()
            known = model.cache[kind, key] = make()
        return known

    def _explored(self, ranking: Ranking, new: Ints | None, k: int, share: float) -> tuple[Ranking, list[float | None]]:
        """Return the first k places of a longer list, some of them given to `new` items from further down."""
        items = ranking.items[0]
        listed = np.flatnonzero(items >= 0)
        pool = listed[k:][np.isin(items[listed[k:]], [] if new is None else new)]
        with self._drawing:
            places, propensities = explore(listed[:k], pool, share, self._rng)
        self.metrics.explored.inc(sum(chance is not None for chance in propensities))
        columns = {name: column[:, places] for name, column in vars(ranking).items() if column is not None}
        return Ranking(**columns), propensities

    def _answer(
        self,
        model: Model,
        user_id: str | None,
        now: int,
        histories: Histories,
        ranking: Ranking | None,
        unknown: list[str],
        propensities: list[float | None] | None = None,
    ) -> bodies.Answer:
        request_id = uuid.uuid4().hex
        items = [] if ranking is None else _ranked(model, histories, ranking)
        chances = propensities or [None] * len(items)
        for item, chance in zip(items, chances, strict=True):
            item.explored = chance is not None
        ids, scores = [item.item_id for item in items], [item.score for item in items]
        self.shown.add(ShownList(request_id, user_id, now, model.name, ids, scores, chances))
        return bodies.Answer(
            request_id=request_id, user_id=user_id, model=model.name, items=items, unknown_items=unknown
        )


def _ranked(model: Model, histories: Histories, ranking: Ranking) -> list[bodies.RankedItem]:
    lookup = model.lookup
    columns = (ranking.items[0], ranking.score[0], ranking.interest[0], ranking.p_click[0], ranking.p_purchase[0])
    items = [
        bodies.RankedItem(
            item_id=lookup.ids[item],
            title=lookup.titles[item],
            score=score,
            interest=interest,
            p_click=click,
            p_purchase=purchase,
        )
        for item, score, interest, click, purchase in zip(*(column.tolist() for column in columns), strict=True)
        if item >= 0
    ]
    if ranking.contributions is not None:
        for item, shares in zip(items, ranking.contributions[0], strict=False):
            item.reasons = _reasons(model, histories, lookup.rows[item.item_id], shares)
    return items


def _reasons(model: Model, histories: Histories, row: int, shares: Floats) -> bodies.Reasons:
    """Name the events that `row` is most like, and the features that moved it most, by their `shares` `[F]`."""
    lookup, recommender = model.lookup, model.lookup.recommender
    past = np.unique(histories.items[0])
    past = past[(past >= 0) & (past < len(lookup.ids))]
    likeness = recommender.vectors[past] @ recommender.vectors[row]
    nearest = [
        bodies.Near(item_id=lookup.ids[past[place]], similarity=float(likeness[place]))
        for place in np.argsort(-likeness, kind="stable")[:NEAREST]
    ]
    names = recommender.feature_names
    strongest = [
        bodies.Contribution(feature=names[place], log_odds=float(shares[place]))
        for place in np.argsort(-np.abs(shares), kind="stable")[:STRONGEST]
        if shares[place]
    ]
    return bodies.Reasons(nearest=nearest, features=strongest)


def _stored(event: bodies.Event, now: int) -> StoredEvent:
    time = bodies.microseconds(event.timestamp)
    return StoredEvent(
        event_id=event.event_id or uuid.uuid4().hex,
        user_id=event.user_id,
        item_id=event.item_id,
        event_type=event.event_type,
        timestamp=now if time is None else time,
        value=event.value,
        session_id=event.session_id,
        request_id=event.request_id,
        position=event.position,
    )
