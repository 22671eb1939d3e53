"""The popularity source: what everyone does, the latest counting most.

Shapes: R requests, C candidates, N catalogue.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from recsys.arrays import Bools, Floats, Ints, grow
from recsys.events import DAY_US
from serving.retrieval.sources.base import Candidates, CandidateSource, Catalogue, FitContext, RequestBatch, Scores


class PopularSource(CandidateSource):
    """Items with the most weighted events; where there is a clock, the latest count most."""

    name = "popular"
    fills_short_lists = True
    half_life_days = 14.0

    def __init__(self, scores: Floats) -> None:
        self.scores = scores
        self.order = np.argsort(-scores, kind="stable")

    @classmethod
    def fit(cls, context: FitContext) -> Self:
        log = context.log
        weight = context.weights[log.types].astype(np.float64)
        if context.has_clock and len(log):
            weight = weight * 0.5 ** ((log.times.max() - log.times) / DAY_US / cls.half_life_days)
        scores = np.bincount(log.items, weight, minlength=context.items.height)
        return cls(np.log1p(scores).astype(np.float32))

    def open(self, batch: RequestBatch) -> Scores:
        return FixedScores(self.scores, self.order, len(batch.users))

    def extended(self, catalogue: Catalogue, changed: Ints) -> Self:
        return type(self)(grow(self.scores, catalogue.items.height, fill=0))

    def save(self, folder: Path) -> None:
        np.savez(folder / "popular.npz", allow_pickle=False, scores=self.scores)

    @classmethod
    def load(cls, folder: Path, catalogue: Catalogue) -> Self:
        with np.load(folder / "popular.npz", allow_pickle=False) as arrays:
            return cls(arrays["scores"])


@dataclass(frozen=True)
class FixedScores(Scores):
    """The same score `[N]` of an item for every request."""

    scores: Floats
    order: Ints
    requests: int

    def top(self, k: int, allowed: Bools | None = None) -> Ints:
        order = self.order if allowed is None else self.order[allowed[self.order]]
        best = np.full(k, -1, np.int64)
        best[: len(order[:k])] = order[:k]
        return np.broadcast_to(best, (self.requests, k))

    def of(self, candidates: Candidates) -> Floats:
        return np.where(candidates.present, self.scores[candidates.items], 0).astype(np.float32)
