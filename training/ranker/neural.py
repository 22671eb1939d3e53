"""Fit the neural ranker on requests that come after everything its features were fitted on.

In: `RankingData`, and the `Retriever` that described it. Out: a fitted `TorchRecRanker`.

Shapes: R requests, C candidates, F dense and G categorical features.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from recsys.arrays import Floats
from recsys.config import RankerConfig
from recsys.events import EVENT_TYPES
from recsys.models.rankers import TorchRecRanker
from serving.retrieval.retriever import BLOCK, Retriever
from training.ranker.data import RankingData
from training.ranker.linear import listwise_loss

CALIBRATION_WEIGHT = 10.0
"""Weight of the pointwise loss relative to the listwise one; it alone sets the level of probabilities."""


def fit_network(
    data: RankingData, retriever: Retriever, seed: int, on_epoch: Callable[[int], None] = lambda epoch: None
) -> TorchRecRanker:
    """Fit the network on `data`, which `retriever` described; `on_epoch` gets the number of each pass after it."""
    config = retriever.config.ranker
    ranker = _new_network(data, retriever, seed)
    for epoch in _fit_epochs(ranker, data, config, seed):
        on_epoch(epoch)
    return ranker.eval()


def epochs_of(requests: int, config: RankerConfig) -> int:
    """Return the number of passes over so many requests: a few hundred are too few to choose it by."""
    return max(config.epochs, math.ceil(config.min_steps / math.ceil(requests / config.batch_requests)))


def network_scores(network: TorchRecRanker, data: RankingData) -> Floats:
    """Return the log odds `[R, C, 2]` of the candidates of `data`."""
    blocks = [data.rows(slice(start, start + BLOCK)) for start in range(0, len(data), BLOCK)]
    return np.concatenate([network.log_odds(block.dense, block.categorical) for block in blocks])


def _new_network(data: RankingData, retriever: Retriever, seed: int) -> TorchRecRanker:
    torch.manual_seed(seed)
    features = retriever.features
    codes = {
        "brand": features.facts.brand.max(initial=0),
        "category": features.facts.category.max(initial=0),
        "last_type": len(EVENT_TYPES),
        **{name: len(column.texts or ()) for name, column in features.context.texts.items()},
    }
    sizes = {name: int(codes[name]) + 1 for name in features.codes}
    ranker = TorchRecRanker(retriever.config.ranker, features.names, sizes)
    ranker.start_from(torch.from_numpy(data.dense[data.present]), torch.from_numpy(data.labels[data.present]))
    return ranker


def _fit_epochs(ranker: TorchRecRanker, data: RankingData, config: RankerConfig, seed: int) -> Iterator[int]:
    """Train, yielding the number of each pass after it; the rate falls to a twentieth at the end."""
    epochs = epochs_of(len(data), config)
    optimizer = torch.optim.AdamW(ranker.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    steps = math.ceil(len(data) / config.batch_requests) * epochs
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.05, 1 - step / steps))
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(1, epochs + 1):
        ranker.train()
        for rows in torch.randperm(len(data), generator=generator).split(config.batch_requests):
            loss = ranking_loss(ranker, data.rows(rows.numpy()))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        yield epoch


def ranking_loss(ranker: TorchRecRanker, data: RankingData) -> Tensor:
    """Listwise softmax plus pointwise logistic loss on the same logits (JRC; Sheng et al. 2023)."""
    present, labels = torch.from_numpy(data.present).unsqueeze(-1), torch.from_numpy(data.labels)
    logits = ranker(torch.from_numpy(data.dense), torch.from_numpy(data.categorical))  # [R, C, 2]
    pointwise = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    pointwise = (pointwise * present).sum() / present.sum()
    positives = labels.sum(1)  # [R, 2]
    listwise = listwise_loss(logits, labels, present)
    listwise = (listwise.sum(0) / (positives > 0).sum(0).clamp(min=1)).sum()
    return listwise + CALIBRATION_WEIGHT * pointwise
