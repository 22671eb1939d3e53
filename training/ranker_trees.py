"""Fit the tree ranker: LambdaRank per head, stopped early and calibrated on the latest requests.

In: the ranker's requests, cut in time. Out: a `LightGbmRanker`.

Shapes: R requests, C candidates, n present candidates, F inputs.
"""

from dataclasses import dataclass

import lightgbm
import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from recsys.config import RankerConfig
from recsys.interest import HEADS
from recsys.rankers import LightGbmRanker
from recsys.rankers.trees import tree_inputs
from training.ranking_data import RankingData

STOP_AFTER = 50
"""Trees without a better ndcg@10 on the latest requests before no more are added."""

SETTINGS = {
    "objective": "lambdarank",
    "metric": "ndcg",
    "eval_at": [10],
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
        present = data.candidates >= 0
        inputs = tree_inputs(data.dense, data.categorical)[present.flatten().numpy()]
        return cls(inputs, data.labels[present].numpy(), present.sum(1).numpy())

    def joined(self, later: "Rows") -> "Rows":
        """Return these requests and `later` ones."""
        return Rows(
            np.concatenate([self.inputs, later.inputs]),
            np.concatenate([self.labels, later.labels]),
            np.concatenate([self.counts, later.counts]),
        )

    def dataset(self, head: int) -> lightgbm.Dataset:
        """Return the requests that have a positive, which alone teach an order."""
        owners = np.repeat(np.arange(len(self.counts)), self.counts)
        positives = np.bincount(owners, self.labels[:, head], minlength=len(self.counts)) > 0
        kept = positives[owners]
        return lightgbm.Dataset(
            self.inputs[kept], self.labels[kept, head], group=self.counts[positives], free_raw_data=False
        )


def fit_trees(early: RankingData, late: RankingData, config: RankerConfig, seed: int) -> LightGbmRanker:
    """Choose the number of trees and the calibration on `late`, then fit on both."""
    first, last = Rows.of(early), Rows.of(late)
    both = first.joined(last)
    trees, calibration = [], []
    for head in range(len(HEADS)):
        settings = SETTINGS | {"num_leaves": config.leaves, "seed": seed}
        if not (first.labels[:, head].any() and last.labels[:, head].any()):
            trees.append(lightgbm.train(settings, _any_order(both), 1))
            calibration.append((0.0, _log_odds(both.labels[:, head])))
            continue
        stop = lightgbm.early_stopping(STOP_AFTER, verbose=False)
        chosen = lightgbm.train(
            settings, first.dataset(head), config.trees, valid_sets=[last.dataset(head)], callbacks=[stop]
        )
        calibration.append(_calibrate(np.asarray(chosen.predict(last.inputs)), last.labels[:, head]))
        trees.append(lightgbm.train(settings, both.dataset(head), chosen.best_iteration))
    return LightGbmRanker(trees, calibration)


def _calibrate(scores: NDArray[np.float64], labels: NDArray[np.float32]) -> tuple[float, float]:
    """Return slope and shift of the log odds over the scores (Platt 1999)."""
    line = LogisticRegression(C=np.inf).fit(scores[:, None], labels)
    return max(0.0, float(line.coef_[0, 0])), float(line.intercept_[0])


def _any_order(rows: Rows) -> lightgbm.Dataset:
    return lightgbm.Dataset(rows.inputs, rows.labels[:, 0], group=rows.counts)


def _log_odds(labels: NDArray[np.float32]) -> float:
    share = float(np.clip(labels.mean(), 1e-6, 0.5))
    return float(np.log(share / (1 - share)))
