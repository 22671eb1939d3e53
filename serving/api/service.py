"""The logic of the API, without HTTP: lists from the served snapshot and the store, and changes to both.

In: the requests of `serving.api.schemas`. Out: its responses. Every call reads the snapshot once and keeps it.
"""

import threading
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TypeVar

import numpy as np

from recsys.arrays import Ints
from serving.api import schemas
from serving.api.answers import listed_items
from serving.api.changes import Changes
from serving.api.experiments import Experiments
from serving.api.known import Known
from serving.api.live import ModelHolder, Snapshot
from serving.api.metrics import Metrics
from serving.api.pending import Pending, RankKey, answer_in_groups, deadline_of, join_histories, join_sentences
from serving.api.refusals import UnknownItemError, UnknownListError
from serving.api.repeat import Repeated
from serving.api.rows import TITLES, occasions, without_repeats
from serving.api.scenarios import Scenarios, offer_of
from serving.audience import SHORTLIST, audience, nearest_users
from serving.deadline import Deadline
from serving.experiments.assignment import team_draft
from serving.filters import matching, why_none
from serving.loading import read_sentences
from serving.lookup import PastEvent, rejections_of
from serving.recommender import ItemFilter, Ranking, RecommendOptions
from serving.rerank import ListRules, explore
from serving.retrieval.sources import Sentences
from serving.scenarios import kept
from serving.scenarios.applied import options_of, quotas_of, rules_of
from serving.scenarios.definition import Scenario
from serving.scenarios.kept import ActiveScenario, active_scenario
from serving.store.impressions import ImpressionLog
from serving.store.store import ImpressionList, Store
from serving.text.heads import HeadNames, TextHeads

T = TypeVar("T")

HEADS_EVERY_S = 10.0
"""Seconds between two looks at the aliases of text heads."""
MOST_PAGES = 100
"""Pages before a page whose items are left out."""


def wall_clock() -> int:
    """Return the microseconds since the epoch."""
    return int(datetime.now(UTC).timestamp() * 1e6)


