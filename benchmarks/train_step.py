"""Speed and agreement of the interest model's training step on the CPU and, where there is one, the GPU.

In: nothing. Out: a table of the first steps' losses, steps and encoded items per second per device.

    .venv/bin/python benchmarks/train_step.py [--steps 20]

It needs PyTorch, transformers and torchrec alone: neither Ray nor MLflow nor polars.
"""

import argparse
import time

import numpy as np
import torch

from recsys.config import Config
from recsys.encoder import load_encoder, tokenize
from recsys.events import EVENT_TYPES
from training.interest import InterestTrainer
from training.interest_data import InterestData

ITEMS, SEQUENCES, LENGTH = 2000, 1024, 20


def made_up_data(config: Config) -> InterestData:
    """Return random walks over a catalogue of random texts."""
    rng = np.random.default_rng(0)
    words = np.array(
        [
            "red",
            "blue",
            "steel",
            "wooden",
            "lamp",
            "table",
            "chair",
            "kitchen",
            "garden",
            "light",
            "small",
            "large",
            "cable",
            "filter",
        ]
    )
    texts = [" ".join(rng.choice(words, rng.integers(8, 40))) for _ in range(ITEMS)]
    _, tokenizer = load_encoder(config.encoder)
    tokens = tokenize(texts, tokenizer, config.encoder.max_tokens)
    shape = (SEQUENCES, LENGTH + 1)
    items = rng.integers(ITEMS, size=shape).astype(np.int32)
    types = np.full(shape, EVENT_TYPES.index("purchase"), np.int8)
    times = np.broadcast_to(np.arange(LENGTH + 1), shape).copy()
    few = slice(0, 64)
    return InterestData(
        tokens.ids, tokens.offsets, items, types, times, np.full(shape, -1), np.empty((1, 0), np.int32),
        items[few], types[few], times[few], items[few, 0], np.arange(65), np.ones(len(EVENT_TYPES)), np.array([False]),
    )  # fmt: skip


def measure(device: str, precision: str, steps: int) -> tuple[list[float], float]:
    """Return the first three losses and the seconds a step takes after them."""
    config = Config.model_validate({"encoder": {"precision": precision}, "interest": {"dropout": 0, "id_dropout": 0}})
    trainer = InterestTrainer(made_up_data(config), config, torch.device(device), seed=0)
    # The same random numbers on every device: those of the CPU.
    batches = list(trainer.data.batches(0, config.interest.batch_users, 0, 1))
    losses = []
    start = 0.0
    for step in range(3 + steps):
        if step == 3:
            _wait(device)
            start = time.perf_counter()
        torch.manual_seed(step)
        loss = trainer.step_module(batches[step % len(batches)].to(trainer.device))
        trainer.optimizer.zero_grad()
        loss.backward()
        trainer.optimizer.step()
        trainer.schedule.step()
        losses.append(loss.item())
    _wait(device)
    return losses[:3], (time.perf_counter() - start) / steps


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=20, help="timed steps per device (default 20)")
    steps = parser.parse_args().steps
    runs = [("cpu", "fp32"), ("cpu", "auto")]
    if torch.cuda.is_available():
        runs += [("cuda", "fp32"), ("cuda", "bf16")]
        print(torch.cuda.get_device_name())
    else:
        print("no GPU here: CPU alone")
    print(f"{'device':8}{'precision':11}{'steps/s':>9}{'encoded items/s':>17}   first losses")
    for device, precision in runs:
        losses, seconds = measure(device, precision, steps)
        encoded = Config().interest.encoded_per_step / seconds
        shown = " ".join(f"{loss:.4f}" for loss in losses)
        print(f"{device:8}{precision:11}{1 / seconds:9.2f}{encoded:17.0f}   {shown}")


if __name__ == "__main__":
    main()
