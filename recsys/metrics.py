"""Metrics of rankings with their intervals, of probabilities, and of lists.

In: the ranks of each request's targets, as jagged arrays. Out: a value per request `[R]`, or an
`Interval` over users.

Shapes: R requests, T targets (those of request r are `offsets[r]:offsets[r + 1]`), K list length, N
catalogue, D width. Ranks count from 1; a miss has rank `inf`; tied items share their mean rank.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        """Return the three numbers by name."""
        return {"value": self.value, "low": self.low, "high": self.high}


def hit_rate(ranks: Floats, offsets: Ints, k: int) -> Floats:
    """Return 1 where any target is among the first k, else 0, `[R]`."""
    return (_per_request(ranks <= k, offsets) > 0).astype(np.float64)


def recall(ranks: Floats, offsets: Ints, k: int) -> Floats:
    """Return the share of targets among the first k, `[R]`."""
    return _per_request(ranks <= k, offsets) / np.diff(offsets)


def ndcg(ranks: Floats, offsets: Ints, k: int) -> Floats:
    """Return the discounted cumulative gain over that of the best order, with binary gains, `[R]` (Järvelin 2002)."""
    gains = np.where(ranks <= k, 1 / np.log2(1 + ranks), 0.0)
    best = np.cumsum(1 / np.log2(np.arange(2, k + 2)))
    return _per_request(gains, offsets) / best[np.minimum(np.diff(offsets), k) - 1]


def reciprocal_rank(ranks: Floats, offsets: Ints) -> Floats:
    """Return 1 / rank of the best target, 0 where all are missed, `[R]`."""
    _refuse_empty(offsets)
    first: Floats = 1 / np.minimum.reduceat(ranks, offsets[:-1]) if len(offsets) > 1 else np.empty(0)
    return first


def average_precision(ranks: Floats, offsets: Ints) -> Floats:
    """Return the mean over targets of the precision at their rank, 0 for missed ones, `[R]`."""
    owners = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    order = np.lexsort((ranks, owners))
    hits = np.arange(1, len(ranks) + 1) - offsets[:-1][owners]  # targets up to this one
    return _per_request(hits / ranks[order], offsets) / np.diff(offsets)


def target_ranks(scores: NDArray[np.float32], targets: NDArray[np.integer], offsets: Ints) -> Floats:
    """Return the rank `[T]` of each target under `scores` `[R, N]`; tied items share their mean rank.

    Raises:
        ValueError: a score is NaN.
    """
    if np.isnan(scores).any():
        raise ValueError("scores contain NaN")
    ranks = np.empty(len(targets))
    for row in range(len(offsets) - 1):
        own = scores[row, targets[offsets[row] : offsets[row + 1]], None]  # [t, 1]
        above, tied = (scores[row] > own).sum(1), (scores[row] == own).sum(1)
        ranks[offsets[row] : offsets[row + 1]] = 1 + above + (tied - 1) / 2
    return ranks


def list_ranks(lists: NDArray[np.integer], targets: NDArray[np.integer], offsets: Ints) -> Floats:
    """Return the position `[T]`, from 1, of each target in its request's list `[R, K]` (-1 padded), `inf` if absent."""
    owners = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    hits = lists[owners] == np.asarray(targets)[:, None]  # [T, K]
    return np.where(hits.any(1), hits.argmax(1) + 1.0, np.inf) if lists.shape[1] else np.full(len(targets), np.inf)


def bootstrap_interval(
    values: Floats, groups: Ints, samples: int = 1000, seed: int = 0, confidence: float = CONFIDENCE
) -> Interval:
    """Return the mean of `values` `[R]` with its interval over groups (users), drawn with replacement.

    Requests of a user are not independent, so whole users are drawn (cluster bootstrap).

    Raises:
        ValueError: there are no values.
    """
    return _between(float(values.mean()), _drawn_means(values, groups, samples, seed), confidence)


def _drawn_means(values: Floats, groups: Ints, samples: int, seed: int) -> NDArray[np.float64]:
    """Return the means of `values` `[R]` in `samples` draws of whole groups, with replacement."""
    if not len(values):
        raise ValueError("no requests to average over")
    _, owners = np.unique(groups, return_inverse=True)
    sums, counts = np.bincount(owners, values), np.bincount(owners)
    rng = np.random.default_rng(seed)
    means = np.empty(samples)
    for sample in range(samples):
        drawn = np.bincount(rng.integers(len(sums), size=len(sums)), minlength=len(sums))
        means[sample] = (drawn @ sums) / (drawn @ counts)
    return means


def _between(value: float, draws: NDArray[np.float64], confidence: float) -> Interval:
    tail = (1 - confidence) / 2
    return Interval(value, float(np.quantile(draws, tail)), float(np.quantile(draws, 1 - tail)))


def paired_difference(ours: Floats, theirs: Floats, groups: Ints) -> Interval:
    """Return the mean of `ours - theirs` `[R]` on the same requests, with its interval over users."""
    return bootstrap_interval(ours - theirs, groups)


