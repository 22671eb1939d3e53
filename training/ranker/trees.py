"""Fit the tree ranker: teachers per head, LambdaRank trees and others, and the trees that learn their score.

In: `RankingData`. Out: a `LightGbmRanker` whose scores are yet to be calibrated.

A few hundred requests with a target fit trees that differ from seed to seed by more than any feature is worth. The mean
of some rankers is better, and trees that learn it are as quick as one (born-again trees, Furlanello et al. 2018).

Shapes: R requests, C candidates, n present candidates, F inputs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import lightgbm
import numpy as np
from numpy.typing import NDArray

from features.ranking import CATEGORICAL
from recsys.arrays import Floats, offsets_of
from recsys.config import RankerConfig
from recsys.models.interest import HEADS
from recsys.models.rankers import LightGbmRanker
from recsys.models.rankers.base import UNCHANGED
from recsys.models.rankers.trees import tree_inputs
from training.ranker.data import RankingData

OF_TEXTS = {"min_data_per_group": 20, "cat_l2": 1.0, "cat_smooth": 1.0}
"""How codes of context are split by: LightGBM's own settings see nothing in a few hundred requests."""
SHARED = {"min_data_in_leaf": 50, "deterministic": True, "verbose": -1} | OF_TEXTS
TEACHING = SHARED | {
    "objective": "lambdarank",
    "lambdarank_truncation_level": 20,
    "learning_rate": 0.03,
    "feature_fraction": 0.6,
    "bagging_fraction": 0.7,
    "bagging_freq": 1,
    "lambda_l2": 5.0,
}
LEARNING = SHARED | {"objective": "regression", "learning_rate": 0.2}
OTHERS_SHARE = 0.5
"""Deviation of the scores of each other teacher in what is learned, as a share of that of the LambdaRank trees' mean."""

HALF_WEIGHT = 10
"""Rank at which a candidate weighs half of the first one: what nobody will see need not be learned exactly."""


@dataclass(frozen=True)
class Rows:
    """The present candidates of R requests."""

    inputs: NDArray[np.float32]
    """`[n, F]`"""
    labels: NDArray[np.float32]
    """`[n, 2]`"""
    counts: NDArray[np.int64]
    """`[R]` candidates of each request."""
    texts: list[int] = field(default_factory=list)
    """Columns of the inputs whose codes have no order: those of context and of users' attributes."""

    @classmethod
    def of(cls, data: RankingData) -> "Rows":
        """Leave the padding out."""
        inputs = tree_inputs(data.dense, data.categorical)[data.present.ravel()]
        texts = list(range(data.dense.shape[2] + len(CATEGORICAL), inputs.shape[1]))
        return cls(inputs, data.labels[data.present], data.present.sum(1), texts)

    @cached_property
    def owners(self) -> NDArray[np.int64]:
        """`[n]` request of each candidate."""
        return np.repeat(np.arange(len(self.counts)), self.counts)

    def dataset(self, head: int) -> lightgbm.Dataset:
        """Return the requests that have a positive, which alone teach an order."""
        positives = np.bincount(self.owners, self.labels[:, head], minlength=len(self.counts)) > 0
        kept = positives[self.owners]
        return lightgbm.Dataset(
            self.inputs[kept],
            self.labels[kept, head],
            group=self.counts[positives],
            free_raw_data=False,
            categorical_feature=self.texts,
        )

    def order(self, scores: NDArray[np.float64]) -> lightgbm.Dataset:
        """Return all requests with the `scores` `[n]` to learn, above the mean of each request, the first ones weighing most."""
        means = np.bincount(self.owners, scores, minlength=len(self.counts)) / np.maximum(self.counts, 1)
        ranks = np.empty(len(scores), np.int64)
        ranks[np.lexsort((-scores, self.owners))] = np.arange(len(scores))
        ranks -= offsets_of(self.counts)[self.owners]
        return lightgbm.Dataset(
            self.inputs,
            scores - means[self.owners],
            weight=1 / (1 + ranks / HALF_WEIGHT),
            categorical_feature=self.texts,
        )


def fit_trees(
    data: RankingData, config: RankerConfig, seed: int, others: Sequence[Floats] = (), direct: Sequence[bool] = ()
) -> LightGbmRanker:
    """Fit the trees of both heads; `others` are what other teachers make of the candidates, `[R, C, 2]` each.

    A head that is `direct` is LambdaRank itself and has no teachers; none is by default. The number of trees is fixed: a few hundred late
    requests are too few to choose it by.
    """
    rows = Rows.of(data)
    told = [other[data.present] for other in others]
    heads = list(direct) or [False] * len(HEADS)
    trees = [_fit_head(rows, 0, config, seed, told, heads[0])]
    for head in range(1, len(HEADS)):
        same = np.array_equal(rows.labels[:, head], rows.labels[:, 0])
        trees.append(trees[0] if same else _fit_head(rows, head, config, seed, told, heads[head]))
    return LightGbmRanker(trees, UNCHANGED)


def _fit_head(
    rows: Rows, head: int, config: RankerConfig, seed: int, told: list[Floats], direct: bool
) -> lightgbm.Booster:
    if not rows.labels[:, head].any():
        return lightgbm.train(TEACHING | _shape(config, seed), _any_order(rows), 1)
    dataset, seeds = rows.dataset(head), range(config.teachers * seed, config.teachers * (seed + 1))
    if direct:
        return lambdarank(dataset, config, seeds[0])
    scores = np.mean([lambdarank(dataset, config, teacher).predict(rows.inputs) for teacher in seeds], axis=0)
    return student(rows, mixed(scores, [other[:, head] for other in told]), config, seed)


def lambdarank(dataset: lightgbm.Dataset, config: RankerConfig, seed: int) -> lightgbm.Booster:
    """Return LambdaRank trees (Burges 2010)."""
    return lightgbm.train(TEACHING | _shape(config, seed), dataset, config.trees)


def mixed(scores: NDArray[np.float64], others: Sequence[Floats]) -> NDArray[np.float64]:
    """Return `scores` `[n]` with a share of what each of `others` `[n]` says."""
    deviation, mixture = scores.std(), scores.copy()
    for other in others:
        mixture += OTHERS_SHARE * deviation / max(other.std(), 1e-6) * other
    return mixture


def student(rows: Rows, scores: NDArray[np.float64], config: RankerConfig, seed: int) -> lightgbm.Booster:
    """Return trees that learn the order of `scores` `[n]`."""
    return lightgbm.train(LEARNING | _shape(config, seed), rows.order(scores), config.trees)


def _shape(config: RankerConfig, seed: int) -> dict[str, int]:
    return {"num_leaves": config.leaves, "seed": seed}


def _any_order(rows: Rows) -> lightgbm.Dataset:
    """Return what teaches the trees of a head without positives, whose scores count for nothing."""
    return lightgbm.Dataset(rows.inputs, rows.labels[:, 0].copy(), group=rows.counts)
