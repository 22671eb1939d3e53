"""Fit a linear ranker of the dense features, which teaches the trees beside LambdaRank.

In: `RankingData`. Out: the scores of its candidates. A conditional logit: the softmax over a request's candidates, weights
penalised (McFadden 1974). It has too few weights to learn what a few hundred requests do not say.

Shapes: R requests, C candidates, F dense features.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from recsys.arrays import Floats, Ints
from training.ranker.data import RankingData

PENALTY = 3.0
"""Weight of the squared weights against the sum of the requests' losses."""

MOST_STEPS = 60


def linear_scores(data: RankingData, head: int, taught: Ints | None = None) -> Floats:
    """Return the scores `[R, C]` by weights that are fitted on the requests of `data` with a positive of `head`.

    `taught` are the requests that may be learned from; all of them where it is None.
    """
    features = torch.from_numpy(_standardised(data))
    weights = torch.zeros(features.shape[2], requires_grad=True)
    positive = np.flatnonzero(data.labels[:, :, head].any(1))
    positive = positive if taught is None else np.intersect1d(positive, taught)
    optimizer = torch.optim.LBFGS([weights], max_iter=MOST_STEPS, line_search_fn="strong_wolfe")
    fitted, present = features[positive], torch.from_numpy(data.present[positive])
    labels = torch.from_numpy(data.labels[positive, :, head])

    penalty = PENALTY / len(positive)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = listwise_loss(fitted @ weights, labels, present).mean() + penalty * weights.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    scores: Floats = (features @ weights).detach().numpy()
    return scores


def _standardised(data: RankingData) -> Floats:
    """Return the dense features `[R, C, F]` with mean 0 and deviation 1 over the present candidates; 0 where padded."""
    present = data.dense[data.present]
    return (data.dense - present.mean(0)) / (present.std(0) + 1e-6) * data.present[:, :, None]


def listwise_loss(scores: Tensor, labels: Tensor, present: Tensor) -> Tensor:
    """Return the mean negative log share of each request's positives, `[R]` or `[R, 2]`; 0 without any.

    `scores` and `labels` are `[R, C]` or `[R, C, 2]`; `present` tells candidates from padding.
    """
    shares = F.log_softmax(scores.masked_fill(~present, float("-inf")), dim=1).masked_fill(~present, 0.0)
    return -(shares * labels).sum(1) / labels.sum(1).clamp(min=1)