def unpaired_difference(
    ours: Floats, our_groups: Ints, theirs: Floats, their_groups: Ints, samples: int, confidence: float
) -> Interval:
    """Return the mean of `ours` `[R]` above that of `theirs` `[S]`, on other requests, with its interval over both groups of users."""
    mine, other = _drawn_means(ours, our_groups, samples, 0), _drawn_means(theirs, their_groups, samples, 1)
    return _between(float(ours.mean() - theirs.mean()), mine - other, confidence)


def auc(scores: NDArray[np.floating], labels: NDArray[np.floating]) -> float:
    """Return the probability that a positive scores above a negative, ties counting half; NaN without both."""
    from sklearn.metrics import roc_auc_score

    positive = labels > 0
    return float(roc_auc_score(positive, scores)) if 0 < positive.sum() < len(positive) else float("nan")


def logloss(probabilities: NDArray[np.floating], labels: NDArray[np.floating]) -> float:
    """Return the mean negative log likelihood of `labels` under `probabilities`, in nats."""
    from sklearn.metrics import log_loss

    return float(log_loss(labels > 0, probabilities.astype(np.float64), labels=[False, True]))


def calibration_error(probabilities: NDArray[np.floating], labels: NDArray[np.floating], bins: int = 10) -> float:
    """Return the mean gap between predicted and observed rate over bins of equal size (ECE)."""
    order = np.argsort(probabilities, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    gaps = [abs(float(probabilities[part].mean()) - float(labels[part].mean())) * len(part) for part in parts]
    return sum(gaps) / len(order)


def impression_metrics(scores: NDArray[np.floating], labels: NDArray[np.bool_], offsets: Ints) -> dict[str, Floats]:
    """Return MIND's metrics `[R]` of lists that were shown to users: auc, mrr, ndcg@5, ndcg@10 (Wu et al. 2020).

    `scores` and `labels` have an entry per impression, jagged by `offsets`. MIND's mrr averages 1 / rank
    over a list's positives.
    """
    values: dict[str, list[float]] = {"auc": [], "mrr": [], "ndcg@5": [], "ndcg@10": []}
    for start, stop in pairwise(offsets):
        own, truth = scores[start:stop], labels[start:stop]
        ranks = target_ranks(own[None, :].astype(np.float32), np.flatnonzero(truth), np.array([0, truth.sum()]))
        one = np.array([0, len(ranks)])
        values["auc"].append(_auc_of_ranks(ranks, len(own)))
        values["mrr"].append(float((1 / ranks).mean()))
        values["ndcg@5"].append(float(ndcg(ranks, one, 5)[0]))
        values["ndcg@10"].append(float(ndcg(ranks, one, 10)[0]))
    return {name: np.array(column) for name, column in values.items()}


def _auc_of_ranks(ranks: Floats, length: int) -> float:
    """Return `auc` of a list of `length` whose positives have `ranks`.

    scikit-learn checks its input for 2 ms a call, some eighty times the work itself on a short list.
    """
    positives, negatives = len(ranks), length - len(ranks)
    if not positives or not negatives:
        return float("nan")
    above = ranks.sum() - positives * (positives + 1) / 2  # pairs in which the negative is first
    return float(1 - above / (positives * negatives))


def coverage(lists: Ints, count: int) -> float:
    """Return the share of the catalogue's `count` items that are in any list `[R, K]`."""
    return len(np.unique(lists[lists >= 0])) / count


def novelty(lists: Ints, counts: Ints) -> Floats:
    """Return the mean surprise of each list's items `[R]`, -log2 of their smoothed share of events, in bits."""
    surprise = -np.log2((counts + 1) / (counts + 1).sum())
    return _list_mean(surprise[lists], lists)


def intra_list_diversity(lists: Ints, vectors: NDArray[np.float32]) -> Floats:
    """Return 1 - the mean cosine of each list's pairs `[R]`; `vectors` `[N, D]` are unit vectors."""
    present = (lists >= 0).astype(np.float32)
    count = present.sum(1)
    total = np.einsum("rkd,rk->rd", vectors[lists], present, optimize=True)
    pairs = np.maximum(count * (count - 1), 1)
    return np.where(count > 1, 1 - ((total**2).sum(1) - count) / pairs, 0.0).astype(np.float64)


def popularity_share(lists: Ints, counts: Ints, head: float = 0.1) -> Floats:
    """Return the share of each list `[R]` that is among the most popular `head` (a share) of the catalogue."""
    size = max(1, int(len(counts) * head))
    is_head = np.zeros(len(counts))
    is_head[np.argsort(-counts, kind="stable")[:size]] = 1
    return _list_mean(is_head[lists], lists)


def _list_mean(values: Floats, lists: Ints) -> Floats:
    present = lists >= 0
    mean: Floats = np.where(present, values, 0).sum(1) / np.maximum(present.sum(1), 1)
    return mean


def _per_request(values: NDArray[np.generic], offsets: Ints) -> Floats:
    _refuse_empty(offsets)
    if len(offsets) == 1:
        return np.empty(0)
    sums: Floats = np.add.reduceat(values.astype(np.float64), offsets[:-1])
    return sums


def _refuse_empty(offsets: Ints) -> None:
    if (np.diff(offsets) <= 0).any():
        raise ValueError("a request without targets has no metric; leave it out")
