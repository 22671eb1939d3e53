"""Time an epoch of fine-tuning against the naive loop, on every device of this machine.

In: nothing; the catalogue and its users are synthetic. Out: a table for each device. `benchmarks.gpu` times the step.

    .venv/bin/python benchmarks/train_speed.py [--epoch-users 512]

The naive loop encodes the item of every position, padded to the longest text that is allowed, in
fp32, and takes the items of the batch as negatives. The benchmark needs PyTorch, transformers and
torchrec, but neither Ray nor MLflow nor polars.

Shapes: B sequences, L positions, P predicted positions, S items of the batch, D width.
"""

import argparse
import multiprocessing
import resource
import time
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from recsys.config import Config, EncoderConfig, InterestConfig
from recsys.events import EVENT_TYPES
from recsys.models.encoder import load_encoder, resolve_precision, tokenize
from training.interest.data import InterestData
from training.interest.objective import Batch, InterestObjective, head_logits
from training.interest.trainer import InterestTrainer

ITEMS, LENGTH, TOPICS, VALID = 2000, 10, 40, 500


class NaiveObjective(InterestObjective):
    """Encodes the item of every position, padded to the maximum, and sets it against the others of the batch."""

    def forward(self, batch: Batch) -> Tensor:
        """Return the loss, a scalar."""
        events = batch.items  # [B, L + 1]
        flat = events.clamp(min=0).flatten()
        ids, mask = (tensor.to(flat.device) for tensor in self.prefix.tokens.padded(flat.cpu().numpy()))
        missing = max(0, Config().encoder.max_tokens - ids.shape[1])
        pooled = self.model.encoder(F.pad(ids, (0, missing)), F.pad(mask, (0, missing)))
        vectors = self.model.item_vectors(pooled, flat)
        of_history = vectors.unflatten(0, events.shape)[:, :-1]  # [B, L, D]
        users = self.model.user_vectors(of_history, batch.history)[batch.predicted]  # [P, 2, D]
        items, inverse = flat.unique(return_inverse=True)  # [S]
        first = torch.full_like(items, len(flat)).scatter_reduce(
            0, inverse, torch.arange(len(flat), device=flat.device), "amin"
        )
        targets = batch.at_predicted()
        logits = head_logits(users, vectors[first], self.model.temperature, targets)
        inclusion = torch.log(-torch.expm1(len(flat) * torch.log1p(-self.frequencies[items]))).float()
        return self._softmax(logits, items, inclusion.clamp(min=-20), targets)


def synthetic_data(config: Config, users: int) -> InterestData:
    """Return the data of users who mostly stay with one of the topics that the items' texts are about."""
    rng = np.random.default_rng(0)
    words = np.array([f"{first}{second}" for first in ("wood", "steel", "glass", "paper", "stone") for second in
                      ("lamp", "table", "chair", "cable", "filter", "brush", "glove", "screw")])  # fmt: skip
    topics = rng.integers(TOPICS, size=ITEMS)
    sizes = rng.integers(8, 60, ITEMS)
    texts = [
        " ".join(np.where(rng.random(size) < 0.3, words[topic % len(words)], rng.choice(words, size)))
        for topic, size in zip(topics, sizes, strict=True)
    ]
    _, tokenizer = load_encoder(config.encoder)
    tokens = tokenize(texts, tokenizer, config.encoder.max_tokens)
    by_topic = [np.flatnonzero(topics == topic) for topic in range(TOPICS)]
    shape = (users + VALID, LENGTH + 1)
    own = rng.integers(TOPICS, size=shape[0])
    items = np.stack([rng.choice(by_topic[topic], LENGTH + 1) for topic in own]).astype(np.int32)
    items = np.where(rng.random(shape) < 0.1, rng.integers(ITEMS, size=shape), items).astype(np.int32)
    types = np.full(shape, EVENT_TYPES.index("purchase"), np.int8)
    times = np.broadcast_to(np.arange(LENGTH + 1), shape).copy()
    fitted, held_out = slice(0, users), slice(users, None)
    return InterestData(
        token_ids=tokens.ids,
        token_offsets=tokens.offsets,
        items=items[fitted],
        types=types[fitted],
        times=times[fitted],
        request_index=np.full((users, LENGTH + 1), -1),
        impressions=np.empty((1, 0), np.int32),
        valid_items=items[held_out, :-1],
        valid_types=types[held_out, :-1],
        valid_times=times[held_out, :-1],
        valid_targets=items[held_out, -1],
        valid_offsets=np.arange(VALID + 1),
        event_weights=np.ones(len(EVENT_TYPES)),
        has_clock=np.array([False]),
        counts=np.bincount(items[fitted].ravel(), minlength=ITEMS),
    )


