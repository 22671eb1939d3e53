"""Fit a network on the text encoder: epochs with validation, of which the best is kept. Plain PyTorch.

In: a network with an `encoder`, a loss of some rows, and a figure on `valid`. Out: the epochs; the network has the weights of the best one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recsys.arrays import Ints
from recsys.config import Config, TextConfig
from recsys.models.encoder import TextEncoder, autocast, load_encoder
from recsys.progress import Update
from training.text.lora import add_adapters

WARMUP_SHARE = 0.1
"""Of the steps, in which the learning rate rises to its peak."""
LEAST_STEPS = 30
"""Of an epoch: where texts are few, batches are smaller."""


@dataclass(frozen=True)
class Epoch:
    """A pass over the texts."""

    loss: float
    """Mean over its steps."""
    valid: float
    """The figure that epochs are chosen by."""


def load_trainable(config: Config) -> tuple[TextEncoder, Any]:
    """Return the encoder of `config`, of which the top layers or adapters in them are trained, and its tokenizer.

    Raises:
        RecsysError: its weights cannot be loaded, or peft is needed and not there.
    """
    frozen, tokenizer = load_encoder(config.encoder.model_copy(update={"trainable_layers": 0}))
    encoder = TextEncoder(frozen.model, config.text.trainable_layers)
    encoder.start_tuning()
    if config.text.lora_rank and encoder.trainable:
        add_adapters(encoder, config.text.lora_rank)
    return encoder, tokenizer


def fit(
    network: nn.Module,
    loss_of: Callable[[Ints], Tensor],
    valid_of: Callable[[], float],
    lengths: Ints,
    config: TextConfig,
    *,
    seed: int,
    precision: str,
    before: float | None = None,
    update: Update = lambda share, note: None,
) -> list[Epoch]:
    """Train `network` in batches of rows of similar `lengths` `[N]`, until `valid_of` gains no more, and keep its best epoch.

    `loss_of` gives the loss of some rows, `valid_of` a figure that is the better the higher. Weights that were good already have the figure
    `before`, and are kept where no epoch has a better one.
    """
    rng, device = np.random.default_rng(seed), next(network.parameters()).device
    optimizer = _optimizer(network, config)
    size = min(config.batch, max(1, len(lengths) // LEAST_STEPS))
    steps = config.epochs * -(-len(lengths) // size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    epochs: list[Epoch] = []
    best = {name: value.detach().clone() for name, value in network.state_dict().items()}
    while len(epochs) < config.epochs and _since_best(epochs) < config.patience:
        network.train()
        losses = []
        for rows in _batches(lengths, size, rng):
            with autocast(device, precision):
                loss = loss_of(rows)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        network.eval()
        epochs.append(Epoch(float(np.mean(losses)), valid_of()))
        if _since_best(epochs) == 0 and (before is None or epochs[-1].valid > before):
            best = {name: value.detach().clone() for name, value in network.state_dict().items()}
        update(len(epochs) / config.epochs, f"epoch {len(epochs)}, best {max(epoch.valid for epoch in epochs):.4f}")
    network.load_state_dict(best)
    return epochs


def _optimizer(network: nn.Module, config: TextConfig) -> torch.optim.Optimizer:
    """Return AdamW with the rates of encoder and head, and no decay of biases and norms."""
    groups = []
    for part, rate in ((True, config.learning_rate), (False, config.head_learning_rate)):
        own = [
            value
            for name, value in network.named_parameters()
            if value.requires_grad and name.startswith("encoder.") == part
        ]
        groups += [
            {"params": [value for value in own if value.ndim > 1], "lr": rate, "weight_decay": config.weight_decay},
            {"params": [value for value in own if value.ndim < 2], "lr": rate, "weight_decay": 0.0},
        ]
    return torch.optim.AdamW([group for group in groups if group["params"]], fused=True)


def _rate(step: int, steps: int) -> float:
    """Return the share of the peak rate: it rises, then falls to nothing (Devlin et al. 2019, appendix A.2)."""
    warmup = max(1, round(WARMUP_SHARE * steps))
    return min((step + 1) / warmup, max(0.0, (steps - step) / max(1, steps - warmup)))


def _batches(lengths: Ints, size: int, rng: np.random.Generator) -> list[Ints]:
    """Return all rows in batches of similar length, so that little is padded, in random order."""
    jittered = lengths * rng.uniform(0.8, 1.25, len(lengths))
    order = np.argsort(jittered, kind="stable")
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    return [batches[index] for index in rng.permutation(len(batches))]


def _since_best(epochs: list[Epoch]) -> int:
    """Return how many epochs came after the best one."""
    figures = [epoch.valid for epoch in epochs]
    return len(figures) - 1 - figures.index(max(figures)) if figures else 0
