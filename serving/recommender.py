"""Retrieve, rank and re-rank: the single code path behind every list.

In: histories of R requests. Out: `Ranking`, lists `[R, K]` with scores and probabilities.
Evaluation, batch lists, the API and the registered model all call `Recommender`.

Shapes: R requests, C candidates, K list length, N catalogue, F ranking features.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np

from features.histories import Histories
from features.item_lists import ItemLists
from recsys.arrays import Bools, Floats, Ints, distinct
from recsys.config import SourcesConfig, ValueConfig
from recsys.models.rankers import Ranker, value
from serving.deadline import Deadline
from serving.rerank import ListRules, Reranker, by_value
from serving.retrieval.retriever import BLOCK, OpenBatch, Retriever
from serving.retrieval.sources import Sentences

FELT = 20
"""Disliked items of a user, the latest ones, that similar candidates lose score for."""


@dataclass(frozen=True)
class ItemFilter:
    """The items that pass a request's filters."""

    name: str
    """The filters as text; filters with equal names allow the same items of a catalogue."""
    allowed: Bools = field(compare=False)
    """`[N]`"""
    notes: tuple[str, ...] = field(default=(), compare=False)
    """What a user should know of them."""


@dataclass(frozen=True)
class RecommendOptions:
    """What kind of list is requested; requests with equal options can be answered in one batch."""

    k: int
    filter: ItemFilter | None = None
    exclude_seen: bool | None = None
    """Whether items of the history are left out; the model's own rule by default."""
    diversity: float | None = None
    """Weight of dissimilarity to the positions above; the model's own by default."""
    value: ValueConfig | None = None
    """What clicks and purchases are worth; the model's own by default."""
    explain: bool = False
    """Whether to compute what each feature contributed."""
    unlike: tuple[int, ...] = ()
    """Items that those of the list should not be like."""
    sources: SourcesConfig | None = None
    """How many items each source proposes; the model's own by default."""
    rules: ListRules | None = None
    """Boosts, pins, promotions and caps of a scenario."""


@dataclass(frozen=True)
class Ranking:
    """Lists of R requests, best first; -1 pads `items`."""

    items: Ints
    """`[R, K]`"""
    score: Floats
    """`[R, K]` value of the item as a candidate, boosts included: what the list is sorted by."""
    interest: Floats
    """`[R, K]` cosine of user and item."""
    p_click: Floats
    """`[R, K]` of an item that is shown, where the data have impressions; NaN where there was no time for the ranker."""
    p_purchase: Floats
    """`[R, K]` the same of a purchase."""
    contributions: Floats | None = None
    """`[R, K, F]` what each of `Retriever.feature_names` adds to the log odds of a click, when requested."""
    proposals: Mapping[str, Ints] = field(default_factory=dict)
    """`[R, quota]` what each source proposed, by its name."""

    @classmethod
    def join(cls, parts: Sequence["Ranking"]) -> "Ranking":
        """Put the rankings of several blocks together."""
        columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in parts[0]._columns}
        proposals = {name: np.concatenate([part.proposals[name] for part in parts]) for name in parts[0].proposals}
        return cls(**columns, proposals=proposals)

    def rows(self, rows: Ints | slice) -> "Ranking":
        """Return the lists of some requests."""
        columns = {name: getattr(self, name)[rows] for name in self._columns}
        return Ranking(**columns, proposals={name: items[rows] for name, items in self.proposals.items()})

    def positions(self, positions: Ints) -> "Ranking":
        """Return some positions of every list."""
        return replace(self, **{name: getattr(self, name)[:, positions] for name in self._columns})

    def in_order_of(self, items: Ints) -> "Ranking":
        """Return a ranking of one list in the order of `items` `[K]`, which are those of the list."""
        return self.positions(np.argsort(self.items[0])[np.argsort(np.argsort(items))])

    @property
    def valued(self) -> bool:
        """Whether there was time for the ranker."""
        return not np.isnan(self.p_click).any()

    @property
    def _columns(self) -> list[str]:
        names = [column.name for column in fields(self) if column.name != "proposals"]
        return [name for name in names if getattr(self, name) is not None]


