"""Retrieve, rank and re-rank: the one path to every list that anyone sees.

In: histories of R requests. Out: `Ranking`, lists `[R, K]` with scores and probabilities.
Evaluation, batch lists, the API and the registered model all call `Recommender`.

Shapes: R requests, C candidates, K list length, N catalogue, D width.
"""

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from features.histories import Histories, Ints
from features.ranking import CATEGORICAL, RankingFeatures
from recsys.config import Config
from recsys.models.encoder import resolve_precision
from recsys.models.interest import HistoryBatch, InterestModel, recency_buckets
from recsys.models.rankers import Ranker, value
from serving.rerank import choose
from serving.retrieval.index import VectorIndex
from serving.retrieval.sources import Bools, CandidateSource, Floats, InterestSource, RequestBatch, Scores, Sentences

BLOCK = 128
"""Requests that are ranked at once."""


@dataclass(frozen=True)
class Ranking:
    """Lists of R requests, best first; -1 pads `items`."""

    items: Ints
    """`[R, K]`"""
    score: Floats
    """`[R, K]` value of the item, what the list is sorted by."""
    interest: Floats
    """`[R, K]` cosine of user and item."""
    p_click: Floats
    """`[R, K]`"""
    p_purchase: Floats
    """`[R, K]`"""
    contributions: Floats | None = None
    """`[R, K, F]` what each of `Recommender.feature_names` adds to the log odds of a click, when asked for."""

    @classmethod
    def join(cls, parts: list["Ranking"]) -> "Ranking":
        """Put the rankings of several blocks together."""
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in parts[0]._names})

    def rows(self, rows: Ints | slice) -> "Ranking":
        """Return the lists of some requests."""
        return Ranking(**{name: getattr(self, name)[rows] for name in self._names})

    def places(self, places: Ints) -> "Ranking":
        """Return some places of every list."""
        return Ranking(**{name: getattr(self, name)[:, places] for name in self._names})

    @property
    def _names(self) -> list[str]:
        return [field.name for field in fields(self) if getattr(self, field.name) is not None]


