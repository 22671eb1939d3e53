"""Fit the ranker on requests that come after everything its features were fitted on.

In: a `Recommender` without a ranker and later `Requests`. Out: a fitted `TorchRecRanker`.

Shapes: R requests, C candidates, F dense and G categorical features.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from features.histories import EventLog, Requests, spans
from features.ranking import CATEGORICAL
from recsys.config import Config
from recsys.events import EVENT_TYPES, PURCHASE
from recsys.metrics import list_ranks, ndcg
from recsys.ranker import TorchRecRanker, value
from serving.recommender import BLOCK, Recommender

HOLDOUT_SHARE = 0.2
"""Latest share of the requests on which the number of epochs is chosen."""

PATIENCE = 3
CALIBRATION_WEIGHT = 10.0
"""Weight of the pointwise loss beside the listwise one; it alone sets the level of probabilities."""


@dataclass(frozen=True)
class RankingData:
    """Candidates of R requests with what became of them."""

    candidates: Tensor
    """`[R, C]`, -1 padded."""
    dense: Tensor
    """`[R, C, F]`"""
    categorical: Tensor
    """`[R, C, G]`"""
    labels: Tensor
    """`[R, C, 2]` 1 where the item was a target (click head) or was bought (purchase head)."""
    price: Tensor
    """`[R, C]`"""

    def __len__(self) -> int:
        return len(self.candidates)

    def rows(self, rows: Tensor | slice) -> "RankingData":
        """Return some requests."""
        return RankingData(
            self.candidates[rows], self.dense[rows], self.categorical[rows], self.labels[rows], self.price[rows]
        )


def ranking_data(
    recommender: Recommender, log: EventLog, requests: Requests, on_block: Callable[[int], None] = lambda done: None
) -> RankingData:
    """Retrieve and describe the candidates of `requests`, exactly as serving would.

    A target that no source retrieves is left out: forcing it in would tell the ranker that an item
    without scores is a sure hit.
    """
    blocks: list[tuple[Tensor, ...]] = []
    length = recommender.config.interest.max_history
    for start in range(0, len(requests), BLOCK):
        part = requests.select(np.arange(start, min(start + BLOCK, len(requests))))
        batch = recommender.batch(log.histories(part.users, part.times, length))
        candidates, scores = recommender.candidates(batch, k=1)
        dense, categorical = recommender.inputs(batch, candidates, scores)
        labels = _labels(candidates, part)
        price = recommender.price[candidates]
        blocks.append(tuple(torch.from_numpy(array) for array in (candidates, dense, categorical, labels, price)))
        on_block(len(part))
    width = max(block[0].shape[1] for block in blocks)
    columns = zip(*blocks, strict=True)
    fill = (-1, 0, 0, 0, 0)
    padded = [
        torch.cat([_pad_candidates(tensor, width, value) for tensor in column])
        for column, value in zip(columns, fill, strict=True)
    ]
    return RankingData(*padded)


def fit_ranker(
    data: RankingData, recommender: Recommender, seed: int, on_epoch: Callable[[float], None] = lambda metric: None
) -> TorchRecRanker:
    """Choose the number of epochs on the latest requests, then fit on all of them."""
    held = max(1, int(len(data) * HOLDOUT_SHARE))
    early, late = data.rows(slice(0, len(data) - held)), data.rows(slice(len(data) - held, None))
    config = recommender.config
    best, best_epoch = -1.0, 1
    ranker = _new_ranker(early, recommender, seed)
    for epoch, _ in enumerate(_epochs(ranker, early, config, config.ranker.epochs, seed), start=1):
        metric = ranking_ndcg(ranker, late, config)
        on_epoch(metric)
        if metric > best:
            best, best_epoch = metric, epoch
        if epoch - best_epoch >= PATIENCE:
            break
    ranker = _new_ranker(data, recommender, seed)
    for _ in _epochs(ranker, data, config, best_epoch, seed):
        on_epoch(best)
    return ranker.eval()


def ranking_ndcg(ranker: TorchRecRanker, data: RankingData, config: Config) -> float:
    """Return ndcg@10 of the value order among the candidates, over requests that have a target."""
    ranker.eval()
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


def _labels(candidates: np.ndarray, requests: Requests) -> np.ndarray:
    labels = np.zeros((*candidates.shape, 2), np.float32)
    counts = np.diff(requests.offsets)
    owners = np.repeat(np.arange(len(requests)), counts)
    places = spans(requests.offsets[:-1], counts)
    hit = candidates[owners] == requests.targets[places][:, None]
    target, column = np.nonzero(hit)
    labels[owners[target], column, 0] = 1
    bought = requests.types[places][target] == PURCHASE
    labels[owners[target[bought]], column[bought], 1] = 1
    return labels


def _pad_candidates(tensor: Tensor, width: int, fill: float) -> Tensor:
    short = width - tensor.shape[1]
    if not short:
        return tensor
    return torch.cat([tensor, tensor.new_full((len(tensor), short, *tensor.shape[2:]), fill)], 1)
