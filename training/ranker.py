"""Fit the ranker on requests that come after everything its features were fitted on.

In: a `Recommender` without a ranker and later `Requests`. Out: a fitted `Ranker`.

Shapes: R requests, C candidates, F dense and G categorical features.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from features.ranking import CATEGORICAL
from recsys.config import Config
from recsys.events import EVENT_TYPES
from recsys.metrics import list_ranks, ndcg
from recsys.rankers import BlendRanker, Ranker, TorchRecRanker, value
from serving.recommender import Recommender
from training.ranker_trees import fit_trees
from training.ranking_data import RankingData

HOLDOUT_SHARE = 0.2
"""Latest share of the requests on which the number of epochs is chosen."""

PATIENCE = 3
CALIBRATION_WEIGHT = 10.0
"""Weight of the pointwise loss beside the listwise one; it alone sets the level of probabilities."""


def fit_ranker(
    data: RankingData, recommender: Recommender, seed: int, on_epoch: Callable[[float], None] = lambda metric: None
) -> Ranker:
    """Fit the kind of ranker that the configuration names; its length is chosen on the latest requests."""
    held = max(1, int(len(data) * HOLDOUT_SHARE))
    early, late = data.rows(slice(0, len(data) - held)), data.rows(slice(len(data) - held, None))
    config = recommender.config.ranker
    if config.kind == "lightgbm":
        return fit_trees(early, late, config, seed)
    neural = fit_neural(data, early, late, recommender, seed, on_epoch)
    return neural if config.kind == "torchrec" else BlendRanker(neural, fit_trees(early, late, config, seed))


def fit_neural(
    data: RankingData,
    early: RankingData,
    late: RankingData,
    recommender: Recommender,
    seed: int,
    on_epoch: Callable[[float], None],
) -> TorchRecRanker:
    """Choose the number of epochs on `late`, then fit on all of `data`."""
    config = recommender.config
    best, best_epoch = -1.0, 1
    ranker = _new_ranker(early, recommender, seed)
    for epoch, _ in enumerate(_epochs(ranker, early, config, config.ranker.epochs, seed), start=1):
        metric = ranking_ndcg(ranker.eval(), late, config)
        on_epoch(metric)
        if metric > best:
            best, best_epoch = metric, epoch
        if epoch - best_epoch >= PATIENCE:
            break
    ranker = _new_ranker(data, recommender, seed)
    for _ in _epochs(ranker, data, config, best_epoch, seed):
        on_epoch(best)
    return ranker.eval()


def ranking_ndcg(ranker: Ranker, data: RankingData, config: Config) -> float:
    """Return ndcg@10 of the value order among the candidates, over requests that have a target."""
    relevant = (data.labels[..., 0] > 0).numpy()
    has = relevant.any(1)
    if not has.any():
        return 0.0
    chances = ranker.probabilities(data.dense, data.categorical)
    worth = value(chances, data.price, config.value).masked_fill(data.candidates < 0, float("-inf"))
    order = torch.argsort(worth, dim=1, descending=True, stable=True).numpy()[has]
    counts = relevant[has].sum(1)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    targets = np.nonzero(relevant[has])[1]
    return float(ndcg(list_ranks(order, targets, offsets), offsets, 10).mean())


def _new_ranker(data: RankingData, recommender: Recommender, seed: int) -> TorchRecRanker:
    torch.manual_seed(seed)
    facts = recommender.features.facts
    sizes = (int(facts.brand.max(initial=0)) + 1, int(facts.category.max(initial=0)) + 1, len(EVENT_TYPES) + 1)
    ranker = TorchRecRanker(
        recommender.config.ranker, recommender.features.names, dict(zip(CATEGORICAL, sizes, strict=True))
    )
    present = data.candidates >= 0
    ranker.start_from(data.dense[present], data.labels[present])
    return ranker


def _epochs(ranker: TorchRecRanker, data: RankingData, config: Config, epochs: int, seed: int) -> Iterator[None]:
    """Train epoch by epoch, yielding after each; rates fall with the configured epochs."""
    optimizer = torch.optim.AdamW(
        ranker.parameters(), lr=config.ranker.learning_rate, weight_decay=config.ranker.weight_decay
    )
    steps = max(1, len(data) // config.ranker.batch_requests) * config.ranker.epochs
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.05, 1 - step / steps))
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        ranker.train()
        for rows in torch.randperm(len(data), generator=generator).split(config.ranker.batch_requests):
            loss = ranking_loss(ranker, data.rows(rows))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        yield


def ranking_loss(ranker: TorchRecRanker, data: RankingData) -> Tensor:
    """Listwise softmax plus pointwise logistic loss on the same logits (JRC; Sheng et al. 2023)."""
    present = (data.candidates >= 0).unsqueeze(-1)
    logits = ranker(data.dense, data.categorical)  # [R, C, 2]
    pointwise = F.binary_cross_entropy_with_logits(logits, data.labels, reduction="none")
    pointwise = (pointwise * present).sum() / present.sum()
    share = F.log_softmax(logits.masked_fill(~present, float("-inf")), dim=1)
    positives = data.labels.sum(1)  # [R, 2]
    listwise = -(share.masked_fill(~present, 0.0) * data.labels).sum(1) / positives.clamp(min=1)
    listwise = (listwise.sum(0) / (positives > 0).sum(0).clamp(min=1)).sum()
    return listwise + CALIBRATION_WEIGHT * pointwise
