"""Fit the interest model: epochs, validation, checkpoints. Plain PyTorch.

In: `InterestData` and the configuration. Out: a fitted `InterestModel` and its validation ndcg@10.
Ray Train runs this class in each of its workers (`training.interest.ray_fit`).
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from recsys.config import Config
from recsys.metrics import ndcg, target_ranks
from recsys.models.encoder import FrozenPrefix, load_encoder, resolve_precision
from recsys.models.id_table import TorchRecIdTable
from recsys.models.interest import InterestModel
from training.interest.data import InterestData
from training.interest.objective import Batch, InterestObjective

WARMUP_STEPS = 20
SCALAR_LEARNING_RATE = 1e-2


class InterestTrainer:
    """One worker's model, optimiser and data."""

    def __init__(
        self,
        data: InterestData,
        config: Config,
        device: torch.device,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        wrap: Callable[[nn.Module], nn.Module] = lambda module: module,
        encoder_from: Path | None = None,
    ) -> None:
        """`wrap` makes the objective data-parallel (DDP) where there are several workers.

        With `encoder_from`, a checkpoint's folder, the text encoder is that one's and stays as it is.
        """
        torch.manual_seed(seed)
        self.data, self.config, self.device = data, config, device
        self.seed, self.rank, self.world_size = seed, rank, world_size
        frequencies = data.frequencies()
        self.model = build_model(config, torch.from_numpy(frequencies > 0)).to(device)
        if encoder_from:
            self.model.load_state_dict(_encoder_state(encoder_from), strict=False)
            self.model.encoder.requires_grad_(False)
        precision = resolve_precision(config.encoder.precision, device)
        prefix = FrozenPrefix(self.model.encoder.eval(), data.tokens, precision)
        self.objective = InterestObjective(self.model, prefix, frequencies, config.interest).to(device)
        self.objective.refresh()
        self.step_module = wrap(self.objective)
        self.optimizer = _optimizer(self.model, config)
        self.steps = max(1, data.steps_per_epoch(config.interest.batch_users, world_size))
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._rate)

    def fit_epoch(self, epoch: int, on_step: Callable[[int, int], None] = lambda done, of: None) -> float:
        """Train one epoch and return its mean loss; the seed depends on the epoch alone."""
        epoch_seed = self.seed * 1000 + epoch
        torch.manual_seed(epoch_seed + 7919 * self.rank)
        self.step_module.train()
        total = torch.zeros((), device=self.device)
        batches = self.data.batches(epoch_seed, self.config.interest.batch_users, self.rank, self.world_size)
        for done, batch in enumerate(_moved_ahead(batches, self.device), start=1):
            loss = self.step_module(batch)
            self.optimizer.zero_grad()
            loss.backward()
            clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.schedule.step()
            total += loss.detach()
            on_step(done, self.steps)
        if self.model.encoder.trainable:
            self.objective.refresh()
        return total.item() / self.steps

    def evaluate(self) -> float:
        """Return the mean ndcg@10 of the validation requests, ranking the whole catalogue."""
        data, values, start = self.data, [], 0
        for scores in self.valid_scores():
            offsets = data.valid_offsets[start : start + len(scores) + 1]
            targets = data.valid_targets[offsets[0] : offsets[-1]]
            values.append(ndcg(target_ranks(scores, targets, offsets - offsets[0]), offsets - offsets[0], 10))
            start += len(scores)
        return float(np.concatenate(values).mean()) if values else 0.0

    @torch.no_grad()
    def valid_scores(self) -> Iterator[NDArray[np.float32]]:
        """Yield the interest scores `[R, N]` of the validation requests, block by block."""
        self.model.eval()
        items = torch.arange(len(self.data.tokens), device=self.device)
        vectors = self.model.item_vectors(self.objective.cache, items)  # [N, D]
        for start in range(0, len(self.data.valid_items), 256):
            history = self.data.valid_histories(slice(start, start + 256)).to(self.device)
            users = self.model.last_user_vectors(vectors, history)[:, 0]
            yield (users @ vectors.T).float().cpu().numpy()

    def save(self, folder: Path) -> None:
        """Write everything that resuming needs; read back with `weights_only`."""
        state = {
            "model": trained_state(self.model),
            "optimizer": self.optimizer.state_dict(),
            "schedule": {"last_epoch": self.schedule.last_epoch},
        }
        torch.save(state, folder / "state.pt")

    def restore(self, folder: Path) -> None:
        """Continue from what `save` wrote."""
        state = torch.load(folder / "state.pt", weights_only=True, map_location=self.device)
        self.model.load_state_dict(state["model"], strict=False)
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.last_epoch = state["schedule"]["last_epoch"]
        self.objective.refresh()

    def _rate(self, step: int) -> float:
        whole = self.steps * self.config.interest.epochs
        return min((step + 1) / WARMUP_STEPS, max(0.05, 1 - step / whole))


def _moved_ahead(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Yield the batches on `device`; on a GPU each is copied, from pinned memory, while the one before is at work."""
    ahead = None
    for batch in batches:
        moved = batch.to(device)
        if ahead is not None:
            yield ahead
        ahead = moved
    if ahead is not None:
        yield ahead


def build_model(config: Config, known: Tensor) -> InterestModel:
    """Return an unfitted model whose ID residual covers the items `known` `[N]`."""
    encoder, _ = load_encoder(config.encoder)
    table = TorchRecIdTable(known, encoder.width) if config.interest.id_residual else None
    return InterestModel(encoder, config.interest, table)


def trained_state(model: InterestModel) -> dict[str, Tensor]:
    """Return the model's state without what stays as it was loaded (frozen layers, token embeddings)."""
    fixed = {id(parameter) for part in model.encoder.fixed() for parameter in part.parameters()}
    left_out = {name for name, parameter in model.named_parameters() if id(parameter) in fixed}
    return {name: tensor.detach().cpu() for name, tensor in model.state_dict().items() if name not in left_out}


def _encoder_state(folder: Path) -> dict[str, Tensor]:
    state: dict[str, Any] = torch.load(folder / "state.pt", weights_only=True, map_location="cpu")
    return {name: tensor for name, tensor in state["model"].items() if name.startswith("encoder.")}


def load_trained(folder: Path, config: Config, known: Tensor) -> InterestModel:
    """Return the model whose `trained_state` a checkpoint in `folder` holds."""
    model = build_model(config, known)
    state: dict[str, Any] = torch.load(folder / "state.pt", weights_only=True, map_location="cpu")
    model.load_state_dict(state["model"], strict=False)
    return model.eval()


def _optimizer(model: InterestModel, config: Config) -> torch.optim.Optimizer:
    encoder = [p for p in model.encoder.parameters() if p.requires_grad]
    inside = {id(p) for p in model.encoder.parameters()}
    rest = [p for p in model.parameters() if id(p) not in inside]
    groups = [
        {"params": encoder, "lr": config.interest.encoder_learning_rate},
        {"params": [p for p in rest if p.ndim], "lr": config.interest.learning_rate},
        # Temperature and decay: single numbers that have a way to go.
        {"params": [p for p in rest if not p.ndim], "lr": SCALAR_LEARNING_RATE, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, weight_decay=config.interest.weight_decay)
