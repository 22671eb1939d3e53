"""A logistic regression on vectors of texts, as the weights of a linear head.

In: vectors and targets. Out: weights and biases.

Shapes: N texts, H width of a vector, C classes.
"""

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from recsys.arrays import Floats

RARE_LOGIT = 10.0
"""The logit of what all or no texts have."""


def fit_linear(vectors: Floats, targets: Floats, multi: bool, looseness: float) -> dict[str, Tensor]:
    """Return weight `[C, H]` and bias `[C]` of the logistic regression of `targets` `[N, C]` on `vectors` `[N, H]`.

    The `looseness` is the inverse of the strength of its L2 penalty (`C` of scikit-learn), for vectors of length 1. With `multi`, each class
    has a regression of its own.
    """
    scale = float(np.linalg.norm(vectors, axis=1).mean())
    inputs, width = vectors / scale, vectors.shape[1]
    if multi:
        rows = [_binary(inputs, column > 0, looseness) for column in targets.T]
        weight, bias = np.stack([row[0] for row in rows]), np.array([row[1] for row in rows])
    else:
        known = np.asarray(targets.any(0))  # a class that no text has gets the smallest logit of all
        weight, bias = np.zeros((len(known), width)), np.full(len(known), -RARE_LOGIT)
        fitted = _regression(looseness).fit(inputs, targets[:, known].argmax(1))
        coefficients, intercepts = fitted.coef_, fitted.intercept_
        if known.sum() == 2:
            coefficients, intercepts = (
                np.concatenate([-coefficients, coefficients]) / 2,
                np.append(-intercepts, intercepts) / 2,
            )
        weight[known], bias[known] = coefficients, intercepts
    return {
        "linear.weight": torch.from_numpy((weight / scale).astype(np.float32)),
        "linear.bias": torch.from_numpy(bias.astype(np.float32)),
    }


def _binary(inputs: Floats, truth: np.ndarray, looseness: float) -> tuple[np.ndarray, float]:
    if truth.all() or not truth.any():
        return np.zeros(inputs.shape[1]), RARE_LOGIT if truth.all() else -RARE_LOGIT
    fitted = _regression(looseness).fit(inputs, truth)
    return fitted.coef_[0], float(fitted.intercept_[0])


def _regression(looseness: float) -> LogisticRegression:
    return LogisticRegression(C=looseness, max_iter=1000)
