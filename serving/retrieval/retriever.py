"""The retriever: what proposes candidates for requests and describes them to the ranker.

In: histories of R requests. Out: candidates `[R, C]`, and the ranker's input for them. Training uses it alone, before
there is a ranker; `serving.recommender` puts a ranker behind it.

Shapes: R requests, C candidates, L history positions, N catalogue, D width, A width of taste vectors, F dense and G
categorical features.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import polars as pl

from features.facts import fit_facts
from features.histories import EventLog, Histories
from features.ranking import RankingFeatures
from features.recent import RecentEvents
from recsys.arrays import Bools, Floats, Ints, distinct
from recsys.config import Config, SourcesConfig
from recsys.models.interest import InterestModel
from serving.deadline import Deadline
from serving.retrieval.index import VectorIndex
from serving.retrieval.queries import QueryTower
from serving.retrieval.sources import (
    Candidates,
    CandidateSource,
    Catalogue,
    FitContext,
    RequestBatch,
    Scores,
    Sentences,
    TrendingSource,
)
from serving.retrieval.sources.graphs import CovisitationSource
from serving.retrieval.users import UserVectors
from serving.retrieval.windows import Windows

PURCHASE_INTEREST = "purchase"
"""The name under which the ranker gets the interest of the purchase head, in addition to the sources' scores."""

BLOCK = 128
"""Requests that are worked on at once."""


@dataclass(frozen=True)
class OpenBatch:
    """R requests with the scores that each source has for them."""

    requests: RequestBatch
    scores: Mapping[str, Scores]
    """By the name of the source."""


