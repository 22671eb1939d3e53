"""Give the ranker's log odds the level of what was observed.

In: log odds of items and what became of them. Out: a slope and a shift per head.
"""

import numpy as np
from scipy.special import logit
from sklearn.linear_model import LogisticRegression

from recsys.models.rankers import Lines, Ranker
from training.ranker.data import RankingData

LATEST_SHARE = 0.2
"""Latest share of the requests on which probabilities are calibrated."""

LEAST_SHARE = 1e-6


def latest_rows(count: int) -> slice:
    """Return the latest of `count` requests, at least one."""
    return slice(count - max(1, int(count * LATEST_SHARE)), count)


def calibration_lines(ranker: Ranker, observed: RankingData) -> Lines:
    """Return what brings the log odds of `ranker` to the level of `observed` (Platt 1999).

    A head without positives gets the level of its share alone.
    """
    log_odds = ranker.log_odds(observed.dense, observed.categorical)[observed.present]
    labels = observed.labels[observed.present]
    return [_line(log_odds[:, head], labels[:, head]) for head in range(labels.shape[1])]


def _line(log_odds: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    share = float(labels.mean())
    if share in (0.0, 1.0):
        return 0.0, float(logit(np.clip(share, LEAST_SHARE, 1 - LEAST_SHARE)))
    line = LogisticRegression(C=np.inf).fit(log_odds[:, None], labels)
    return max(0.0, float(line.coef_[0, 0])), float(line.intercept_[0])
