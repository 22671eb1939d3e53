"""What another choice at explored positions would have brought, from what was drawn there at random.

In: explored positions with their pools and outcomes, and each model's scores of the pools. Out: estimates with intervals.

**The design.** `serving.rerank.explore` gives a position to exploration with a fixed probability, whatever is there, and places an item
drawn evenly from a pool of n. So at an explored position each item a of the pool was shown with probability 1/n; the logged propensity is
this times the probability that the position was explored, which no item changes.

**The estimand.** A model's policy π draws evenly from the m = max(1, round(share · n)) items of the pool that it ranks highest. With μ(x, a)
the probability of a click on a at the explored position x, the figure is V(π) = E_x Σ_a π(a|x) μ(x, a): clicks per explored position,
had that position shown an item of the model's choice, the rest of the list being as it was. Under the item-position model, in which a click
depends on the item and its position alone (Li, Abbasi-Yadkori, Kveton, Muthukrishnan, Vinay and Wen 2018, *Offline evaluation of
ranking policies with click models*), the same holds for all explored positions of a list together.

**The estimators.** With w = n π(a|x) for the item that was drawn, r = 1 where it was clicked and q(x, a) a model of μ:

- IPS: mean of w r (Horvitz and Thompson 1952). Unbiased, since E[w r | x] = Σ_a (1/n) n π(a|x) μ(x, a).
- SNIPS: Σ w r / Σ w (Swaminathan and Joachims 2015, *The self-normalized estimator for counterfactual learning*). A weighted mean of outcomes,
  hence in [0, 1]; biased by a term that vanishes as 1/S.
- DR: mean of Σ_a π(a|x) q(x, a) + w (r - q(x, a)) (Dudík, Langford and Li 2011, *Doubly robust policy evaluation and learning*). Unbiased
  whatever q is, since the propensities are known and q was fitted on other users (cross-fitting, Chernozhukov et al. 2018).

The effective sample size is (Σ w)² / Σ w² (Kish 1965). Intervals are bootstrap intervals over users, like all in `recsys.metrics`.

Shapes: S explored positions, C columns of the widest pool, U users, F features, B resamples.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from recsys.arrays import Bools, Ints, Scalar
from recsys.metrics import CONFIDENCE, Interval

Floats = NDArray[np.float64]
Key = TypeVar("Key", bound=Hashable)

ESTIMATORS = ("ips", "snips", "dr")
FOLDS = 5
"""Parts of the users; the outcome model of each was fitted on the others."""
SAMPLES = 1000


@dataclass(frozen=True)
class Explored:
    """S explored positions: what each was drawn from, what it showed and to whom."""

    pool: Bools
    """`[S, C]` columns that hold an item."""
    drawn: Ints
    """`[S]` column of the item that was shown."""
    positions: Ints
    """`[S]` from 1."""
    users: Ints
    """`[S]`"""

    def __len__(self) -> int:
        return len(self.drawn)

    def of_drawn(self, values: NDArray[Scalar]) -> NDArray[Scalar]:
        """Return the `values` `[S, C, …]` of the items that were shown, `[S, …]`."""
        return values[np.arange(len(self)), self.drawn]


@dataclass(frozen=True)
class Terms:
    """An estimate is the sum of the numerators over that of the denominators, both `[S]`."""

    numerators: Floats
    denominators: Floats


@dataclass(frozen=True)
class Estimate:
    """A figure, and the same figure on B resamples of the users; those of one `bootstrap` can be compared."""

    value: float
    resampled: Floats
    """`[B]`"""

    @property
    def interval(self) -> Interval:
        """The figure with its 95 % interval."""
        return _interval(self.value, self.resampled)

    def above(self, base: "Estimate") -> Interval:
        """Return by what share this one is above `base`, paired; 0.1 means 10 % above."""
        return _interval(self.value / base.value - 1, self.resampled / base.resampled - 1)


def choice(scores: NDArray[np.floating], pool: Bools, share: float) -> Floats:
    """Return the probability `[S, C]` with which the policy of `scores` `[S, C]` shows each item: even over its best `share`."""
    sizes = pool.sum(1)
    best = np.maximum(1, np.rint(share * sizes))[:, None]
    ranks = np.argsort(np.argsort(np.where(pool, -scores, np.inf), axis=1, kind="stable"), axis=1)
    return np.where(pool & (ranks < best), 1 / best, 0.0)


def weights(chosen: Floats, explored: Explored) -> Floats:
    """Return how much more likely than the even draw the policy `chosen` `[S, C]` shows what was drawn, `[S]`."""
    weight: Floats = explored.of_drawn(chosen) * explored.pool.sum(1)
    return weight


def effective_size(weight: Floats) -> float:
    """Return how many unweighted positions tell as much as those with these weights `[S]` (Kish)."""
    return float(weight.sum() ** 2 / np.maximum((weight**2).sum(), 1e-12))


def mean(values: NDArray[np.generic]) -> Terms:
    """Return the terms of the mean of `values` `[S]`: of outcomes, the value of the even draw itself."""
    return Terms(values.astype(np.float64), np.ones(len(values)))


def terms(explored: Explored, outcome: Bools, chosen: Floats, expected: Floats) -> dict[str, Terms]:
    """Return the terms of each of `ESTIMATORS` for the policy `chosen` `[S, C]`.

    `outcome` `[S]` is what came of the items that were drawn, `expected` `[S, C]` an outcome model's probability of it.
    """
    weight, ones = weights(chosen, explored), np.ones(len(explored))
    corrected = (chosen * expected).sum(1) + weight * (outcome - explored.of_drawn(expected))
    return {
        "ips": Terms(weight * outcome, ones),
        "snips": Terms(weight * outcome, weight),
        "dr": Terms(corrected, ones),
    }


def expected_outcomes(features: Floats, explored: Explored, outcome: Bools, seed: int = 0) -> Floats:
    """Return the probability `[S, C]` of the outcome for each item of the pools, by a logistic regression on the draws.

    It reads `features` `[S, C, F]` and the position, and is fitted for each fifth of the users on the others.
    """
    from sklearn.linear_model import LogisticRegression

    at = np.broadcast_to(np.log(explored.positions)[:, None, None], (*explored.pool.shape, 1))
    inputs = np.concatenate([features, at], axis=2)  # [S, C, F + 1]
    known = explored.of_drawn(inputs)
    names, owners = np.unique(explored.users, return_inverse=True)
    fold = np.random.default_rng(seed).permutation(np.arange(len(names)) % FOLDS)[owners]
    expected = np.zeros(explored.pool.shape)
    for part in range(FOLDS):
        own, others = fold == part, fold != part
        if not own.any():
            continue
        if len(np.unique(outcome[others])) < 2:
            expected[own] = outcome[others].mean() if others.any() else 0.0
            continue
        model = LogisticRegression().fit(known[others], outcome[others])
        probabilities = model.predict_proba(inputs[own].reshape(-1, inputs.shape[2]))[:, 1]
        expected[own] = probabilities.reshape(-1, inputs.shape[1])
    return expected


def bootstrap(named: Mapping[Key, Terms], users: Ints, samples: int = SAMPLES, seed: int = 0) -> dict[Key, Estimate]:
    """Return each estimate with its resamples; whole users `[S]` are drawn with replacement, the same for all estimates."""
    _, owners = np.unique(users, return_inverse=True)
    columns = [column for one in named.values() for column in (one.numerators, one.denominators)]
    sums = np.stack([np.bincount(owners, column) for column in columns], axis=1)  # [U, 2 · estimates]
    rng = np.random.default_rng(seed)
    totals = np.empty((samples, sums.shape[1]))
    for sample in range(samples):
        drawn = np.bincount(rng.integers(len(sums), size=len(sums)), minlength=len(sums))
        totals[sample] = drawn @ sums
    both = np.concatenate([sums.sum(0)[None], totals])  # the sample itself, then its resamples
    ratios = both[:, 0::2] / np.maximum(both[:, 1::2], 1e-12)
    return {name: Estimate(float(ratios[0, row]), ratios[1:, row]) for row, name in enumerate(named)}


def _interval(value: float, resampled: Floats) -> Interval:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return Interval(value, float(low), float(high))
