"""Fit the tree ranker: LambdaRank per head, calibrated on the latest requests.

In: the ranker's requests, cut in time. Out: a `LightGbmRanker`.

Shapes: R requests, C candidates, n present candidates, F inputs.
"""

from dataclasses import dataclass

import lightgbm
import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from recsys.config import RankerConfig
from recsys.models.interest import HEADS
from recsys.models.rankers import LightGbmRanker
from recsys.models.rankers.trees import tree_inputs
from training.ranker.data import RankingData

HOLDOUT_SHARE = 0.2
"""Latest share of the requests on which scores are calibrated."""

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
    """Calibrate trees of the earlier requests on the latest ones, then fit on all.

    The number of trees is fixed: a few hundred late requests are too few to choose it by.
    """
    held = max(1, int(len(data) * HOLDOUT_SHARE))
    early, late = (Rows.of(data.rows(rows)) for rows in (slice(None, -held), slice(-held, None)))
    both = Rows.of(data)
    settings = SETTINGS | {"num_leaves": config.leaves, "seed": seed}
    trees, calibration = [], []
    for head in range(len(HEADS)):
        if early.labels[:, head].any() and late.labels[:, head].any():
            before = lightgbm.train(settings, early.dataset(head), config.trees)
            calibration.append(_calibrate(np.asarray(before.predict(late.inputs)), late.labels[:, head]))
            trees.append(lightgbm.train(settings, both.dataset(head), config.trees))
        else:
            trees.append(lightgbm.train(settings, _any_order(both), 1))
            calibration.append((0.0, _log_odds(both.labels[:, head])))
    return LightGbmRanker(trees, calibration)


def _calibrate(scores: NDArray[np.float64], labels: NDArray[np.float32]) -> tuple[float, float]:
    """Return slope and shift of the log odds over the scores (Platt 1999)."""
    line = LogisticRegression(C=np.inf).fit(scores[:, None], labels)
    return max(0.0, float(line.coef_[0, 0])), float(line.intercept_[0])


def _any_order(rows: Rows) -> lightgbm.Dataset:
    return lightgbm.Dataset(rows.inputs, rows.labels[:, 0].copy(), group=rows.counts)


def _log_odds(labels: NDArray[np.float32]) -> float:
    share = float(np.clip(labels.mean(), 1e-6, 0.5))
    return float(np.log(share / (1 - share)))
