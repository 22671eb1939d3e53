"""Fit the tree ranker: LambdaRank per head.

In: `RankingData`. Out: a `LightGbmRanker` whose scores are yet to be calibrated.

Shapes: R requests, C candidates, n present candidates, F inputs.
"""

from dataclasses import dataclass

import lightgbm
import numpy as np
from numpy.typing import NDArray

from recsys.config import RankerConfig
from recsys.models.interest import HEADS
from recsys.models.rankers import LightGbmRanker
from recsys.models.rankers.base import UNCHANGED
from recsys.models.rankers.trees import tree_inputs
from training.ranker.data import RankingData

SETTINGS = {
    "objective": "lambdarank",
    "lambdarank_truncation_level": 20,
    "learning_rate": 0.03,
    "min_data_in_leaf": 50,
    "feature_fraction": 0.6,
    "bagging_fraction": 0.7,
    "bagging_freq": 1,
    "lambda_l2": 5.0,
    "deterministic": True,
    "verbose": -1,
}


@dataclass(frozen=True)
class Rows:
    """The present candidates of R requests."""

    inputs: NDArray[np.float32]
    """`[n, F]`"""
    labels: NDArray[np.float32]
    """`[n, 2]`"""
    counts: NDArray[np.int64]
    """`[R]` candidates of each request."""

    @classmethod
    def of(cls, data: RankingData) -> "Rows":
        """Leave the padding out."""
        inputs = tree_inputs(data.dense, data.categorical)[data.present.ravel()]
        return cls(inputs, data.labels[data.present], data.present.sum(1))

    def dataset(self, head: int) -> lightgbm.Dataset:
        """Return the requests that have a positive, which alone teach an order."""
        owners = np.repeat(np.arange(len(self.counts)), self.counts)
        positives = np.bincount(owners, self.labels[:, head], minlength=len(self.counts)) > 0
        kept = positives[owners]
        return lightgbm.Dataset(
            self.inputs[kept], self.labels[kept, head], group=self.counts[positives], free_raw_data=False
        )


def fit_trees(data: RankingData, config: RankerConfig, seed: int) -> LightGbmRanker:
    """Fit the trees of both heads.

    Their number is fixed: a few hundred late requests are too few to choose it by.
    """
    rows, settings = Rows.of(data), SETTINGS | {"num_leaves": config.leaves, "seed": seed}
    trees = [
        lightgbm.train(settings, rows.dataset(head), config.trees)
        if rows.labels[:, head].any()
        else lightgbm.train(settings, _any_order(rows), 1)
        for head in range(len(HEADS))
    ]
    return LightGbmRanker(trees, UNCHANGED)


def _any_order(rows: Rows) -> lightgbm.Dataset:
    """Return what teaches the trees of a head without positives, whose scores count for nothing."""
    return lightgbm.Dataset(rows.inputs, rows.labels[:, 0].copy(), group=rows.counts)