@dataclass(frozen=True)
class Retriever:
    """The vectors, sources, features and user tower of a bundle, for one catalogue."""

    config: Config
    items: pl.DataFrame
    """The catalogue; a row is an item index."""
    model: InterestModel
    vectors: Floats
    """`[N, D]` unit vectors of the items."""
    tastes: Floats
    """`[N, A]` unit taste vectors of the items; `[N, 0]` without a taste model."""
    sources: Mapping[str, CandidateSource]
    """By name, in the order of the ranker's features."""
    features: RankingFeatures
    exclude_seen: bool
    """Whether items of the history are excluded, unless a request says otherwise."""
    available: Bools | None = None
    """`[N]` items that may be in lists in their time (see `windows`); None for all."""
    queries: QueryTower | None = None
    """What the search has learned from queries; None where it has not."""

    def restricted(self, available: Bools) -> "Retriever":
        """Return the same retriever for lists of `available` `[N]` items alone."""
        return replace(self, available=None if available.all() else available)

    def as_of(self, log: EventLog, weights: Floats) -> "Retriever":
        """Return the same models over what the events of `log` tell: facts of the items, counts and candidate sources.

        `weights` are those of events by type code.
        """
        facts = fit_facts(self.items, log, self.config.ranker.attributes)
        known = FitContext(
            self.items,
            self.vectors,
            self.tastes,
            facts.category,
            self.model.taste,
            log=log,
            weights=weights,
            has_clock=self.has_clock,
        )
        sources = {name: type(source).fit(known) for name, source in self.sources.items()}
        return replace(self, sources=sources, features=replace(self.features, facts=facts))

    def with_recent(self, recent: RecentEvents, weights: Floats) -> "Retriever":
        """Return the same retriever as of the fit and of the events since, in place of those that it followed before.

        Counts, popularity, trends and co-visits follow. Where there is no clock, nothing does.
        """
        if not self.has_clock:
            return self
        facts = self.features.facts.with_recent(recent)
        sources = {name: source.with_recent(recent, facts, weights) for name, source in self.sources.items()}
        followed = replace(self, sources=sources, features=replace(self.features, facts=facts))
        vars(followed)["_users"] = self._users  # tower and items are the same, and events come all the time
        return followed

    @cached_property
    def catalogue(self) -> Catalogue:
        """The items, and what the models make of them."""
        return Catalogue(self.items, self.vectors, self.tastes, self.features.facts.category, self.model.taste)

    @property
    def feature_names(self) -> list[str]:
        """The names of the ranker's inputs, dense ones first."""
        return [*self.features.names, *self.features.codes]

    @property
    def since(self) -> Ints | None:
        """`[N]` the time since which each item is known to exist; None where there is no clock."""
        return self.features.facts.since if self.has_clock else None

    @property
    def has_clock(self) -> bool:
        """Whether times are a clock's, so that ages and hours mean something."""
        return self.features.has_clock

    @cached_property
    def price(self) -> Floats:
        """`[N]` in units of the dataset; 0 where unknown."""
        return np.nan_to_num(self.items["price"].cast(pl.Float64).to_numpy(), nan=0.0)

    @cached_property
    def windows(self) -> Windows:
        """When each item may be in lists, by what the catalogue says."""
        return Windows.of(self.items)

    @cached_property
    def listed(self) -> Windows:
        """The same, and not before the item is known to exist."""
        return self.windows if self.since is None else self.windows.since(self.since)

    def offered(self, now: int) -> Bools | None:
        """Return a mask `[N]` of the items that may be in lists at the time `now`; None for all."""
        return _both(self.available, self.windows.open_at(now))

    def open(
        self, histories: Histories, sentences: Sentences | None = None, deadline: Deadline | None = None
    ) -> OpenBatch:
        """Compute the user vectors of `histories` and open every source for them; after the `deadline`, only what is at hand."""
        requests, deadline = self._requests(histories.trimmed(), sentences), deadline or Deadline()
        scores: dict[str, Scores] = {}
        for name, source in self.sources.items():
            if source.at_hand or not deadline.leaves_out(name):
                scores[name] = source.open(requests)
        return OpenBatch(requests, scores)

    def propose(
        self,
        batch: OpenBatch,
        allowed: Bools | None = None,
        sources: SourcesConfig | None = None,
        deadline: Deadline | None = None,
    ) -> dict[str, Ints]:
        """Return what each source proposes of the `allowed` `[N]` items at its quota, `[R, quota]`.

        The quotas are those of `sources`, the configuration's by default. After the `deadline`, only what is at hand proposes.
        """
        quotas, deadline = (sources or self.config.sources).model_dump(), deadline or Deadline()
        proposals = {}
        for name in batch.scores:
            if quotas[name] and (self.sources[name].at_hand or not deadline.leaves_out(name)):
                proposals[name] = self._top(batch, name, quotas[name], allowed)
        return proposals

    def candidates(
        self,
        batch: OpenBatch,
        proposals: Mapping[str, Ints],
        *,
        k: int,
        exclude_seen: bool | None = None,
        allowed: Bools | None = None,
    ) -> Ints:
        """Return the union `[R, C]` of `proposals`, completed to k items where there are as many, -1 padded.

        `exclude_seen` is the retriever's own rule by default.
        """
        histories = batch.requests.histories
        exclude = self.exclude_seen if exclude_seen is None else exclude_seen
        nothing = np.full((len(histories), 1), -1, np.int64)  # where every source is off
        candidates = _usable(np.concatenate([nothing, *proposals.values()], axis=1), histories, exclude)
        short = (candidates >= 0).sum(1) < min(k, len(self.vectors))
        if not short.any():
            return candidates
        counts = k + histories.events * exclude  # [R], since excluding seen items can remove one per event
        if histories.rejected:
            counts = counts + histories.rejected.items.counts
        count = min(int(counts.max(initial=0)), len(self.vectors))
        filled = short[:, None] & (np.arange(count) < counts[:, None])  # whoever else is in the batch
        fills = [
            np.where(filled, self._top(batch, name, count, allowed), -1)
            for name, source in self.sources.items()
            if source.fills_short_lists
        ]
        return _usable(np.concatenate([candidates, *fills], axis=1), histories, exclude) if fills else candidates

    def _top(self, batch: OpenBatch, name: str, k: int, allowed: Bools | None) -> Ints:
        """Return the best `allowed` `[N]` items `[R, k]` of a source that might be listed when each request was made."""
        k, now = min(k, len(self.vectors)), batch.requests.histories.now
        listed, varying = self.listed.open_between(int(now.min()), int(now.max())) if len(now) else (None, 0)
        found = batch.scores[name].top(
            min(k + varying, len(self.vectors)), _both(_both(self.available, allowed), listed)
        )
        if not varying:
            return found
        still = self.listed.has_open(found, now)
        order = np.argsort(~still, axis=1, kind="stable")[:, :k]
        return np.where(np.take_along_axis(still, order, 1), np.take_along_axis(found, order, 1), -1)

    def describe(self, batch: OpenBatch, candidates: Candidates) -> tuple[Floats, Ints]:
        """Return the ranker's input: dense `[R, C, F]` and categorical `[R, C, G]`."""
        scores = {name: view.of(candidates) for name, view in batch.scores.items() if self.sources[name].describes}
        scores[PURCHASE_INTEREST] = candidates.interest[:, :, 1]
        histories = batch.requests.histories
        inputs = self.features.inputs(
            histories,
            candidates.items,
            scores,
            similarity=candidates.similarity,
            taste_similarity=candidates.taste_similarity,
            same_category=candidates.same_category,
        )
        return self.features.dense(inputs), self.features.categorical(inputs)

    def similar(self, item: int, k: int, now: int) -> tuple[Ints, Floats]:
        """Return the k items nearest to `item` by their vectors that are offered at the time `now`, and their cosines."""
        offered = self.offered(now)
        allowed = np.ones(len(self.vectors), bool) if offered is None else offered.copy()
        allowed[item] = False
        nearest = self._index.search(self.vectors[item][None], min(k, len(allowed)), allowed)[0]
        nearest = nearest[nearest >= 0]
        return nearest, self.vectors[nearest] @ self.vectors[item]

    def trending(self, k: int, allowed: Bools | None, now: int) -> tuple[Ints, Floats]:
        """Return the k items offered at the time `now` with the strongest trend, and how strong it is; fewer where there are fewer."""
        source = self.sources.get(TrendingSource.name)
        if not isinstance(source, TrendingSource):  # as in bundles of releases before 2026-11-29
            return np.empty(0, np.int64), np.empty(0, np.float32)
        allowed = _both(self.offered(now), allowed)
        items = source.order if allowed is None else source.order[allowed[source.order]]
        return items[:k], source.scores[items[:k]]

    def together(self, item: int, k: int, now: int) -> tuple[Ints, Floats]:
        """Return the k items offered at the time `now` that users most often met close to `item`, and how strongly it leads there."""
        source = self.sources.get(CovisitationSource.name)
        if not isinstance(source, CovisitationSource):
            return np.empty(0, np.int64), np.empty(0, np.float32)
        companions, offered = source.companions(item), self.offered(now)
        items, links = companions.indices, companions.data
        kept = (items != item) if offered is None else (items != item) & offered[items]
        items, links = items[kept], links[kept]
        order = np.lexsort((items, -links))[:k]
        return items[order], links[order]

    def matching(self, sentences: Sentences, k: int, allowed: Bools | None, now: int) -> Ints:
        """Return the k items offered at the time `now` that match one sentence best, by its words and by its vector."""
        allowed, learned = _both(self.offered(now), allowed), self.queries
        vectors = learned.vectors(sentences.vectors) if learned else sentences.vectors
        near = self._index.search(vectors, min(k, len(self.vectors)), allowed)[0]
        items = distinct(np.concatenate([near, *(matches.indices for matches in sentences.matches.values())])[None])[0]
        items = items[(items >= 0) & (True if allowed is None else allowed[items])]
        relevance = self.vectors[items] @ vectors[0]
        for matches in sentences.matches.values():
            relevance += matches[0, items].toarray()[0] * (learned.words if learned else 1)
        return items[np.argsort(-relevance, kind="stable")[:k]]

    @cached_property
    def _index(self) -> VectorIndex:
        """A source's index over the whole catalogue if there is one, otherwise a new one."""
        indexes = (source.catalogue_index for source in self.sources.values())
        shared = next((index for index in indexes if index is not None), None)
        return shared or VectorIndex.build(self.vectors, np.arange(len(self.vectors)))

    @cached_property
    def _users(self) -> UserVectors:
        """The user tower, switched to inference once and not for every request."""
        return UserVectors(self.model.eval().user_tower, self.has_clock)

    def _requests(self, histories: Histories, sentences: Sentences | None) -> RequestBatch:
        count = len(self.vectors)
        sentences = sentences or Sentences.none(len(histories), self.vectors.shape[1], self.tastes.shape[1])
        typed = histories.items == count
        rows = np.where(typed, 0, histories.items)
        past, past_tastes = self.vectors[rows], self.tastes[rows]  # [R, L, D], [R, L, A]
        past[typed] = sentences.vectors[np.nonzero(typed)[0]]
        past_tastes[typed] = sentences.tastes[np.nonzero(typed)[0]]
        users = self._users.of(histories, past, lasting=~typed.any(1))
        return RequestBatch(histories, users, past, past_tastes, sentences, self.catalogue)


def _both(one: Bools | None, other: Bools | None) -> Bools | None:
    return one if other is None else other if one is None else one & other


def _usable(proposed: Ints, histories: Histories, exclude_seen: bool) -> Ints:
    """Return the distinct items of `proposed` `[R, P]` that may be in a list after R histories."""
    candidates = distinct(proposed)
    excluded = histories.unwanted(candidates)
    if exclude_seen:
        excluded |= histories.seen(candidates)
    return distinct(np.where(excluded, -1, candidates)) if excluded.any() else candidates
