"""What the API does, free of HTTP: lists from the live model and the store, and what changes either.

In: the bodies of `serving.api.schemas`. Out: its answers. Every call reads the model once and keeps it.
"""

import threading
import uuid
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

import numpy as np

from features.histories import Histories, Ints
from recsys.errors import RecsysError
from serving.api import schemas
from serving.api.filters import matching
from serving.api.live import ModelHolder, Snapshot
from serving.api.metrics import Metrics
from serving.columns import refuse_unfit
from serving.loading import read_sentences
from serving.lookup import PastEvent
from serving.recommender import Ranking
from serving.rerank import explore
from serving.retrieval.sources import Bools, Floats, Sentences
from serving.store.impressions import ImpressionLog
from serving.store.store import ImpressionList, Store, StoredEvent

T = TypeVar("T")
Body = TypeVar("Body", bound=schemas.ListRequest)

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


@dataclass(frozen=True)
class Asked(Generic[Body]):
    """One list that is asked for: what the model is given, and what the answer says beside the items."""

    model: Snapshot
    body: Body
    now: int
    histories: Histories
    """`[1, L]`"""
    unknown: list[str]
    alike: Hashable
    """Lists of one value, and one model, can be made together."""
    sentences: Sentences | None = None
    allowed: Bools | None = None
    candidates: list[int] = field(default_factory=list)


