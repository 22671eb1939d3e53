"""Fit the interest model: epochs, validation, checkpoints. Plain PyTorch.

In: `InterestData` and the configuration. Out: a fitted `InterestModel`, its validation ndcg@10 and the text
vectors of the catalogue. Ray Train runs this class in each of its workers (`training.interest.ray_fit`).

Shapes: N catalogue, R validation requests, H width of the text encoder, D of item vectors.
"""

from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from recsys.arrays import Floats
from recsys.atomic import atomic_file
from recsys.config import Config
from recsys.errors import RecsysError
from recsys.metrics import ndcg, target_ranks
from recsys.models.encoder import FrozenPrefix, load_encoder, resolve_precision
from recsys.models.id_table import TorchRecIdTable
from recsys.models.interest import InterestModel
from training.interest.data import InterestData
from training.interest.objective import Batch, InterestObjective, mean_over_workers
from training.interest.row_adam import RowAdam, clip_gradients
from training.interest.sharded_table import ShardedIdTable, gathered, is_sharded
from training.schedule import falling_rate

SCALAR_LEARNING_RATE = 1e-2
"""Of temperature and decay: single numbers that have a long way to go."""

TOWER = 1
"""The optimiser's group of the user tower and the projection."""

MOST_NORM = 1.0
"""Of the gradients of a step."""

PREFIX_BYTES = 3 << 30
"""Most memory for the output of the frozen layers, which is otherwise computed again at every step."""

VALID_BLOCK = 256
"""Most validation requests that are scored at a time."""

VALID_SCORES = 1 << 26
"""About the most scores of validation requests that are in memory at a time."""

ITEM_BLOCK = 1 << 16
"""Items whose vectors are computed at a time."""

REPLICA_COPIES = 4
"""Of the ID residuals in each of several workers, where each has all: weights, gradients, those that workers exchange, Adam's second moment."""

STATE = "state.pt"
TEXT_VECTORS = "text_vectors.npy"