@dataclass(frozen=True)
class Recommender:
    """Makes lists: a retriever proposes candidates, a ranker values them, a reranker orders them."""

    retriever: Retriever
    ranker: Ranker
    reranker: Reranker

    def recommend(
        self,
        histories: Histories,
        options: RecommendOptions,
        sentences: Sentences | None = None,
        deadline: Deadline | None = None,
    ) -> Ranking:
        """Return the best items for each request: k of them, or fewer where no more are allowed and available.

        `sentences` are what the users typed; histories refer to them by the item index N. What has not begun by the
        `deadline` is left out, but for what is at hand: without the ranker, candidates are sorted by interest.
        """
        deadline = deadline or Deadline()
        order = np.arange(len(histories))
        if len(order) > BLOCK:  # histories of similar length together have little padding
            order = np.argsort(histories.lengths, kind="stable")
        parts = []
        for start in range(0, max(len(histories), 1), BLOCK):
            rows = order[start : start + BLOCK]
            batch = self.retriever.open(histories.rows(rows), sentences.rows(rows) if sentences else None, deadline)
            parts.append(self._recommend_block(batch, options, deadline))
        return Ranking.join(parts).rows(np.argsort(order))

    def rank(
        self,
        histories: Histories,
        candidates: Ints,
        *,
        explain: bool = False,
        sentences: Sentences | None = None,
        deadline: Deadline | None = None,
    ) -> Ranking:
        """Return all `candidates` `[R, C]` (-1 padded) sorted by value; `sentences` and `deadline` as in `recommend`."""
        deadline = deadline or Deadline()
        valued = self._value(self.retriever.open(histories, sentences, deadline), candidates, deadline)
        order = by_value(valued.score, candidates.shape[1])
        return valued.in_order(order, self._explainer(explain, deadline))

    def _explainer(self, explain: bool, deadline: Deadline) -> Ranker | None:
        return self.ranker if explain and not deadline.leaves_out("reasons") else None

    def _recommend_block(self, batch: OpenBatch, options: RecommendOptions, deadline: Deadline) -> Ranking:
        allowed = options.filter.allowed if options.filter else None
        proposals = self.retriever.propose(batch, allowed, options.sources, deadline)
        promoted = self._promoted(batch, options, allowed) if options.rules else {}
        candidates = self.retriever.candidates(
            batch, {**proposals, **promoted}, k=options.k, exclude_seen=options.exclude_seen, allowed=allowed
        )
        if options.rules and options.rules.pins:
            candidates = _with_pins(candidates, options.rules.pins, batch.requests.histories)
        valued = self._value(batch, candidates, deadline, options.value)
        if options.unlike:
            valued = valued.unlike(self.retriever.vectors, options.unlike)
        if options.rules and options.rules.factors is not None:
            valued = replace(valued, score=valued.score * options.rules.factors[candidates])
        order = self.reranker.order(
            valued.score,
            candidates,
            k=options.k,
            vectors=self.retriever.vectors,
            brands=self.retriever.features.facts.brand,
            categories=self.retriever.features.facts.category,
            diversity=options.diversity,
            scenario=options.rules,
        )
        return replace(valued.in_order(order, self._explainer(options.explain, deadline)), proposals=proposals)

    def _promoted(self, batch: OpenBatch, options: RecommendOptions, allowed: Bools | None) -> dict[str, Ints]:
        """Return the promoted items that sources propose, as many of each promotion as a list may need."""
        assert options.rules is not None
        found = {}
        for number, promotion in enumerate(options.rules.promotions):
            wanted = dict.fromkeys(self.retriever.sources, int(promotion.demand(options.k)[-1]))
            members = promotion.members if allowed is None else promotion.members & allowed
            for name, items in self.retriever.propose(batch, members, SourcesConfig(**wanted)).items():
                found[f"promotion {number} {name}"] = items
        return found

    def _value(self, batch: OpenBatch, items: Ints, deadline: Deadline, worth: ValueConfig | None = None) -> "_Valued":
        """Return the candidates `items` `[R, C]` with their values, and probabilities where there is time for the ranker."""
        valued = self._by_interest(batch, items) if deadline.leaves_out("ranker") else self._ranked(batch, items, worth)
        rejected = batch.requests.histories.rejected
        return valued.unlike_disliked(self.retriever.vectors, rejected.disliked) if rejected else valued

    def _by_interest(self, batch: OpenBatch, items: Ints) -> "_Valued":
        """Return the candidates with their interest as their value; where nothing is known of a user, in the order of `items`."""
        interest = batch.requests.candidates(items).interest[:, :, 0]
        known = batch.requests.histories.lengths[:, None] > 0
        value = np.where(known, (1 + interest) / 2, 1 / (1 + np.arange(items.shape[1])))
        nothing = np.empty((*items.shape, 0))
        return _Valued(
            items=items,
            score=np.where(items >= 0, value, -np.inf).astype(np.float32),
            interest=interest,
            probabilities=np.full((*items.shape, 2), np.nan, np.float32),
            dense=nothing.astype(np.float32),
            categorical=nothing.astype(np.int64),
        )

    def _ranked(self, batch: OpenBatch, items: Ints, worth: ValueConfig | None) -> "_Valued":
        candidates = batch.requests.candidates(items)
        dense, categorical = self.retriever.describe(batch, candidates)
        probabilities = self.ranker.probabilities(dense, categorical)
        values = value(probabilities, self.retriever.price[items], worth or self.retriever.config.value)
        return _Valued(
            items=items,
            score=np.where(items >= 0, values, -np.inf).astype(np.float32),
            interest=candidates.interest[:, :, 0],
            probabilities=self.ranker.when_shown(probabilities),
            dense=dense,
            categorical=categorical,
        )