class Service:
    """Answers from one live model and one store."""

    def __init__(
        self,
        holder: ModelHolder,
        store: Store,
        metrics: Metrics,
        shown: ImpressionLog,
        clock: Callable[[], int] = wall_clock,
        seed: int | None = None,
    ) -> None:
        """`clock` is asked for the moment of each request; `seed` makes exploration repeatable."""
        self.holder, self.store, self.metrics, self.impressions, self.clock = holder, store, metrics, shown, clock
        self._rng, self._drawing = np.random.default_rng(seed), threading.Lock()

    def recommend(self, body: schemas.RecommendRequest) -> schemas.RecommendResponse:
        """Return the best items for a user, a history, a sentence, or (with none) anyone."""
        return self._recommended([self._to_recommend(self.holder.snapshot, body)])[0]

    def recommend_all(self, wanted: list[schemas.RecommendRequest]) -> list[schemas.RecommendResponse | Exception]:
        """Return what `recommend` answers to each of at most `recommender.BLOCK` requests, or its error."""
        model = self.holder.snapshot
        return _in_groups(wanted, lambda body: self._to_recommend(model, body), self._recommended)

    def rank_all(self, wanted: list[schemas.RankRequest]) -> list[schemas.RecommendResponse | Exception]:
        """Return for each request its candidates in order of value, those that the model lacks apart, or its error."""
        model = self.holder.snapshot
        return _in_groups(wanted, lambda body: self._to_rank(model, body), self._ranked)

    def search(self, body: schemas.SearchRequest) -> schemas.RecommendResponse:
        """Return the items that a sentence asks for."""
        return self.recommend(schemas.RecommendRequest(query=body.query, k=body.k, filters=body.filters))

    def similar(self, item_id: str, k: int) -> schemas.SimilarResponse:
        """Return the items nearest to one by their vectors.

        Raises:
            UnknownItemError: the catalogue lacks it.
        """
        model = self.holder.snapshot
        recommender, row = model.lookup.recommender, model.lookup.rows.get(item_id)
        if row is None:
            raise UnknownItemError(f"item {item_id!r} is not in the catalogue; PUT /v1/items adds items")
        items = [
            schemas.SimilarItem(item_id=model.lookup.ids[item], title=model.lookup.titles[item], similarity=cosine)
            for item, cosine in zip(*(found.tolist() for found in recommender.similar(row, k)), strict=True)
        ]
        return schemas.SimilarResponse(item_id=item_id, model=model.name, items=items)

    def add_events(self, body: schemas.EventsRequest) -> schemas.EventsResponse:
        """Keep events; the next request sees them.

        Raises:
            BadTimeError: an event lies in the future.
            StoreError: they could not be kept, none of them.
        """
        now, rows = self.clock(), self.holder.snapshot.lookup.rows
        events = [_stored(event, now) for event in body.events]
        if self.holder.snapshot.lookup.recommender.has_clock:
            late = [event for event in events if event.timestamp > now + AHEAD_US]
            if late:
                raise BadTimeError(
                    f"events: {len(late)} of {len(events)} lie in the future, for example that on "
                    f"{late[0].item_id!r} at {late[0].timestamp}; send ISO times or microseconds since 1970"
                )
        accepted = self.store.add_events(events)
        self.metrics.events.inc(accepted)
        unknown = list(dict.fromkeys(event.item_id for event in events if event.item_id not in rows))
        return schemas.EventsResponse(accepted=accepted, duplicates=len(events) - accepted, unknown_items=unknown)

    def put_items(self, body: schemas.ItemsRequest) -> schemas.ItemsResponse:
        """Add or replace items; they can be recommended when this returns.

        Raises:
            UnfitError: a value that its column cannot hold.
        """
        schema = self.holder.snapshot.lookup.recommender.items.schema
        refuse_unfit([{"item_id": item.item_id, **item.body()} for item in body.items], schema)
        return self._change([(item.item_id, item.body()) for item in body.items])

    def delete_item(self, item_id: str) -> schemas.ItemsResponse:
        """Take an item out of all lists; histories keep it.

        Raises:
            UnknownItemError: the catalogue lacks it, or it was deleted before.
        """
        recommender, row = self.holder.snapshot.lookup.recommender, self.holder.snapshot.lookup.rows.get(item_id)
        if row is None or (recommender.available is not None and not recommender.available[row]):
            raise UnknownItemError(f"item {item_id!r} is not in the catalogue")
        return self._change([(item_id, None)])

    def forget_user(self, user_id: str) -> schemas.ForgetUserResponse:
        """Delete a user's events and lists, and have the model ignore what it knows of the user."""
        return schemas.ForgetUserResponse(user_id=user_id, deleted=self.store.forget_user(user_id))

    def about_model(self) -> schemas.ModelResponse:
        """Say what answers now."""
        model = self.holder.snapshot
        manifest, recommender = model.bundle.manifest, model.lookup.recommender
        count = len(model.lookup.ids) if recommender.available is None else int(recommender.available.sum())
        return schemas.ModelResponse(
            model=model.name,
            dataset=manifest["dataset"],
            fit_on=manifest["fit_on"],
            metrics=manifest["metrics"],
            items=count,
            users=len(model.lookup.users),
            failed=self.holder.failed,
        )

    def _change(self, changes: list[tuple[str, dict[str, object] | None]]) -> schemas.ItemsResponse:
        self.store.change_items(changes)
        self.holder.take_changes()
        return schemas.ItemsResponse(changed=len(changes), items=self.about_model().items)

    def _to_recommend(self, model: Snapshot, body: schemas.RecommendRequest) -> Asked[schemas.RecommendRequest]:
        now = self.clock()
        past = self._past(model, body.user_id, body.history)
        histories, sentences = self._histories(model, past, now, body.query)
        if not (past or body.query):
            self.metrics.cold.inc()
        unknown = model.lookup.unknown(past) if body.history is not None else []
        filters = body.filters.model_dump_json() if body.filters else None
        alone = object() if body.query else None  # sentences of several requests are not put together
        alike = (body.k, filters, body.exclude_seen, body.diversity, body.explain, alone)
        allowed = self._allowed(model, body.filters, filters) if body.filters and filters else None
        return Asked(model, body, now, histories, unknown, alike, sentences=sentences, allowed=allowed)

    def _recommended(self, group: list[Asked[schemas.RecommendRequest]]) -> list[schemas.RecommendResponse]:
        model, body = group[0].model, group[0].body
        proposed: dict[str, Ints] = {}
        recommender = model.lookup.recommender
        share = recommender.config.lists.explore
        ranking = recommender.recommend(
            _joined(group),
            # New items that are explored stand further down, with scores of their own.
            max(body.k, sum(recommender.config.sources.model_dump().values())) if share else body.k,
            group[0].sentences,
            group[0].allowed,
            body.exclude_seen,
            body.diversity,
            body.explain,
            proposed.update,
        )
        for name, items in proposed.items():
            self.metrics.candidates.labels(name).inc(int((items >= 0).sum()))
        answers, new = [], proposed.get("new")
        for row, asked in enumerate(group):
            listed, propensities = ranking.rows(slice(row, row + 1)), None
            if share:
                listed, propensities = self._explored(listed, None if new is None else new[row], body.k, share)
            answers.append(self._answer(asked, listed, propensities))
        return answers

    def _to_rank(self, model: Snapshot, body: schemas.RankRequest) -> Asked[schemas.RankRequest]:
        time = schemas.microseconds(body.context.time) if body.context else None
        now = self.clock() if time is None else time
        past = self._past(model, body.user_id, body.history)
        histories, _ = self._histories(model, past, now, None)
        rows = model.lookup.rows
        known = [rows[item] for item in body.candidates if item in rows]
        unknown = [item for item in body.candidates if item not in rows]
        if body.history is not None:
            unknown = model.lookup.unknown(past) + unknown
        # Rows are padded to the longest, so that each is at most twice as long as it need be.
        alike = (body.explain, len(known).bit_length())
        return Asked(model, body, now, histories, unknown, alike, candidates=known)

    def _ranked(self, group: list[Asked[schemas.RankRequest]]) -> list[schemas.RecommendResponse]:
        widest = max(len(asked.candidates) for asked in group)
        if not widest:
            return [self._answer(asked, None) for asked in group]
        padded = [asked.candidates + [-1] * (widest - len(asked.candidates)) for asked in group]
        recommender = group[0].model.lookup.recommender
        ranking = recommender.rank(_joined(group), np.array(padded, np.int64), group[0].body.explain)
        return [self._answer(asked, ranking.rows(slice(row, row + 1))) for row, asked in enumerate(group)]

    def _past(
        self, model: Snapshot, user_id: str | None, history: Sequence[str | schemas.HistoryEvent] | None
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
        self, model: Snapshot, past: list[PastEvent], now: int, query: str | None
    ) -> tuple[Histories, Sentences | None]:
        lookup = model.lookup
        moment = now if lookup.recommender.has_clock else None
        histories = lookup.histories([(None, past)], moment, typed=query is not None)
        if query is None:
            return histories, None
        return histories, self._cached(
            model, "sentence", query, lambda: read_sentences(lookup.recommender, model.bundle.tokenizer, [query])
        )

    def _allowed(self, model: Snapshot, filters: schemas.Filters, key: str) -> Bools:
        return self._cached(model, "filter", key, lambda: matching(model.lookup.recommender.items, filters))

    def _cached(self, model: Snapshot, kind: str, key: str, make: Callable[[], T]) -> T:
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
        return ranking.places(places), propensities

    def _answer(
        self, asked: Asked[Any], ranking: Ranking | None, propensities: list[float | None] | None = None
    ) -> schemas.RecommendResponse:
        model, user_id = asked.model, asked.body.user_id
        request_id = uuid.uuid4().hex
        items = [] if ranking is None else _items(model, asked.histories, ranking)
        probabilities = propensities or [None] * len(items)
        if propensities:
            for item, chance in zip(items, probabilities, strict=True):
                item.explored = chance is not None
        ids, scores = [item.item_id for item in items], [item.score for item in items]
        self.impressions.add(ImpressionList(request_id, user_id, asked.now, model.name, ids, scores, probabilities))
        return schemas.RecommendResponse(
            request_id=request_id, user_id=user_id, model=model.name, items=items, unknown_items=asked.unknown
        )