class Recommender:
    """Everything of a bundle in memory, for one catalogue."""

    def __init__(
        self,
        config: Config,
        items: pl.DataFrame,
        model: InterestModel,
        vectors: Floats,
        sources: list[CandidateSource],
        features: RankingFeatures,
        ranker: Ranker | None,
        exclude_seen: bool,
        available: Bools | None = None,
    ) -> None:
        """`ranker` is None only while its training data are made; items outside `available` `[N]` are in no list."""
        self.config, self.items, self.model = config, items, model.eval()
        self.vectors, self.sources, self.features = vectors, sources, features
        native = resolve_precision(config.encoder.precision, torch.device("cpu")) == "bf16"
        self._user_tower = self.model.user_tower.in_bf16() if native else self.model.user_tower
        self.ranker, self.exclude_seen, self.available = ranker, exclude_seen, available
        self.price = np.nan_to_num(items["price"].cast(pl.Float64).to_numpy(), nan=0.0)

    def with_available(self, available: Bools) -> "Recommender":
        """Return the same recommender for lists of `available` `[N]` items alone."""
        changed = copy(self)
        changed.available = available
        return changed

    @property
    def feature_names(self) -> list[str]:
        """The names of all that the ranker looks at, in the order of `Ranking.contributions`."""
        return [*self.features.names, *CATEGORICAL]

    @property
    def has_clock(self) -> bool:
        """Whether times are a clock's, so that ages and hours mean something."""
        return self.features.has_clock

    def recommend(
        self,
        histories: Histories,
        k: int,
        sentences: Sentences | None = None,
        allowed: Bools | None = None,
        exclude_seen: bool | None = None,
        diversity: float | None = None,
        explain: bool = False,
        on_proposals: Callable[[dict[str, Ints]], None] = lambda proposals: None,
    ) -> Ranking:
        """Return the k best items for each request, fewer where no more are `allowed` `[N]` and available.

        `sentences` are what stands in histories as the item N; `exclude_seen` and `diversity` are the
        model's own by default. `on_proposals` is told what each source proposed, block by block.
        """
        parts = []
        order = np.arange(len(histories))
        if len(order) > BLOCK:  # histories of like length together have little padding
            order = np.argsort(histories.lengths, kind="stable")
        for start in range(0, max(len(histories), 1), BLOCK):
            rows = order[start : start + BLOCK]
            batch = self.batch(histories.rows(rows), sentences.rows(rows) if sentences else None)
            opened = self.open(batch)
            candidates = self.candidates(batch, opened, k, allowed, exclude_seen, on_proposals)
            parts.append(self._ordered(batch, opened, candidates, k, diversity, explain))
        return Ranking.join(parts).rows(np.argsort(order))

    def rank(self, histories: Histories, candidates: Ints, explain: bool = False) -> Ranking:
        """Return `candidates` `[R, C]` (-1 padded) in their order of value."""
        batch = self.batch(histories)
        return self._ordered(batch, self.open(batch), candidates, None, 0.0, explain)

    def similar(self, item: int, k: int) -> tuple[Ints, Floats]:
        """Return the k available items nearest to `item` by their vectors, and their cosines."""
        allowed = np.ones(len(self.vectors), bool) if self.available is None else self.available.copy()
        allowed[item] = False
        found = self._index.search(self.vectors[item][None], min(k, len(allowed)), allowed)[0]
        found = found[found >= 0]
        return found, self.vectors[found] @ self.vectors[item]

    @cached_property
    def _index(self) -> VectorIndex:
        """That of the interest source over all items, or one of its own where that source is turned off."""
        indexes = [source.index for source in self.sources if isinstance(source, InterestSource)]
        return indexes[0] if indexes else VectorIndex.build(self.vectors, np.arange(len(self.vectors)))

    def batch(self, histories: Histories, sentences: Sentences | None = None) -> RequestBatch:
        """Compute the user vectors of `histories`, which lose the columns that all of them have padded."""
        histories, count = histories.trimmed(), len(self.vectors)
        sentences = sentences or Sentences.none(len(histories), self.vectors.shape)
        typed = histories.items == count
        past = self.vectors[np.where(typed, 0, histories.items)]  # [R, L, D]
        past[typed] = sentences.vectors[np.nonzero(typed)[0]]
        items = torch.from_numpy(histories.items).long()
        recency = recency_buckets(torch.from_numpy(histories.times), items >= 0, self.has_clock)
        history = HistoryBatch(items, torch.from_numpy(histories.types).long(), recency)
        with torch.inference_mode():
            users = self._user_tower.last(torch.from_numpy(past), history)
        return RequestBatch(histories, users.numpy(), past, sentences, self.vectors)

    def open(self, batch: RequestBatch) -> dict[str, Scores]:
        """Return each source's view of the batch."""
        return {source.name: source.open(batch) for source in self.sources}

    def candidates(
        self,
        batch: RequestBatch,
        opened: dict[str, Scores],
        k: int,
        allowed: Bools | None = None,
        exclude_seen: bool | None = None,
        on_proposals: Callable[[dict[str, Ints]], None] = lambda proposals: None,
    ) -> Ints:
        """Return the union of the sources' proposals `[R, C]`, at least k where there are as many."""
        past = batch.histories.items
        exclude = self.exclude_seen if exclude_seen is None else exclude_seen
        proposals = self.proposals(opened, allowed)
        on_proposals(proposals)
        candidates = _usable(np.concatenate(list(proposals.values()), axis=1), past, exclude)
        short = (candidates >= 0).sum(1) < min(k, len(self.vectors))
        if short.any() and "popular" in opened:
            # Popular items fill a list also when all that has been seen is taken out.
            spare = self.config.interest.max_history * exclude
            fill = opened["popular"].top(min(k + spare, len(self.vectors)), _both(self.available, allowed))
            candidates = _usable(np.concatenate([candidates, np.where(short[:, None], fill, -1)], 1), past, exclude)
        return candidates

    def proposals(self, opened: dict[str, Scores], allowed: Bools | None = None) -> dict[str, Ints]:
        """Return what each source proposes of the `allowed` `[N]` at its quota, `[R, quota]`."""
        quotas, allowed = self.config.sources.model_dump(), _both(self.available, allowed)
        return {name: scores.top(min(quotas[name], len(self.vectors)), allowed) for name, scores in opened.items()}

    def inputs(self, batch: RequestBatch, opened: dict[str, Scores], candidates: Ints) -> tuple[Floats, Ints]:
        """Return the ranker's input: dense `[R, C, F]` and categorical `[R, C, G]`."""
        scores = {name: view.of(candidates) for name, view in opened.items()}
        scores["purchase"] = batch.interest(candidates)[:, :, 1]
        dense = self.features.dense(batch.histories, candidates, scores, batch.similarity(candidates))
        return dense, self.features.categorical(batch.histories, candidates)

    def _ordered(
        self,
        batch: RequestBatch,
        opened: dict[str, Scores],
        candidates: Ints,
        k: int | None,
        diversity: float | None = None,
        explain: bool = False,
    ) -> Ranking:
        """Put `candidates` `[R, C]` in order; without `k` all of them, whatever their brands."""
        assert self.ranker is not None
        inputs = self.inputs(batch, opened, candidates)
        dense, categorical = (torch.from_numpy(array) for array in inputs)
        probabilities = self.ranker.probabilities(dense, categorical)
        price = torch.from_numpy(self.price[candidates])
        worth = value(probabilities, price, self.config.value).numpy()
        worth = np.where(candidates >= 0, worth, -np.inf).astype(np.float32)
        order = self._places(worth, candidates, k, self.config.lists.diversity if diversity is None else diversity)
        columns = (
            candidates,
            worth,
            batch.interest(candidates)[:, :, 0],
            probabilities[..., 0].numpy(),
            probabilities[..., 1].numpy(),
        )
        listed = [np.where(order >= 0, np.take_along_axis(column, order, axis=1), -1) for column in columns]
        ranking = Ranking(*listed)
        if not explain:
            return ranking
        picked = (torch.from_numpy(np.take_along_axis(array, order[:, :, None], axis=1)) for array in inputs)
        return replace(ranking, contributions=self.ranker.contributions(*picked).numpy())

    def _places(self, worth: Floats, candidates: Ints, k: int | None, diversity: float) -> Ints:
        """Return the columns `[R, K]` of `worth` `[R, C]` that stand in each list, -1 padded."""
        lists = self.config.lists
        width = worth.shape[1] if k is None else k
        places = np.full((len(worth), width), -1, np.int64)
        if k is None or not (diversity or lists.per_brand):
            order = np.argsort(-worth, axis=1, kind="stable")[:, :width]
            places[:, : order.shape[1]] = np.where(np.isfinite(np.take_along_axis(worth, order, 1)), order, -1)
            return places
        for row, items in enumerate(candidates):
            vectors, brands = self.vectors[items], self.features.facts.brand[items]
            chosen = choose(worth[row], vectors, brands, width, diversity, lists.per_brand)
            places[row, : len(chosen)] = chosen
        return places


def _both(one: Bools | None, other: Bools | None) -> Bools | None:
    return one if other is None else other if one is None else one & other


def _usable(proposed: Ints, past: NDArray[np.int32], exclude_seen: bool) -> Ints:
    """Return the distinct items of `proposed` that may stand in a list after the history `past`."""
    candidates = distinct(proposed)
    if not exclude_seen:
        return candidates
    seen = (candidates[:, :, None] == past[:, None, :]).any(2)
    return distinct(np.where(seen, -1, candidates))


def distinct(items: Ints) -> Ints:
    """Return each row's distinct items in ascending order, -1 padded to the longest row, or to one column."""
    ordered = np.sort(items, axis=1)
    repeated = np.zeros_like(ordered, bool)
    repeated[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    kept = ~repeated & (ordered >= 0)
    width = int(kept.sum(1).max(initial=1))
    order = np.argsort(~kept, axis=1, kind="stable")[:, :width]
    return np.where(np.take_along_axis(kept, order, 1), np.take_along_axis(ordered, order, 1), -1)