class Service:
    """Answers from one served snapshot and one store."""

    def __init__(
        self,
        holder: ModelHolder,
        store: Store,
        metrics: Metrics,
        impressions: ImpressionLog | None,
        clock: Callable[[], int] = wall_clock,
        seed: int | None = None,
        experiments: Experiments | None = None,
        timeout_ms: int | None = None,
        heads: TextHeads | None = None,
    ) -> None:
        """`clock` gives the time of each request in microseconds; `seed` makes exploration repeatable.

        `timeout_ms` is when an answer is to be ready unless its request says otherwise; None for any time.

        Without `impressions` no list is kept, and nothing is explored, since nobody would learn from it. Without
        `experiments` all users get the lists of one model. `heads` read attributes of items and opinions of events.
        """
        self.holder, self.store, self.metrics, self.impressions, self.clock = holder, store, metrics, impressions, clock
        self.experiments, self.timeout_ms = experiments, timeout_ms
        self.heads, self._repeated = heads or TextHeads(), list[Repeated]()
        self.changes = Changes(holder, store, metrics, clock, self.heads)
        self.known, self.scenarios = Known(store, clock), Scenarios(holder, store)
        self._rng, self._drawing = np.random.default_rng(seed), threading.Lock()

    def watch(self) -> None:
        """Follow which experiment runs and which text heads serve, until `close` is called."""
        if self.experiments:
            self.experiments.watch()
        if self.heads.names != HeadNames():
            self._repeated.append(Repeated(self.heads.follow, HEADS_EVERY_S))

    def close(self) -> None:
        """Stop following, and write the lists that wait."""
        if self.experiments:
            self.experiments.stop()
        for repeated in self._repeated:
            repeated.stop()
        if self.impressions:
            self.impressions.close()

    def recommend(self, request: schemas.RecommendRequest) -> schemas.RecommendResponse:
        """Return the best items for a user, a history, a sentence, or (with none) anyone."""
        return self._recommend_group([self._pending_list(self.holder.snapshot, request)])[0]

    def recommend_all(
        self, requests: Sequence[schemas.RecommendRequest]
    ) -> list[schemas.RecommendResponse | Exception]:
        """Return what `recommend` answers to each of at most `retriever.BLOCK` requests, or its error."""
        return answer_in_groups(requests, self._assigned_list, self._recommend_group)

    def rank_all(self, requests: Sequence[schemas.RankRequest]) -> list[schemas.RecommendResponse | Exception]:
        """Return each request's candidates sorted by value and, separately, those unknown or deleted; or its error."""
        return answer_in_groups(requests, self._assigned_rank, self._rank_group)

    def search(self, request: schemas.SearchRequest) -> schemas.RecommendResponse:
        """Return the items that match a sentence: those of exactly this title first, then the best matches."""
        typed = schemas.RecommendRequest(query=request.query, k=request.k, filters=request.filters)
        pending = replace(self._pending_list(self.holder.snapshot, typed), query=request.query)
        lookup, filters, sentences = pending.snapshot.lookup, pending.batch_key.filter, pending.sentences
        assert sentences is not None  # the query's
        found = lookup.found(request.query, sentences, request.k, filters.allowed if filters else None, pending.now)
        if not len(found):
            return self._respond(pending, None)
        ranking = lookup.recommender.rank(pending.histories, found[None], sentences=sentences)
        return self._respond(pending, ranking.in_order_of(found))

    def similar(self, item_id: str, k: int) -> schemas.SimilarResponse:
        """Return the items nearest to one by their vectors.

        Raises:
            UnknownItemError: the catalogue lacks it.
        """
        snapshot = self.holder.snapshot
        lookup, row = snapshot.lookup, self._row(snapshot, item_id)
        neighbours, cosines = lookup.retriever.similar(row, k, lookup.moment(self.clock()))
        items = [
            schemas.SimilarItem(item_id=lookup.ids[item], title=lookup.titles[item], similarity=cosine)
            for item, cosine in zip(neighbours.tolist(), cosines.tolist(), strict=True)
        ]
        return schemas.SimilarResponse(item_id=item_id, model=snapshot.name, items=items)

    def trending(self, k: int, category: str | None) -> schemas.TrendingResponse:
        """Return the items, of a category or of all, with more events lately than their past makes expect."""
        snapshot = self.holder.snapshot
        lookup = snapshot.lookup
        chosen = self._filter(snapshot, schemas.Filters(category=category)) if category is not None else None
        items, surprises = lookup.retriever.trending(k, chosen.allowed if chosen else None, lookup.moment(self.clock()))
        pairs = zip(items.tolist(), surprises.tolist(), strict=True)
        listed = [
            schemas.TrendingItem(item_id=lookup.ids[item], title=lookup.titles[item], surprise=surprise)
            for item, surprise in pairs
        ]
        return schemas.TrendingResponse(model=snapshot.name, items=listed)

    def together(self, item_id: str, k: int) -> schemas.TogetherResponse:
        """Return the items that users most often meet together with one.

        Raises:
            UnknownItemError: the catalogue lacks it.
        """
        snapshot = self.holder.snapshot
        lookup, row = snapshot.lookup, self._row(snapshot, item_id)
        companions, strengths = lookup.retriever.together(row, k, lookup.moment(self.clock()))
        items = [
            schemas.CompanionItem(item_id=lookup.ids[item], title=lookup.titles[item], strength=strength)
            for item, strength in zip(companions.tolist(), strengths.tolist(), strict=True)
        ]
        return schemas.TogetherResponse(item_id=item_id, model=snapshot.name, items=items)

    def audience(self, item_id: str, request: schemas.AudienceRequest) -> schemas.AudienceResponse:
        """Return the users of the bundle who care most for an item, of those whose histories are nearest to it.

        Raises:
            UnknownItemError: the catalogue lacks it.
        """
        snapshot = self.holder.snapshot
        lookup, row = snapshot.lookup, self._row(snapshot, item_id)
        forgotten = self.store.forgotten_users()
        nearest = nearest_users(lookup, row, SHORTLIST + len(forgotten))
        users = [user for user in nearest if user not in forgotten][:SHORTLIST]
        now = self.clock() if lookup.retriever.has_clock else None
        blocks = [(users, lookup.histories([(user, None) for user in users], now))] if users else []
        table = audience(lookup.recommender, iter(blocks), [row], request.k, request.by)
        names = list(schemas.InterestedUser.model_fields)
        found = [schemas.InterestedUser(**user) for user in table.select(names).iter_rows(named=True)]
        return schemas.AudienceResponse(item_id=item_id, model=snapshot.name, users=found)

    def rows(self, request: schemas.RowsRequest) -> schemas.RowsResponse:
        """Return a list for each of the last items that the user did something with, as if that were all that is known.

        No item is in two of them, nor are those that they are for in any.
        """
        snapshot = self.holder.snapshot
        lookup, past = snapshot.lookup, self.known.past(snapshot, request.user_id, request.history)
        events = occasions(past, lookup.rows, request.rows)
        chosen = self._filter(snapshot, request.filters) if request.filters else None
        options = RecommendOptions(
            k=request.k * len(events),
            filter=without(chosen, [lookup.rows[event.item_id] for event in events], len(lookup.ids)),
            exclude_seen=request.exclude_seen,
        )
        pending = self._pending_rows(snapshot, request, past, events, options)
        lists = self._without_repeats(pending) if pending else []
        rows = [
            schemas.Row(
                request_id=one.request_id,
                title=TITLES[event.event_type].format(lookup.titles[lookup.rows[event.item_id]]),
                item_id=event.item_id,
                event_type=event.event_type,
                items=one.items,
            )
            for event, one in zip(events, lists, strict=True)
            if one.items
        ]
        unknown = lookup.unknown(past) if request.history is not None else []
        notes = list(chosen.notes) if chosen else []
        return schemas.RowsResponse(
            user_id=request.user_id,
            model=snapshot.name,
            rows=rows,
            unknown_items=unknown,
            notes=notes,
            degraded=lists[0].degraded if lists else [],
        )

    def _pending_rows(
        self,
        snapshot: Snapshot,
        request: schemas.RowsRequest,
        past: Sequence[PastEvent],
        events: Sequence[PastEvent],
        options: RecommendOptions,
    ) -> list[Pending[RecommendOptions]]:
        """Return a list to be made for each of the `events`, of which alone it knows; the rule on seen items knows all of `past`."""
        now, lookup, met = (
            self.known.moment(snapshot, request.context),
            snapshot.lookup,
            self.known.met(snapshot, request, past),
        )
        moment = now if lookup.retriever.has_clock else None
        return [
            Pending(
                snapshot=snapshot,
                user_id=request.user_id,
                now=now,
                deadline=request.deadline(self.timeout_ms),
                k=request.k,
                histories=lookup.histories(
                    [(None, [*rejections_of(past), event])],
                    moment,
                    earlier=met,
                    context=self.known.context(snapshot, request),
                ),
                unknown=[],
                batch_key=options,
            )
            for event in events
        ]

    def _without_repeats(self, pending: Sequence[Pending[RecommendOptions]]) -> list[schemas.RecommendResponse]:
        """Return the lists of one user in their order, no item in two of them."""
        recommender = pending[0].snapshot.lookup.recommender
        deadline = deadline_of(pending)
        ranking = recommender.recommend(join_histories(pending), pending[0].batch_key, None, deadline)
        kept = without_repeats(ranking, pending[0].k)
        return [
            self._respond(one, ranking.rows(slice(row, row + 1)).positions(kept[row]), deadline=deadline)
            for row, one in enumerate(pending)
        ]

    def about_model(self) -> schemas.ModelResponse:
        """Return what the served snapshot is."""
        snapshot = self.holder.snapshot
        manifest = snapshot.bundle.manifest
        return schemas.ModelResponse(
            model=snapshot.name,
            dataset=manifest["dataset"],
            fit_on=manifest["fit_on"],
            metrics=manifest["metrics"],
            items=snapshot.offered(self.clock()),
            users=len(snapshot.lookup.users),
            failed=self.holder.failed,
        )

    def _row(self, snapshot: Snapshot, item_id: str) -> int:
        row = snapshot.lookup.offered(item_id)
        if row is None:
            raise UnknownItemError(f"item {item_id!r} is not in the catalogue; PUT /v1/items adds items")
        return row

    def preview_scenario(self, name: str, body: schemas.PreviewRequest) -> schemas.RecommendResponse:
        """Return the list that a draft, or a version that need not be on, makes of a request.

        Raises:
            UnknownScenarioError: there is no such version, and no draft was sent.
        """
        if body.definition is not None:
            kind = ActiveScenario(name, None, body.definition)
        else:
            kind = kept.stored(self.store, name, body.version)
        return self._recommend_group([self._pending_list(self.holder.snapshot, body.request, kind)])[0]

    def _assigned_list(self, request: schemas.RecommendRequest) -> Pending[RecommendOptions]:
        """Return the request to the model that serves, or to that of the user's arm."""
        assignment = self.experiments.assign(request.user_id) if self.experiments else None
        if assignment is None:
            return self._pending_list(self.holder.snapshot, request)
        pendings = [
            self._pending_list(part.holder.snapshot, self._by_scenario(request, part.scenario))
            for part in assignment.parts.values()
        ]
        return replace(pendings[0], assignment=assignment, rival=pendings[1] if pendings[1:] else None)

    def _by_scenario(self, request: schemas.RecommendRequest, scenario: str | None) -> schemas.RecommendRequest:
        """Return the request by the scenario of an arm, or as it is where that is none, or was switched off meanwhile."""
        return request.model_copy(update={"scenario": scenario}) if scenario in self.holder.scenarios else request

    def _assigned_rank(self, request: schemas.RankRequest) -> Pending[RankKey]:
        """Return the same of candidates, which have no order to interleave."""
        assignment = self.experiments.assign(request.user_id) if self.experiments else None
        if assignment is None or assignment.arm is None:
            return self._pending_rank(self.holder.snapshot, request)
        pending = self._pending_rank(assignment.parts[assignment.arm].holder.snapshot, request)
        return replace(pending, assignment=assignment)

    def _pending_list(
        self, snapshot: Snapshot, request: schemas.RecommendRequest, kind: ActiveScenario | None = None
    ) -> Pending[RecommendOptions]:
        """Return the list to be made, by the scenario `kind` or the one that the request names."""
        now, lookup = self.known.moment(snapshot, request.context), snapshot.lookup
        past = self.known.past(snapshot, request.user_id, request.history)
        earlier, unknown = (
            self.known.earlier(snapshot, request),
            lookup.unknown(past) if request.history is not None else [],
        )
        if request.like:
            earlier = self.known.met(snapshot, request, past)
            examples = [PastEvent(item, "like") for item in request.like]
            unknown, past = lookup.unknown(examples), [*rejections_of(past), *examples]
        if not (past or request.query):
            self.metrics.cold.inc()
        config = lookup.retriever.config
        if kind is None and request.scenario is not None:
            kind = active_scenario(self.holder.scenarios, request.scenario)
        scenario = _overridden(kind.scenario if kind else Scenario(), request)
        chosen = self._chosen(snapshot, request, scenario)
        rules, notes = self._rules(snapshot, scenario, chosen) if kind else (None, [])
        share = config.lists.explore if scenario.explore is None else scenario.explore
        share = share if self.impressions else 0.0
        # Explored items are ranked lower than the list; they are scored too.
        further = sum(quotas_of(scenario, config).model_dump().values()) if share else 0
        options = options_of(scenario, config, max(request.k, further), chosen, rules)
        unlike = tuple(lookup.rows[item] for item in request.unlike if item in lookup.rows)
        return Pending(
            snapshot=snapshot,
            user_id=request.user_id,
            now=now,
            deadline=request.deadline(self.timeout_ms),
            k=request.k,
            histories=lookup.histories(
                [(None, past)],
                now if lookup.retriever.has_clock else None,
                typed=request.query is not None,
                earlier=earlier,
                context=self.known.context(snapshot, request),
            ),
            unknown=[*unknown, *lookup.unknown(request.unlike)],
            after=request.after,
            batch_key=replace(options, explain=request.explain, unlike=unlike),
            sentences=self._sentence(snapshot, request.query) if request.query is not None else None,
            scenario=kind,
            explore=share,
            notes=[*(chosen.notes if chosen else ()), *notes],
        )

    def _chosen(self, snapshot: Snapshot, request: schemas.RecommendRequest, scenario: Scenario) -> ItemFilter | None:
        """Return the items that may be in the list: those of the filters, without examples and the pages before."""
        rows = snapshot.lookup.rows
        chosen = self._filter(snapshot, scenario.filters) if scenario.filters else None
        examples = [rows[item] for item in [*(request.like or ()), *request.unlike] if item in rows]
        before = self._listed_before(snapshot, request.after) if request.after is not None else []
        return without(chosen, [*examples, *before], len(rows))

    def _recommend_group(self, group: Sequence[Pending[RecommendOptions]]) -> list[schemas.RecommendResponse]:
        lookup, deadline = group[0].snapshot.lookup, deadline_of(group)
        ranking = lookup.recommender.recommend(
            join_histories(group), group[0].batch_key, join_sentences(group), deadline
        )
        for name, items in ranking.proposals.items():
            self.metrics.candidates.labels(name).inc(int((items >= 0).sum()))
        responses = []
        for row, request in enumerate(group):
            listed, propensities, pool = ranking.rows(slice(row, row + 1)), None, None
            if request.rival:
                responses.append(self._interleaved(request, listed, deadline))
                continue
            if request.explore:
                listed, propensities, pool = self._explored(request, listed)
            responses.append(self._respond(request, listed, propensities, pool, deadline=deadline))
        return responses

    def _pending_rank(self, snapshot: Snapshot, request: schemas.RankRequest) -> Pending[RankKey]:
        now = self.known.moment(snapshot, request.context)
        past = self.known.past(snapshot, request.user_id, request.history)
        lookup = snapshot.lookup
        offered = lookup.offered_at(request.candidates, lookup.moment(now))
        histories = lookup.histories(
            [(None, past)],
            now if lookup.retriever.has_clock else None,
            context=self.known.context(snapshot, request),
        )
        rows = np.array([*offered.values()], np.int64)
        rejected = histories.unwanted(rows[None])[0]
        known = rows[~rejected].tolist()
        unknown = [item for item in request.candidates if item not in offered]
        if request.history is not None:
            unknown = lookup.unknown(past) + unknown
        return Pending(
            snapshot=snapshot,
            user_id=request.user_id,
            now=now,
            deadline=request.deadline(self.timeout_ms),
            k=len(known),
            histories=histories,
            unknown=unknown,
            batch_key=RankKey(explain=request.explain, size=len(known).bit_length()),
            candidates=known,
            notes=[f"left out: {rejected.sum():,} candidates that the user rejected"] if rejected.any() else [],
        )

    def _rank_group(self, group: Sequence[Pending[RankKey]]) -> list[schemas.RecommendResponse]:
        widest = max(len(request.candidates) for request in group)
        if not widest:
            return [self._respond(request, None) for request in group]
        padded = [request.candidates + [-1] * (widest - len(request.candidates)) for request in group]
        recommender = group[0].snapshot.lookup.recommender
        deadline = deadline_of(group)
        ranking = recommender.rank(
            join_histories(group), np.array(padded, np.int64), explain=group[0].batch_key.explain, deadline=deadline
        )
        return [
            self._respond(request, ranking.rows(slice(row, row + 1)), deadline=deadline)
            for row, request in enumerate(group)
        ]

    def _listed_before(self, snapshot: Snapshot, request_id: str) -> list[int]:
        """Return the items of a list and of those of which it is the next page, at most `MOST_PAGES` of them.

        Raises:
            UnknownListError: the list is not kept.
        """
        items: list[str] = []
        page = self._kept_list(request_id)
        if page is None:
            raise UnknownListError(
                f"after: no list {request_id!r} is kept; send the request_id of an answer of /v1/recommend, or leave after out"
            )
        for _ in range(MOST_PAGES):
            items += page.items
            page = self._kept_list(page.after) if page.after is not None else None
            if page is None:
                break
        return [snapshot.lookup.rows[item] for item in items if item in snapshot.lookup.rows]

    def _kept_list(self, request_id: str) -> ImpressionList | None:
        return self.impressions.list_of(request_id) if self.impressions else None

    def _sentence(self, snapshot: Snapshot, query: str) -> Sentences:
        retriever, tokenizer = snapshot.lookup.retriever, snapshot.bundle.tokenizer
        return self._remembered(snapshot, "sentence", query, lambda: read_sentences(retriever, tokenizer, [query]))

    def _filter(self, snapshot: Snapshot, filters: schemas.Filters) -> ItemFilter:
        name, items = filters.model_dump_json(), snapshot.lookup.retriever.items
        conditions, where = filters.conditions(), "filters.attributes."

        def make() -> ItemFilter:
            allowed = matching(items, conditions, where)
            return ItemFilter(name, allowed, () if allowed.any() else tuple(why_none(items, conditions, where)))

        return self._remembered(snapshot, "filter", name, make)

    def _rules(
        self, snapshot: Snapshot, scenario: Scenario, chosen: ItemFilter | None
    ) -> tuple[ListRules | None, list[str]]:
        allowed = chosen.allowed if chosen else None
        key = f"{scenario.model_dump_json()} {chosen.name if chosen else ''}"
        return self._remembered(snapshot, "scenario", key, lambda: rules_of(scenario, offer_of(snapshot), allowed))

    def _remembered(self, snapshot: Snapshot, kind: str, key: str, make: Callable[[], T]) -> T:
        """Return the value cached for `key` and this snapshot, computing it on a miss."""
        with snapshot.caching:
            known: T | None = snapshot.cache.get((kind, key))
        self.metrics.cache.labels(kind, "miss" if known is None else "hit").inc()
        if known is None:
            known = make()
            with snapshot.caching:
                snapshot.cache[kind, key] = known
        return known

    def _explored(
        self, request: Pending[RecommendOptions], ranking: Ranking
    ) -> tuple[Ranking, list[float | None], list[str] | None]:
        """Return the first k positions, some of them given to lower-ranked items of sources that are explored.

        Pins and promoted items keep theirs. With them come the propensities of `explore` and, if any position was given away, the ids of these items.
        """
        sources, items = request.snapshot.lookup.retriever.sources, ranking.items[0]
        new = [proposed.ravel() for name, proposed in ranking.proposals.items() if sources[name].explored]
        ranked = np.flatnonzero(items >= 0)
        further = ranked[request.k :]
        pool: Ints = further[np.isin(items[further], np.concatenate(new))] if new else further[:0]
        positions, rules = ranked[: request.k].copy(), request.batch_key.rules
        free = ~rules.placed(items[positions]) if rules else np.ones(len(positions), bool)
        propensities: list[float | None] = [None] * len(positions)
        with self._drawing:
            positions[free], drawn = explore(positions[free], pool, request.explore, self._rng)
        for position, propensity in zip(np.flatnonzero(free).tolist(), drawn, strict=True):
            propensities[position] = propensity
        explored = sum(propensity is not None for propensity in propensities)
        self.metrics.explored.inc(explored)
        ids = request.snapshot.lookup.ids
        return ranking.positions(positions), propensities, [ids[item] for item in items[pool]] if explored else None

    def _interleaved(
        self, request: Pending[RecommendOptions], ranking: Ranking, deadline: Deadline
    ) -> schemas.RecommendResponse:
        """Return the response whose items are drawn in turn from `ranking` and from the list of the other arm."""
        rival, assignment = request.rival, request.assignment
        assert rival is not None and assignment is not None
        theirs = rival.snapshot.lookup.recommender.recommend(
            rival.histories, rival.batch_key, rival.sentences, deadline
        )
        pairs = ((request, ranking), (rival, theirs))
        lists = [listed_items(one.snapshot.lookup, one.histories, listed)[: request.k] for one, listed in pairs]
        ids = [[item.item_id for item in items] for items in lists]
        with self._drawing:
            drafted = team_draft(ids[0], ids[1], request.k, self._rng)
        items_of = [{item.item_id: item for item in items} for items in lists]
        arms = list(assignment.parts)
        items = [items_of[team][item] for item, team in drafted]
        teams = [arms[team] for _, team in drafted]
        return self._answer(request, items, [None] * len(items), teams=teams, deadline=deadline)

    def _respond(
        self,
        request: Pending[RecommendOptions] | Pending[RankKey],
        ranking: Ranking | None,
        propensities: list[float | None] | None = None,
        pool: list[str] | None = None,
        *,
        deadline: Deadline | None = None,
    ) -> schemas.RecommendResponse:
        """Return the response of a ranking, with the propensities of explored positions."""
        items = [] if ranking is None else listed_items(request.snapshot.lookup, request.histories, ranking)
        propensities = propensities or [None] * len(items)
        for item, propensity in zip(items, propensities, strict=True):
            item.explored = propensity is not None
        return self._answer(request, items, propensities, pool, deadline=deadline)

    def _answer(
        self,
        request: Pending[RecommendOptions] | Pending[RankKey],
        items: list[schemas.RankedItem],
        propensities: list[float | None],
        pool: list[str] | None = None,
        teams: list[str] | None = None,
        deadline: Deadline | None = None,
    ) -> schemas.RecommendResponse:
        """Return the response, and log its list as impressions where they are kept."""
        request_id, assignment = uuid.uuid4().hex, request.assignment
        degraded = deadline.left_out if deadline else []
        for step in degraded:
            self.metrics.degraded.labels(step).inc()
        if self.impressions:
            self.impressions.add(
                ImpressionList(
                    request_id=request_id,
                    user_id=request.user_id,
                    timestamp=request.now,
                    model=request.snapshot.name,
                    items=[item.item_id for item in items],
                    scores=[item.score for item in items],
                    propensities=propensities,
                    pool=pool,
                    scenario=request.scenario.name if request.scenario else None,
                    scenario_version=request.scenario.version if request.scenario else None,
                    after=request.after,
                    experiment=assignment.experiment if assignment else None,
                    arm=assignment.arm if assignment else None,
                    teams=teams,
                    query=request.query,
                )
            )
        return schemas.RecommendResponse(
            request_id=request_id,
            user_id=request.user_id,
            model=request.snapshot.name,
            experiment=assignment.experiment if assignment else None,
            arm=assignment.arm if assignment else None,
            items=items,
            unknown_items=request.unknown,
            notes=request.notes,
            degraded=degraded,
        )


def without(chosen: ItemFilter | None, rows: Sequence[int], count: int) -> ItemFilter | None:
    """Return the filter `chosen`, which also leaves out the `rows` of a catalogue of `count` items."""
    if not rows:
        return chosen
    allowed = np.ones(count, bool) if chosen is None else chosen.allowed.copy()
    allowed[list(rows)] = False
    name = f"{chosen.name if chosen else ''} without {' '.join(map(str, sorted(set(rows))))}"
    return ItemFilter(name, allowed, chosen.notes if chosen else ())


def preview(holder: ModelHolder, store: Store, clock: Callable[[], int] = wall_clock) -> Service:
    """Return a service for people who look at lists: it keeps none of them, explores nothing, and counts in no metric."""
    return Service(holder, store, Metrics(lambda: holder.snapshot.name), None, clock)


def _overridden(scenario: Scenario, request: schemas.RecommendRequest) -> Scenario:
    """Return the scenario with what the request says itself in its place."""
    own = {name: getattr(request, name) for name in ("filters", "exclude_seen", "diversity", "value")}
    return scenario.model_copy(update={name: said for name, said in own.items() if said is not None})
