"""Retrieve, rank and re-rank: the one path to every list that anyone sees.

In: histories of R requests. Out: `Ranking`, lists `[R, K]` with scores and probabilities.
Evaluation, batch lists, the API and the registered model all call `Recommender`.

Shapes: R requests, C candidates, K list length, N catalogue, D width.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from features.histories import Histories, Ints
from features.ranking import RankingFeatures
from recsys.config import Config
from recsys.interest import HistoryBatch, InterestModel, recency_buckets
from recsys.rankers import Ranker, value
from serving.sources import CandidateSource, Floats, RequestBatch, Scores
from serving.sources.vectors import head_scores

BLOCK = 256
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

    @classmethod
    def join(cls, parts: list["Ranking"]) -> "Ranking":
        """Put the rankings of several blocks together."""
        fields = ("items", "score", "interest", "p_click", "p_purchase")
        return cls(*(np.concatenate([getattr(part, field) for part in parts]) for field in fields))


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
    ) -> None:
        """`ranker` is None only while its training data are made."""
        self.config, self.items, self.model = config, items, model.eval()
        self.vectors, self.sources, self.features = vectors, sources, features
        self.ranker, self.exclude_seen = ranker, exclude_seen
        self._vectors = torch.from_numpy(vectors)
        self.price = np.nan_to_num(items["price"].cast(pl.Float64).to_numpy(), nan=0.0)

    @property
    def has_clock(self) -> bool:
        """Whether times are a clock's, so that ages and hours mean something."""
        return self.features.has_clock

    def recommend(self, histories: Histories, k: int) -> Ranking:
        """Return the k best items for each request, fewer where the catalogue has no more."""
        blocks = range(0, max(len(histories), 1), BLOCK)
        return Ranking.join([self._recommend_block(histories.rows(slice(at, at + BLOCK)), k) for at in blocks])

    def rank(self, histories: Histories, candidates: Ints) -> Ranking:
        """Return `candidates` `[R, C]` (-1 padded) in their order of value."""
        batch = self.batch(histories)
        return self._ordered(batch, self.open(batch), candidates, candidates.shape[1])

    def batch(self, histories: Histories) -> RequestBatch:
        """Compute the user vectors of `histories`."""
        items = torch.from_numpy(histories.items).long()
        recency = recency_buckets(torch.from_numpy(histories.times), items >= 0, self.has_clock)
        history = HistoryBatch(items, torch.from_numpy(histories.types).long(), recency)
        with torch.no_grad():
            users = self.model.last_user_vectors(self._vectors, history)
        return RequestBatch(histories, users.numpy())

    def open(self, batch: RequestBatch) -> dict[str, Scores]:
        """Return each source's view of the batch."""
        return {source.name: source.open(batch) for source in self.sources}

    def candidates(self, batch: RequestBatch, opened: dict[str, Scores], k: int) -> Ints:
        """Return the union of the sources' proposals `[R, C]`, at least k where there are as many."""
        past = batch.histories.items
        candidates = self._usable(np.concatenate(list(self.proposals(opened).values()), axis=1), past)
        short = (candidates >= 0).sum(1) < min(k, len(self.vectors))
        if short.any() and "popular" in opened:
            # Popular items fill a list also when all that has been seen is taken out.
            spare = past.shape[1] * self.exclude_seen
            fill = opened["popular"].top(min(k + spare, len(self.vectors)))
            candidates = self._usable(np.concatenate([candidates, np.where(short[:, None], fill, -1)], axis=1), past)
        return candidates

    def proposals(self, opened: dict[str, Scores]) -> dict[str, Ints]:
        """Return what each source proposes at its quota, `[R, quota]`."""
        quotas = self.config.sources.model_dump()
        return {name: scores.top(min(quotas[name], len(self.vectors))) for name, scores in opened.items()}

    def _usable(self, proposed: Ints, past: NDArray[np.int32]) -> Ints:
        """Return the distinct items of `proposed` that may stand in a list after the history `past`."""
        candidates = distinct(proposed)
        if not self.exclude_seen:
            return candidates
        seen = (candidates[:, :, None] == past[:, None, :]).any(2)
        return distinct(np.where(seen, -1, candidates))

    def inputs(self, batch: RequestBatch, opened: dict[str, Scores], candidates: Ints) -> tuple[Floats, Ints]:
        """Return the ranker's input: dense `[R, C, F]` and categorical `[R, C, G]`."""
        scores = {name: view.of(candidates) for name, view in opened.items()}
        scores["purchase"] = head_scores(batch.users[:, 1], self.vectors, candidates)
        dense = self.features.dense(batch.histories, candidates, scores, self.vectors)
        return dense, self.features.categorical(batch.histories, candidates)

    def _recommend_block(self, histories: Histories, k: int) -> Ranking:
        batch = self.batch(histories)
        opened = self.open(batch)
        return self._ordered(batch, opened, self.candidates(batch, opened, k), k)

    def _ordered(self, batch: RequestBatch, opened: dict[str, Scores], candidates: Ints, k: int) -> Ranking:
        assert self.ranker is not None
        dense, categorical = self.inputs(batch, opened, candidates)
        chances = self.ranker.probabilities(torch.from_numpy(dense), torch.from_numpy(categorical))
        price = torch.from_numpy(self.price[candidates])
        worth = value(chances, price, self.config.value).numpy()
        worth = np.where(candidates >= 0, worth, -np.inf).astype(np.float32)
        order = np.argsort(-worth, axis=1, kind="stable")[:, :k]
        interest = head_scores(batch.users[:, 0], self.vectors, candidates)
        columns = (candidates, worth, interest, chances[..., 0].numpy(), chances[..., 1].numpy())
        picked = [np.take_along_axis(column, order, axis=1) for column in columns]
        short = k - order.shape[1]
        padded = [np.pad(column, ((0, 0), (0, max(0, short))), constant_values=-1) for column in picked]
        return Ranking(*padded)


def distinct(items: Ints) -> Ints:
    """Return each row's distinct items in ascending order, -1 padded to the longest row."""
    ordered = np.sort(items, axis=1)
    repeated = np.zeros_like(ordered, bool)
    repeated[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    kept = ~repeated & (ordered >= 0)
    width = int(kept.sum(1).max(initial=0))
    order = np.argsort(~kept, axis=1, kind="stable")[:, :width]
    return np.where(np.take_along_axis(kept, order, 1), np.take_along_axis(ordered, order, 1), -1)
