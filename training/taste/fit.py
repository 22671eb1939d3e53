"""Fit the taste model on requests: the click against what was shown beside it, and against random items.

In: `TasteData`, plain arrays. Out: a fitted `TasteModel`. Plain PyTorch, so that it runs alone on any machine.

Shapes: N catalogue, P pairs of request and target, L history positions, W impressions of a request, B pairs of a step,
S drawn items, U items of a step.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.arrays import Bools, Floats, Ints
from recsys.config import TasteConfig
from recsys.models.taste import SegmentVectors, TasteModel, same_category
from training.interest.objective import softmax_loss, weighted_mean
from training.schedule import falling_rate

MOST_STEPS = 1500
"""Steps of a fit; more requests than these can see are drawn from."""

HIDDEN_SHARE = 0.1
"""Share of items that look new in a step: what new items are worth is learned from all, not from those left all the time."""

NUMBERS_RATE = 10
"""Learning rate of single numbers and biases, as a multiple of that of matrices: they have a long way to go."""


@dataclass(frozen=True)
class TasteData:
    """Arrays of one fit."""

    texts: SegmentVectors
    """The segments of every item."""
    category: Ints
    """`[N]` code from 1; 0 where unknown."""
    counts: Ints
    """`[N]` events of each item."""
    drawn: Ints
    """Items that negatives are drawn from: those that could be chosen."""
    past: NDArray[np.int32]
    """`[P, L]` history of each pair, padded with -1 on the left."""
    targets: NDArray[np.int32]
    """`[P]`"""
    weights: Floats
    """`[P]` event weights."""
    impressions: NDArray[np.int32]
    """`[P, W]` items shown with the target and not acted on; -1 pads."""


def fit_taste(
    data: TasteData,
    config: TasteConfig,
    seed: int,
    on_step: Callable[[int, int], None] = lambda done, of: None,
    start: dict[str, Tensor] | None = None,
) -> TasteModel:
    """Return the model fitted on `data`, from the weights `start` where given; `on_step` is called with the steps done and all."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = TasteModel(data.texts.vectors.shape[1], config.width)
    if start:
        model.load_state_dict(start)
    else:
        model.start_from(torch.from_numpy(data.texts.vectors))
    steps = min(MOST_STEPS, config.epochs * -(-len(data.targets) // config.batch))
    optimizer = _optimizer(model, config)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: falling_rate(step, max(1, steps)))
    order: Ints = np.empty(0, np.int64)
    for step in range(steps if len(data.targets) else 0):
        if len(order) < config.batch:
            order = np.concatenate([order, rng.permutation(len(data.targets))])
        batch, order = order[: config.batch], order[config.batch :]
        drawn = rng.choice(data.drawn, min(config.negatives, len(data.drawn)), replace=False)
        loss = _loss(model, data, batch, drawn, known=rng.random(len(data.counts)) >= HIDDEN_SHARE)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        on_step(step + 1, steps)
    return model.eval()


def _optimizer(model: TasteModel, config: TasteConfig) -> torch.optim.Optimizer:
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "lr": NUMBERS_RATE * config.learning_rate},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=0.0)


def _loss(model: TasteModel, data: TasteData, batch: Ints, drawn: Ints, known: Bools) -> Tensor:
    """Return the softmax loss of the pairs `batch` `[B]` against `drawn` items, plus that against impressions.

    Items that are not `known` `[N]` look new.
    """
    past, targets = data.past[batch], data.targets[batch].astype(np.int64)
    shown = data.impressions[batch]
    items = np.unique(np.concatenate([past[past >= 0], targets, drawn, shown[shown >= 0]]))
    vectors = model.item_vectors(data.texts, items)  # [U, A]
    past_category = np.where(past >= 0, data.category[past], 0)
    events = torch.from_numpy(np.searchsorted(items, np.maximum(past, items[0])))  # [B, L]
    weights = model.event_weights(torch.from_numpy(past >= 0))

    def scores(candidates: Ints) -> Tensor:
        """Score `candidates`, `[S]` for all pairs alike or `[B, C]`.

        One event of every item is left out of its count: of a target it is the pair's own, and if only targets lost
        theirs, an item with few events would seem to be one.
        """
        columns = vectors[torch.from_numpy(np.searchsorted(items, candidates))]
        similarity = columns @ vectors[events].transpose(1, 2)  # [B, C, L]
        same = torch.from_numpy(same_category(past_category, data.category[candidates]))
        counts = torch.from_numpy(np.maximum(data.counts[candidates] - 1, 0)).float()
        bias = model.bias(counts, torch.from_numpy(known[candidates]))
        return model.relevance(similarity, same, weights, bias)

    target = scores(targets[:, None])  # [B, 1]
    random = scores(drawn).masked_fill(torch.from_numpy(drawn == targets[:, None]), float("-inf"))
    importance = torch.from_numpy(data.weights[batch])
    loss = weighted_mean(softmax_loss(target, random), importance)
    if shown.shape[1]:
        beside = scores(np.maximum(shown, items[0]).astype(np.int64)).masked_fill(
            torch.from_numpy(shown < 0), float("-inf")
        )
        loss = loss + weighted_mean(softmax_loss(target, beside), importance)
    return loss