class InterestTrainer:
    """One worker's model, optimiser and data."""

    def __init__(
        self,
        data: InterestData,
        config: Config,
        *,
        device: torch.device,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        wrap: Callable[[nn.Module], nn.Module] = lambda module: module,
        encoder_from: Path | None = None,
        start: Path | None = None,
        vectors_from: Path | None = None,
    ) -> None:
        """Build worker `rank` of `world_size`; `wrap` makes the objective data-parallel (DDP).

        The text encoder is frozen until `start_tuning`; with `encoder_from`, the folder of a checkpoint, it is taken
        from there, and with it the vectors of the catalogue. With `start`, of which the same holds, all weights are,
        before that. `vectors_from` is a folder with vectors by the encoder that the worker starts with; without it, it encodes all.
        """
        torch.manual_seed(seed)
        self.data, self.config, self.device = data, config, device
        self.seed, self.rank, self.world_size = seed, rank, world_size
        frequencies = data.frequencies()
        known = torch.from_numpy(frequencies > 0).to(device)
        self.model = build_model(config, known.clone(), self._new_table).to(device)
        if start:
            self.model.load_state_dict(_model_state(start), strict=False)
            self.model.know(known)
        self.optimizer, self.rows = _optimizer(self.model, config), self._row_optimizer()
        self.model.encoder.requires_grad_(False)
        if encoder_from:
            self.model.encoder.load_state_dict(_encoder_state(encoder_from), strict=False)
        encoder, precision = self.model.encoder.eval(), resolve_precision(config.encoder.precision, device)
        prefix = FrozenPrefix(encoder, data.tokens, precision, limit_bytes=0)
        self.objective = InterestObjective(self.model, prefix, frequencies, config.interest).to(device)
        if folder := encoder_from or vectors_from:
            self._take_text_vectors(folder)
        else:
            self.objective.refresh()
        shared = [name for name, parameter in self.objective.named_parameters() if is_sharded(parameter)]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self.objective, shared)
        self.wrap, self.step_module = wrap, wrap(self.objective)
        self.steps = max(1, data.steps_per_epoch(config.interest.batch_users, world_size))
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._rate)

    def _new_table(self, known: Tensor, width: int) -> TorchRecIdTable:
        """Return ID residuals `[N, D]`: of several workers each holds a share of them where all would take too much of its memory."""
        limit = int(self.config.compute.id_table_gib * 2**30)
        if self.world_size == 1 or REPLICA_COPIES * known.numel() * width * torch.float32.itemsize <= limit:
            return TorchRecIdTable(known, width)
        return ShardedIdTable(known, width, limit, self.config.interest.learning_rate)

    def _row_optimizer(self) -> ShardedIdTable | RowAdam | None:
        """Return what lets the ID residuals learn; rows that workers share learn by themselves."""
        table = self.model.id_table
        if isinstance(table, ShardedIdTable):
            return table
        if isinstance(table, TorchRecIdTable):
            return RowAdam(table, self.config.interest.learning_rate, by_rows=self.world_size == 1)
        return None

    @property
    def tuning(self) -> bool:
        """Whether the text encoder is being fine-tuned."""
        return self.model.encoder.trainable

    def start_tuning(self) -> None:
        """Fine-tune the upper layers of the text encoder from now on."""
        encoder, objective = self.model.encoder, self.objective
        encoder.start_tuning()
        objective.prefix = FrozenPrefix(encoder, self.data.tokens, objective.prefix.precision, PREFIX_BYTES)
        self.step_module = self.wrap(objective)

    def fit_epoch(self, epoch: int, on_step: Callable[[int, int], None] = lambda done, of: None) -> dict[str, float]:
        """Train one epoch and return its mean loss and gradient norm, and the learning rate that it began with.

        Its random numbers depend on seed, epoch and rank alone.

        `on_step` is called after each step with the number of steps done and that of all.

        Raises:
            RecsysError: the loss is no number any more.
        """
        epoch_seed = self.seed * 1000 + epoch
        torch.manual_seed(epoch_seed + 7919 * self.rank)
        self.step_module.train()
        loss_sum, norm_sum = torch.zeros((), device=self.device), torch.zeros((), device=self.device)
        rate = float(self.optimizer.param_groups[TOWER]["lr"])
        batches = self.data.batches(epoch_seed, self.config.interest.batch_users, self.rank, self.world_size)
        for done, batch in enumerate(_prefetched(batches, self.device), start=1):
            loss, norm = self.step(batch)
            loss_sum += loss
            norm_sum += norm
            on_step(done, self.steps)
        loss_sum = mean_over_workers(loss_sum)
        if not torch.isfinite(loss_sum):
            raise RecsysError(f"the loss of epoch {epoch + 1} is {loss_sum.item()}; lower interest.learning_rate")
        if self.model.encoder.trainable:
            self.objective.refresh()
        return {
            "loss": loss_sum.item() / self.steps,
            "gradient_norm": norm_sum.item() / self.steps,
            "learning_rate": rate,
        }

    def step(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Learn from a batch; return its loss, and the norm of the gradients before they were clipped."""
        if self.rows:
            self.rows.set_rate(self._rate(self.schedule.last_epoch))
        loss = self.step_module(batch)
        self.model.zero_grad()
        loss.backward()
        norm = clip_gradients(self.model.parameters(), MOST_NORM)
        self.optimizer.step()
        if isinstance(self.rows, RowAdam):
            self.rows.step()
        self.schedule.step()
        return loss.detach(), norm

    def evaluate(self) -> float:
        """Return the mean ndcg@10 of the validation requests, ranking the whole catalogue."""
        gains = self.valid_gains()
        return float(gains.mean()) if len(gains) else 0.0

    def valid_gains(self) -> NDArray[np.float64]:
        """Return ndcg@10 of the validation requests `[R]`."""
        return ndcg_by_request(self.valid_scores(), self.data)

    def valid_scores(self) -> Iterator[Floats]:
        """Yield the interest scores `[R, N]` of the validation requests, block by block."""
        return valid_scores(self.model, self.objective.cache, self.data)

    def save(self, folder: Path) -> None:
        """Let the first worker write the weights, all that resuming needs and the catalogue's text vectors into `folder`.

        Every worker has to call this.
        """
        state = {
            "model": trained_state(self.model),
            "optimizer": self.optimizer.state_dict(),
            "rows": self.rows.optimizer_state() if self.rows else {},
            "schedule": {"last_epoch": self.schedule.last_epoch},
            "tuning": self.tuning,
        }
        if self.rank:
            return
        torch.save(state, folder / STATE)
        np.save(folder / TEXT_VECTORS, self.objective.cache.cpu().numpy())

    def restore(self, folder: Path) -> None:
        """Continue from what `save` wrote."""
        # A worker reads from a file that is mapped into memory what it takes its share of.
        state = torch.load(
            folder / STATE, weights_only=True, map_location=self.device, mmap=isinstance(self.rows, ShardedIdTable)
        )
        self.model.load_state_dict(state["model"], strict=False)
        self.optimizer.load_state_dict(deepcopy(state["optimizer"]))
        if self.rows:
            self.rows.load_optimizer_state(state["rows"])
        self.schedule.last_epoch = state["schedule"]["last_epoch"]
        if state["tuning"] and not self.tuning:
            self.start_tuning()
        self._take_text_vectors(folder)

    def _take_text_vectors(self, folder: Path) -> None:
        """Copy the catalogue's text vectors of a checkpoint, which is not read into memory as a whole."""
        self.objective.cache.copy_(torch.from_numpy(np.load(folder / TEXT_VECTORS, mmap_mode="c", allow_pickle=False)))

    def _rate(self, step: int) -> float:
        return falling_rate(step, self.steps * self.config.interest.cycle_epochs)


@torch.no_grad()
def valid_scores(model: InterestModel, texts: Tensor, data: InterestData) -> Iterator[Floats]:
    """Yield the interest scores `[R, N]` of the validation requests by `model`, block by block.

    `texts` `[N, H]` are the catalogue's text vectors, on the device of the model.
    """
    model.eval()
    items = torch.arange(len(texts), device=texts.device)
    vectors = torch.empty_like(texts)  # [N, D]
    for rows in items.split(ITEM_BLOCK):
        vectors[rows] = model.item_vectors(texts[rows], rows)
    users = _valid_users(model, vectors, data)
    for block in users.split(min(VALID_BLOCK, max(1, VALID_SCORES // len(items)))):
        yield (block @ vectors.T).float().cpu().numpy()


def _valid_users(model: InterestModel, vectors: Tensor, data: InterestData) -> Tensor:
    """Return the user vectors `[R, D]` of the validation requests by item vectors `[N, D]`; histories of similar length are computed together."""
    users = vectors.new_empty(len(data.valid_items), vectors.shape[1])
    for rows in torch.from_numpy(np.argsort(data.valid_lengths, kind="stable")).split(VALID_BLOCK):
        history = data.valid_histories(rows.numpy()).to(vectors.device)
        users[rows] = model.last_user_vectors(vectors, history)[:, 0]
    return users


def ndcg_by_request(blocks: Iterable[Floats], data: InterestData) -> NDArray[np.float64]:
    """Return ndcg@10 `[R]` of each validation request, from `blocks` of scores `[R, N]`."""
    values, start = [np.empty(0)], 0
    for scores in blocks:
        offsets = data.valid_offsets[start : start + len(scores) + 1]
        targets = data.valid_targets[offsets[0] : offsets[-1]]
        values.append(ndcg(target_ranks(scores, targets, offsets - offsets[0]), offsets - offsets[0], 10))
        start += len(scores)
    return np.concatenate(values)


def _prefetched(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Yield the batches on `device`; a GPU receives the next one, from pinned memory, while it works on this one."""
    ahead = None
    for batch in batches:
        moved = batch.to(device)
        if ahead is not None:
            yield ahead
        ahead = moved
    if ahead is not None:
        yield ahead


def build_model(
    config: Config, known: Tensor, new_table: Callable[[Tensor, int], TorchRecIdTable] = TorchRecIdTable
) -> InterestModel:
    """Return an unfitted model whose ID residual, a table by `new_table`, covers the items `known` `[N]`."""
    encoder, _ = load_encoder(config.encoder)
    table = new_table(known, encoder.width) if config.interest.id_residual else None
    return InterestModel(encoder, config.interest, table)


def trained_state(model: InterestModel) -> dict[str, Tensor]:
    """Return the model's state without the frozen layers and token embeddings, which stay as they were loaded.

    The first worker gets the whole of what the workers share; every one has to call this.
    """
    fixed = {id(parameter) for part in model.encoder.fixed() for parameter in part.parameters()}
    left_out = {name for name, parameter in model.named_parameters() if id(parameter) in fixed}
    state = model.state_dict()
    return {name: gathered(tensor).detach().cpu() for name, tensor in state.items() if name not in left_out}


def load_trained(folder: Path, config: Config, known: Tensor) -> InterestModel:
    """Return the model of the checkpoint in `folder`; `known` `[N]` are the items that it was fitted on."""
    model = build_model(config, known)
    model.load_state_dict(_model_state(folder), strict=False)
    return model.eval()


def save_start(model: dict[str, Tensor], folder: Path) -> None:
    """Write the state of a `model` as a checkpoint that a fit can start from, without an optimiser's."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_file(folder / STATE) as temporary:
        torch.save({"model": model}, temporary)


def load_text_vectors(folder: Path) -> Floats:
    """Return the catalogue's text vectors `[N, H]` as the checkpoint's encoder computed them while training."""
    vectors: Floats = np.load(folder / TEXT_VECTORS, allow_pickle=False)
    return vectors


def _model_state(folder: Path) -> dict[str, Tensor]:
    state: dict[str, Any] = torch.load(folder / STATE, weights_only=True, map_location="cpu", mmap=True)
    model: dict[str, Tensor] = state["model"]
    return model


def _encoder_state(folder: Path) -> dict[str, Tensor]:
    beginning = "encoder."
    state = _model_state(folder)
    return {name.removeprefix(beginning): tensor for name, tensor in state.items() if name.startswith(beginning)}


def _optimizer(model: InterestModel, config: Config) -> torch.optim.Optimizer:
    encoder = list(model.encoder.layers[model.encoder.split :].parameters())
    inside = {id(p) for p in model.encoder.parameters()}
    rows = set(map(id, model.id_table.parameters())) if model.id_table else set()
    rest = [p for p in model.parameters() if id(p) not in inside | rows]
    groups = [
        {"params": encoder, "lr": config.interest.encoder_learning_rate},
        {"params": [p for p in rest if p.ndim], "lr": config.interest.learning_rate},
        {"params": [p for p in rest if not p.ndim], "lr": SCALAR_LEARNING_RATE, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, weight_decay=config.interest.weight_decay, fused=True)
