"""The taste source: items whose texts say what the history has a taste for, by the taste model's own score.

An index over taste vectors and categories finds some items near the history as a whole and near its latest events;
the model's score orders them.

Shapes: R requests, C candidates, L history positions, N catalogue, A width of taste vectors.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch

from features.facts import ItemFacts
from features.recent import RecentEvents
from recsys.arrays import Bools, Floats, Ints, distinct, grow, with_rows
from recsys.models.taste import TasteModel
from serving.retrieval.index import VectorIndex
from serving.retrieval.sources.base import Candidates, CandidateSource, Catalogue, FitContext, RequestBatch, Scores

LATEST_EVENTS = 3
"""Events whose neighbours are looked at, beside those of the history as a whole."""

CATEGORY_WIDTH = 16
"""Numbers that stand for a category in the index: a random direction each."""


class TasteSource(CandidateSource):
    """Items near the history by taste and category, scored by the taste model."""

    name = "taste"

    def __init__(self, model: TasteModel, index: VectorIndex, counts: Ints) -> None:
        """`index` holds the items by `_by_category`; `counts` `[N]` are the items' events."""
        self.model, self.index, self.counts = model, index, counts

    @classmethod
    def fit(cls, context: FitContext) -> Self:
        assert context.taste is not None
        counts = np.bincount(context.log.items, minlength=context.items.height)
        vectors = _by_category(context.tastes, context.category)
        return cls(context.taste, VectorIndex.build(vectors, np.arange(len(vectors))), counts)

    def open(self, batch: RequestBatch) -> Scores:
        return TasteScores(self, batch)

    def with_recent(self, recent: RecentEvents, facts: ItemFacts, weights: Floats) -> Self:
        return type(self)(self.model, self.index, facts.counts)

    def extended(self, catalogue: Catalogue, changed: Ints) -> Self:
        vectors = _by_category(catalogue.tastes[changed], catalogue.category[changed])
        index = self.index.extended(with_rows(self.index.vectors, changed, vectors, catalogue.items.height), changed)
        return type(self)(self.model, index, grow(self.counts, catalogue.items.height, fill=0))

    def save(self, folder: Path) -> None:
        np.savez(folder / "taste.npz", allow_pickle=False, counts=self.counts)
        self.index.save(folder / "taste.faiss")

    @classmethod
    def load(cls, folder: Path, catalogue: Catalogue) -> Self:
        assert catalogue.taste is not None
        with np.load(folder / "taste.npz", allow_pickle=False) as arrays:
            counts = arrays["counts"]
        vectors = _by_category(catalogue.tastes, catalogue.category)
        return cls(catalogue.taste, VectorIndex.load(folder / "taste.faiss", vectors, np.arange(len(vectors))), counts)


@dataclass(frozen=True)
class TasteScores(Scores):
    """The taste model's relevance of candidates."""

    source: TasteSource
    batch: RequestBatch

    def top(self, k: int, allowed: Bools | None = None) -> Ints:
        items = distinct(self._near(k, allowed))
        scores = np.where(items >= 0, self.of(self.batch.candidates(items)), -np.inf)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        best = np.take_along_axis(items, order, axis=1)
        return np.pad(best, ((0, 0), (0, k - best.shape[1])), constant_values=-1)

    @torch.inference_mode()
    def of(self, candidates: Candidates) -> Floats:
        model, similarity = self.source.model, torch.from_numpy(candidates.taste_similarity)
        weights = model.event_weights(torch.from_numpy(self._known))
        same = torch.from_numpy(candidates.same_category)
        counts = torch.from_numpy(self.source.counts[candidates.items]).float()
        bias = model.bias(counts, known=counts > 0)
        scores = model.relevance(similarity, same, weights, bias).numpy()
        return np.where(candidates.present & self._known.any(1, keepdims=True), scores, 0)

    @property
    def _known(self) -> Bools:
        return self.batch.histories.items >= 0

    def _near(self, k: int, allowed: Bools | None) -> Ints:
        """Return up to k items near the history as a whole and near each of its latest events, `[R, K]`."""
        directions = (
            self.source.index.vectors[self.batch.past_rows, -CATEGORY_WIDTH:] * self.batch.past_items[:, :, None]
        )
        past = np.concatenate([self.batch.past_tastes, directions], axis=2) * self._known[:, :, None]  # [R, L, A + 16]
        weights = self.source.model.event_weights(torch.from_numpy(self._known)).detach().numpy()
        queries = np.concatenate([(weights[:, None] @ past), past[:, -LATEST_EVENTS:]], axis=1)  # [R, Q, A + 16]
        found = [self.source.index.search(query, k, allowed) for query in queries.transpose(1, 0, 2)]
        asked = np.any(queries, axis=2).T[:, :, None]  # [Q, R, 1]
        return np.concatenate(np.where(asked, np.stack(found), -1), axis=1)


def _by_category(tastes: Floats, category: Ints) -> Floats:
    """Return taste vectors `[…, A]` followed by their category's direction `[…, 16]`, which outweighs taste."""
    directions = np.random.default_rng(0).normal(size=(int(category.max(initial=0)) + 1, CATEGORY_WIDTH))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    directions[0] = 0
    return np.concatenate([tastes, directions[category]], axis=-1).astype(np.float32)