def _with_pins(candidates: Ints, pins: Mapping[int, int], histories: Histories) -> Ints:
    """Return `candidates` `[R, C]` with the pinned items that users did not reject, whether a source proposed them or not."""
    pinned = np.tile(np.array(list(pins.values()), np.int64), (len(candidates), 1))
    pinned = np.where(histories.unwanted(pinned), -1, pinned)
    return distinct(np.concatenate([candidates, pinned], axis=1))


def _left_over(cosine: Floats, items: Ints) -> Floats:
    """Return the share of their scores that `items` (-1 padded) keep whose largest cosine to an unwanted item is `cosine`."""
    return np.where(items >= 0, 1 - np.clip(cosine, 0, 1), 1).astype(np.float32)


@dataclass(frozen=True)
class _Valued:
    """Candidates of R requests with what is known of each, before they are in order."""

    items: Ints
    """`[R, C]`, -1 padded."""
    score: Floats
    """`[R, C]`, -inf where padded."""
    interest: Floats
    """`[R, C]`"""
    probabilities: Floats
    """`[R, C, 2]` of items that are shown."""
    dense: Floats
    """`[R, C, F]`"""
    categorical: Ints
    """`[R, C, G]`"""

    def unlike(self, vectors: Floats, items: Sequence[int]) -> "_Valued":
        """Return the candidates with what is left of their scores: nothing where they are just like one of `items`.

        A score loses the share that is the largest cosine of the `vectors` `[N, D]` of candidate and item.
        """
        cosine = (vectors[self.items] @ vectors[list(items)].T).max(2)  # [R, C]
        return replace(self, score=self.score * _left_over(cosine, self.items))

    def unlike_disliked(self, vectors: Floats, disliked: ItemLists) -> "_Valued":
        """Do what `unlike` does, for each request with the last `FELT` of the items that its user dislikes."""
        score = self.score.copy()
        for row, items in enumerate(disliked.by_request()):
            if len(items):
                cosine = (vectors[self.items[row]] @ vectors[items[-FELT:]].T).max(1)  # [C]
                score[row] *= _left_over(cosine, self.items[row])
        return replace(self, score=score)

    def in_order(self, order: Ints, explainer: Ranker | None) -> Ranking:
        """Return the lists of the columns `order` `[R, K]` (-1 padded), explained where an `explainer` is given."""
        kept, rows = order >= 0, np.arange(len(order))[:, None]

        def listed(column: Floats) -> Floats:
            return np.where(kept, column[rows, order], np.float32(-1))

        ranking = Ranking(
            items=np.where(kept, self.items[rows, order], -1),
            score=listed(self.score),
            interest=listed(self.interest),
            p_click=listed(self.probabilities[..., 0]),
            p_purchase=listed(self.probabilities[..., 1]),
        )
        if explainer is None:
            return ranking
        slope, _ = explainer.shown[0]
        contributions = explainer.contributions(self.dense[rows, order], self.categorical[rows, order])
        return replace(ranking, contributions=np.float32(slope) * contributions)