def _in_groups(
    wanted: list[Body],
    to_ask: Callable[[Body], Asked[Body]],
    answer: Callable[[list[Asked[Body]]], list[schemas.RecommendResponse]],
) -> list[schemas.RecommendResponse | Exception]:
    """Return the answers to `wanted`, those that are alike made together; an error where there is none."""
    results: dict[int, schemas.RecommendResponse | Exception] = {}
    groups: dict[Hashable, dict[int, Asked[Body]]] = {}
    for place, body in enumerate(wanted):
        try:
            asked = to_ask(body)
            groups.setdefault(asked.alike, {})[place] = asked
        except Exception as error:
            results[place] = error
    for group in groups.values():
        try:
            results |= zip(group, answer(list(group.values())), strict=True)
        except Exception as error:
            results |= dict.fromkeys(group, error)
    return [results[place] for place in range(len(wanted))]


def _joined(group: Sequence[Asked[Any]]) -> Histories:
    """Return the histories of R requests as one `[R, L]`."""
    parts = [asked.histories for asked in group]
    if len(parts) == 1:
        return parts[0]
    columns = zip(*((part.items, part.types, part.times, part.now) for part in parts), strict=True)
    return Histories(*(np.concatenate(column) for column in columns))


def _items(model: Snapshot, histories: Histories, ranking: Ranking) -> list[schemas.RankedItem]:
    lookup = model.lookup
    columns = (ranking.items[0], ranking.score[0], ranking.interest[0], ranking.p_click[0], ranking.p_purchase[0])
    items = [
        schemas.RankedItem(
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


def _reasons(model: Snapshot, histories: Histories, row: int, shares: Floats) -> schemas.Reasons:
    """Name the events that `row` is most like, and the features that moved it most, by their `shares` `[F]`."""
    lookup, recommender = model.lookup, model.lookup.recommender
    past = np.unique(histories.items[0])
    past = past[(past >= 0) & (past < len(lookup.ids))]
    similarities = recommender.vectors[past] @ recommender.vectors[row]
    order = np.argsort(-similarities, kind="stable")[:NEAREST]
    nearest = [
        schemas.SimilarItem(item_id=lookup.ids[item], title=lookup.titles[item], similarity=float(similarity))
        for item, similarity in zip(past[order], similarities[order], strict=True)
    ]
    names = recommender.feature_names
    strongest = [
        schemas.Contribution(feature=names[place], log_odds=float(shares[place]))
        for place in np.argsort(-np.abs(shares), kind="stable")[:STRONGEST]
        if shares[place]
    ]
    return schemas.Reasons(nearest=nearest, features=strongest)


def _stored(event: schemas.Event, now: int) -> StoredEvent:
    time = schemas.microseconds(event.timestamp)
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
