"""Sources of what everyone does: the popular items, and those that are more so than a while ago.

Shapes: R requests, C candidates, N catalogue, E events.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from features.facts import ItemFacts
from features.recent import RecentEvents
from recsys.arrays import Bools, Floats, Ints, grow
from recsys.events import DAY_US
from serving.retrieval.sources.base import Candidates, CandidateSource, Catalogue, FitContext, RequestBatch, Scores


class PopularSource(CandidateSource):
    """Items with the most weighted events; where there is a clock, the latest count most."""

    name = "popular"
    fills_short_lists = True
    at_hand = True
    half_life_days = 14.0

    def __init__(self, fitted: Floats, scores: Floats | None = None, order: Ints | None = None) -> None:
        """`fitted` `[N]` are the scores as of the fit, and `scores` `[N]` those of now, the same by default.

        `order` `[N]` are the items by their `scores`, the best first, where it is known.
        """
        self.fitted, self.scores = fitted, fitted if scores is None else scores
        self.order = np.argsort(-self.scores, kind="stable") if order is None else order

    @classmethod
    def fit(cls, context: FitContext) -> Self:
        log = context.log
        weight = context.weights[log.types].astype(np.float64)
        if context.has_clock:
            weight *= faded(log.times.max(initial=0) - log.times, cls.half_life_days)
        return cls(np.log1p(np.bincount(log.items, weight, minlength=context.items.height)).astype(np.float32))

    def open(self, batch: RequestBatch) -> Scores:
        return FixedScores(self.scores, self.order, len(batch.users))

    def with_recent(self, recent: RecentEvents, facts: ItemFacts, weights: Floats) -> Self:
        counted = weights[recent.types] * recent.new
        total = following(np.expm1(self.fitted.astype(np.float64)), recent, counted, self.half_life_days)
        return type(self)(self.fitted, np.log1p(total).astype(np.float32))

    def extended(self, catalogue: Catalogue, changed: Ints) -> Self:
        count = catalogue.items.height
        order = np.append(self.order, np.arange(len(self.order), count))
        return type(self)(grow(self.fitted, count, fill=0), grow(self.scores, count, fill=0), order)

    def save(self, folder: Path) -> None:
        np.savez(folder / "popular.npz", allow_pickle=False, scores=self.fitted)

    @classmethod
    def load(cls, folder: Path, catalogue: Catalogue) -> Self:
        with np.load(folder / "popular.npz", allow_pickle=False) as arrays:
            return cls(arrays["scores"])


class TrendingSource(CandidateSource):
    """Items that have more events now than they had before: what is new about them, the ranker's counts tell.

    An item's score is how far its events of the last day or so lie above what its events of the last weeks make
    expect, in standard deviations of a Poisson count. Fewer than `least_events` or `least_surprise` are no trend.
    """

    name = "trending"
    describes = False
    at_hand = True
    half_life_days = 1.0
    usual_half_life_days = 14.0
    least_events = 3.0
    least_surprise = 2.0

    def __init__(self, fitted: NDArray[np.float64], counts: NDArray[np.float64] | None = None) -> None:
        """`fitted` `[2, N]` are the events that fade within a day, and within weeks, as of the fit; `counts` those of now."""
        self.fitted, self.counts = fitted, fitted if counts is None else counts
        latest, usual = self.counts
        expected = usual * self.half_life_days / self.usual_half_life_days
        surprise = (latest - expected) / np.sqrt(expected + 1)
        trend = (latest >= self.least_events) & (surprise >= self.least_surprise)
        self.scores = np.where(trend, surprise, 0).astype(np.float32)
        self.order = np.argsort(-self.scores, kind="stable")[: int((self.scores > 0).sum())]

    @classmethod
    def fit(cls, context: FitContext) -> Self:
        log, count = context.log, context.items.height
        if not context.has_clock:
            return cls(np.zeros((2, count)))
        age = log.times.max(initial=0) - log.times
        fading = (faded(age, days) for days in (cls.half_life_days, cls.usual_half_life_days))
        return cls(np.stack([np.bincount(log.items, weight, minlength=count) for weight in fading]))

    def open(self, batch: RequestBatch) -> Scores:
        return FixedScores(self.scores, self.order, len(batch.users))

    def with_recent(self, recent: RecentEvents, facts: ItemFacts, weights: Floats) -> Self:
        lives = (self.half_life_days, self.usual_half_life_days)
        pairs = zip(self.fitted, lives, strict=True)
        return type(self)(self.fitted, np.stack([following(was, recent, recent.new, days) for was, days in pairs]))

    def extended(self, catalogue: Catalogue, changed: Ints) -> Self:
        missing = ((0, 0), (0, catalogue.items.height - self.fitted.shape[1]))
        return type(self)(np.pad(self.fitted, missing), np.pad(self.counts, missing))

    def save(self, folder: Path) -> None:
        np.savez(folder / "trending.npz", allow_pickle=False, counts=self.fitted)

    @classmethod
    def load(cls, folder: Path, catalogue: Catalogue) -> Self:
        with np.load(folder / "trending.npz", allow_pickle=False) as arrays:
            return cls(arrays["counts"])


def faded(age: Ints, half_life_days: float) -> NDArray[np.float64]:
    """Return what events of `age` `[E]` microseconds are worth, 1 for the newest."""
    return np.asarray(0.5 ** (age / DAY_US / half_life_days), np.float64)


def following(
    fitted: NDArray[np.float64], recent: RecentEvents, counted: Floats | Bools, half_life_days: float
) -> NDArray[np.float64]:
    """Return the sums `[N]` of now, of those of the fit and of what recent events `counted` `[E]`."""
    before = faded(np.array(recent.newest - recent.since), half_life_days) * fitted
    since = counted * faded(recent.newest - recent.times, half_life_days)
    return np.asarray(before + np.bincount(recent.items, since, minlength=len(fitted)), np.float64)


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
