"""What the trees of a data set learn from: chosen by requests that have not been learned from.

In: `RankingData`. Out: a `Lesson` for each head.

No lesson is best everywhere. A linear ranker is right where requests are few, and far off where tastes are not plain. A student
of several teachers is steadier than LambdaRank where requests are few, and loses a part of what it knows where they are many.

Shapes: R requests, C candidates.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.arrays import Bools, Floats, Ints, offsets_of
from recsys.config import RankerConfig
from recsys.metrics import ndcg
from recsys.models.interest import HEADS
from training.ranker.data import RankingData
from training.ranker.linear import linear_scores
from training.ranker.trees import Rows, lambdarank, mixed, student

FOLDS = 3
MOST_REQUESTS = 3000
"""The latest requests with a positive, on which the choice is made."""


@dataclass(frozen=True)
class Lesson:
    """What the trees of a head learn from."""

    linear: bool
    """Whether the linear ranker is among the teachers."""
    direct: bool
    """Whether LambdaRank itself serves, without others."""

    def __str__(self) -> str:
        """Say it as a training does."""
        if self.direct:
            return "LambdaRank itself"
        others = ", the network and a linear ranker" if self.linear else " and the network"
        return f"trees that learn from LambdaRank{others}"


def choose_lessons(data: RankingData, config: RankerConfig, seed: int) -> list[Lesson]:
    """Return the lesson of each head; the requests `data` are ranked by what has learned from others of them.

    The linear ranker is kept where its share raises ndcg@10. LambdaRank itself serves where it is above its student by more than a standard error.
    A head without two positives for each fold has a student of the other teachers; one without any needs none.
    """
    lessons = [_lesson(data, 0, config, seed)]
    for head in range(1, len(HEADS)):
        same = np.array_equal(data.labels[:, :, head], data.labels[:, :, 0])
        lessons.append(lessons[0] if same else _lesson(data, head, config, seed))
    return lessons


def _lesson(data: RankingData, head: int, config: RankerConfig, seed: int) -> Lesson:
    told = np.flatnonzero(data.labels[:, :, head].any(1))[-MOST_REQUESTS:]
    if len(told) < 2 * FOLDS:
        return Lesson(linear=False, direct=not len(told))
    data = data.rows(told)
    folds = np.array_split(np.arange(len(data)), FOLDS)
    direct, linear, plain, mixture = np.concatenate([_figures(data, held, head, config, seed) for held in folds], 1)
    with_linear = bool((linear - direct).mean() > 0)
    lost = direct - (mixture if with_linear else plain)
    return Lesson(with_linear, bool(lost.mean() > lost.std() / np.sqrt(len(lost))))


def _figures(data: RankingData, held: Ints, head: int, config: RankerConfig, seed: int) -> NDArray[np.float64]:
    """Return ndcg@10 of the requests `held` `[4, R]`; what orders them has learned from the others.

    By LambdaRank, by its sum with the linear ranker, and by students of both.
    """
    taught, asked = np.setdiff1d(np.arange(len(data)), held), data.rows(held)
    rows, inputs = Rows.of(data.rows(taught)), Rows.of(asked).inputs
    trees, linear = lambdarank(rows.dataset(head), config, seed), linear_scores(data, head, taught)
    known, direct = trees.predict(rows.inputs), trees.predict(inputs)
    mixture = mixed(known, [linear[taught][data.present[taught]]])
    orders = (
        direct,
        mixed(direct, [linear[held][asked.present]]),
        student(rows, known, config, seed).predict(inputs),
        student(rows, mixture, config, seed).predict(inputs),
    )
    labels = asked.labels[:, :, head]
    return np.stack([ndcg_of(_of_requests(order, asked.present), labels) for order in orders])


def _of_requests(scores: NDArray[np.float64], present: Bools) -> NDArray[np.float64]:
    """Return the scores `[n]` of present candidates as `[R, C]`, -inf where padded."""
    full = np.full(present.shape, -np.inf)
    full[present] = scores
    return full


def ndcg_of(scores: NDArray[np.float64], labels: Floats) -> NDArray[np.float64]:
    """Return ndcg@10 `[R]` of candidates in the order of `scores` `[R, C]`; every request has one of `labels` `[R, C]` at 1."""
    ranks = np.empty(scores.shape)
    np.put_along_axis(ranks, np.argsort(-scores, axis=1, kind="stable"), np.arange(1.0, scores.shape[1] + 1)[None], 1)
    return np.asarray(ndcg(ranks[labels > 0], offsets_of((labels > 0).sum(1)), 10), np.float64)
