"""Fit the tree ranker: teachers per head, LambdaRank trees, a linear ranker and the network, and the trees that learn their score.

In: `RankingData`. Out: a `LightGbmRanker` whose scores are yet to be calibrated.

A few hundred requests with a target fit trees that differ from seed to seed by more than any feature is worth. The mean
of some rankers is better, and trees that learn it are as quick as one (born-again trees, Furlanello et al. 2018).

Shapes: R requests, C candidates, n present candidates, F inputs.
"""

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
from training.ranker.linear import linear_scores

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
"""Deviation of the linear ranker's scores in what is learned, and of the network's, as a share of that of the LambdaRank trees' mean."""

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


def fit_trees(data: RankingData, config: RankerConfig, seed: int, network: Floats) -> LightGbmRanker:
    """Fit the trees of both heads; `network` `[R, C, 2]` is what the network makes of the candidates.

    Their number is fixed: a few hundred late requests are too few to choose it by.
    """
    rows = Rows.of(data)
    trees = [_fit_head(data, rows, 0, config, seed, network)]
    for head in range(1, len(HEADS)):
        same = np.array_equal(rows.labels[:, head], rows.labels[:, 0])
        trees.append(trees[0] if same else _fit_head(data, rows, head, config, seed, network))
    return LightGbmRanker(trees, UNCHANGED)


def _fit_head(
    data: RankingData, rows: Rows, head: int, config: RankerConfig, seed: int, network: Floats
) -> lightgbm.Booster:
    shape = {"num_leaves": config.leaves, "seed": seed}
    if not rows.labels[:, head].any():
        return lightgbm.train(TEACHING | shape, _any_order(rows), 1)
    dataset, scores = rows.dataset(head), np.zeros(len(rows.inputs))
    for teacher in range(config.teachers):
        settings = TEACHING | shape | {"seed": config.teachers * seed + teacher}
        scores += lightgbm.train(settings, dataset, config.trees).predict(rows.inputs) / config.teachers
    deviation = scores.std()
    for other in (linear_scores(data, head), network[..., head]):
        told = other[data.present]
        scores += OTHERS_SHARE * deviation / max(told.std(), 1e-6) * told
    return lightgbm.train(LEARNING | shape, rows.order(scores), config.trees)


def _any_order(rows: Rows) -> lightgbm.Dataset:
    """Return what teaches the trees of a head without positives, whose scores count for nothing."""
    return lightgbm.Dataset(rows.inputs, rows.labels[:, 0].copy(), group=rows.counts)