def train(naive: bool, users: int, device: str, target_loss: float) -> dict[str, float]:
    """Train for an epoch, and on until the held-out loss is at most `target_loss` or the epochs are used up.

    Return epochs, seconds of training, held-out loss, ndcg@10 and peak memory in GiB.
    """
    config = Config.model_validate({"encoder": {"precision": "fp32" if naive else "auto"}})
    trainer = InterestTrainer(synthetic_data(config, users), config, device=torch.device(device), seed=0)
    trainer.start_tuning()
    if naive:
        trainer.objective.__class__ = NaiveObjective
    seconds, epochs, loss = 0.0, 0, float("inf")
    while loss > target_loss or not epochs:
        _wait(device)
        start = time.perf_counter()
        trainer.fit_epoch(epochs)
        _wait(device)
        seconds += time.perf_counter() - start
        epochs, loss = epochs + 1, held_out_loss(trainer)
        if epochs == config.interest.epochs:
            break
    peak = (
        torch.cuda.max_memory_allocated()
        if device == "cuda"
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    )
    return {"epochs": epochs, "seconds": seconds, "loss": loss, "ndcg@10": trainer.evaluate(), "peak": peak / 2**30}


@torch.no_grad()
def held_out_loss(trainer: InterestTrainer) -> float:
    """Return the mean softmax loss of the held-out users' last items over the whole catalogue."""
    model, data = trainer.model.eval(), trainer.data
    vectors = model.item_vectors(trainer.objective.cache, torch.arange(len(data.tokens), device=trainer.device))
    history = data.valid_histories(np.arange(len(data.valid_items))).to(trainer.device)
    users = model.last_user_vectors(vectors, history)[:, 0]
    logits = users @ vectors.T / model.temperature
    return F.cross_entropy(logits, torch.from_numpy(data.valid_targets).long().to(trainer.device)).item()


def compare_epochs(users: int, device: str) -> None:
    """Print both loops; each runs in its own process, so that its peak memory is known."""
    print(f"epochs of {users} users on {device}")
    print(f"{'loop':24}{'epochs':>7}{'seconds':>9}{'held-out loss':>15}{'ndcg@10':>9}{'peak GiB':>10}")
    naive = _row("naive", True, users, device, float("inf"))
    ours = _row("ours", False, users, device, float("inf"))
    equal = _row("ours, to naive's loss", False, users, device, naive["loss"])
    print(f"an epoch of ours is {naive['seconds'] / ours['seconds']:.1f} times as fast")
    if equal["loss"] <= naive["loss"]:
        print(f"ours is {naive['seconds'] / equal['seconds']:.1f} times as fast to the same loss")
    print(flush=True)


def _row(name: str, naive: bool, users: int, device: str, target_loss: float) -> dict[str, float]:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        row = pool.apply(train, (naive, users, device, target_loss))
    figures = f"{row['loss']:15.4f}{row['ndcg@10']:9.4f}{row['peak']:10.2f}"
    print(f"{name:24}{row['epochs']:7}{row['seconds']:9.1f}{figures}", flush=True)
    return row


def steps_of(encoder: EncoderConfig, device: str, steps: int) -> tuple[list[float], float, float]:
    """Return the first three losses, the seconds a step takes after them, and a step's FLOP."""
    config = Config(encoder=encoder, interest=InterestConfig(dropout=0, id_dropout=0))
    trainer = InterestTrainer(synthetic_data(config, 1024), config, device=torch.device(device), seed=0)
    trainer.start_tuning()
    batches = list(trainer.data.batches(0, config.interest.batch_users))
    losses, start, flop = [], 0.0, 0
    for step in range(3 + steps):
        if step == 3:
            _wait(device)
            start = time.perf_counter()
        torch.manual_seed(step)
        with FlopCounterMode(display=False) if step == 0 else nullcontext() as counter:
            loss, _ = trainer.step(batches[step % len(batches)].to(trainer.device))
        flop = counter.get_total_flops() if counter else flop
        losses.append(loss)
    _wait(device)
    return [loss.item() for loss in losses[:3]], (time.perf_counter() - start) / steps, flop


def matmul_peak(device: str, precision: str) -> float:
    """Return the FLOP/s of a large matrix product on this device."""
    size = 8192 if device == "cuda" else 2048
    low = resolve_precision(precision, torch.device(device)) == "bf16"
    one = torch.randn(size, size, device=device, dtype=torch.bfloat16 if low else torch.float32)
    one @ one
    _wait(device)
    start = time.perf_counter()
    for _ in range(10):
        one @ one
    _wait(device)
    return 10 * 2 * size**3 / (time.perf_counter() - start)


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--epoch-users", type=int, default=512, help="users in the compared epoch (default 512)")
    options = parser.parse_args()
    for device in ["cpu"] + ["cuda"] * torch.cuda.is_available():
        compare_epochs(options.epoch_users, device)


if __name__ == "__main__":
    main()
