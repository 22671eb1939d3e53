"""What ID residuals of a large catalogue cost by worker, all in each against shares, and what shares learn.

    python -m benchmarks.tables --items 2000000 --workers 2 --width 128
    python -m benchmarks.tables --items 500000 --workers 2 --width 128 --gib 1000
    python -m benchmarks.tables --items 5000 --width 64 --steps 60 --learning

The first command trains a synthetic catalogue for some steps, in processes that average gradients over gloo as those of a training
do, and prints seconds a step and the most memory of each worker after each part. `--gib` is `compute.id_table_gib`: a large one lets each
worker hold all rows. The text vectors are random, so that nothing is encoded. Memory is anonymous memory: pages of files that are
mapped do not count. The last command compares Adam with rates of row-wise Adagrad: texts say nothing, and users stay with topics that ID residuals have to find.
"""

import argparse
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel
from transformers import BertConfig, BertModel, BertTokenizerFast

from recsys.config import Config
from recsys.events import EVENT_TYPES
from recsys.models.id_table import TorchRecIdTable
from training.interest import sharded_table
from training.interest.data import InterestData
from training.interest.sharded_table import ShardedIdTable
from training.interest.trainer import STATE, TEXT_VECTORS, InterestTrainer, load_trained

LENGTH, VALID, TOPICS = 30, 256, 40
BLOCK = 1 << 16
RATES = (1.0, 3.0, 10.0)


@dataclass
class Peak:
    """The most anonymous memory of this process, looked at twenty times a second."""

    most: float = 0.0
    """GiB."""
    parts: dict[str, float] = field(default_factory=dict)

    def watch(self) -> None:
        """Look until the process ends."""
        while True:
            self.most = max(self.most, anonymous_gib())
            time.sleep(0.05)

    @contextmanager
    def of(self, part: str) -> Iterator[None]:
        """Keep the most memory while the body runs as that of `part`."""
        self.most = anonymous_gib()
        yield
        self.parts[part] = max(self.most, anonymous_gib())


def anonymous_gib() -> float:
    """Return the memory of this process that is no page of a file."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) / 2**20


def synthetic(items: int, sequences: int, topics: int = 1) -> InterestData:
    """Return the data of users who mostly stay with one of the `topics`, within it by a power law; every item has had an event."""
    rng = np.random.default_rng(0)
    shape = (sequences + VALID, LENGTH + 1)
    own = np.broadcast_to(rng.integers(topics, size=(shape[0], 1)), shape)
    topic = np.where(rng.random(shape) < 0.9, own, rng.integers(topics, size=shape))
    each = items // topics
    chosen = (topic + topics * np.minimum(each * rng.random(shape) ** 2, each - 1).astype(np.int64)).astype(np.int32)
    types = np.full(shape, EVENT_TYPES.index("purchase"), np.int8)
    times = np.broadcast_to(np.arange(LENGTH + 1), shape).copy()
    fitted, held_out = slice(0, sequences), slice(sequences, None)
    return InterestData(
        token_ids=np.full(items, 2, np.int32),
        token_offsets=np.arange(items + 1),
        items=chosen[fitted],
        types=types[fitted],
        times=times[fitted],
        request_index=np.full((sequences, LENGTH + 1), -1),
        impressions=np.empty((1, 0), np.int32),
        valid_items=chosen[held_out, :-1],
        valid_types=types[held_out, :-1],
        valid_times=times[held_out, :-1],
        valid_targets=chosen[held_out, -1],
        valid_offsets=np.arange(VALID + 1),
        event_weights=np.ones(len(EVENT_TYPES)),
        has_clock=np.array([False]),
        counts=1 + np.bincount(chosen[fitted].ravel(), minlength=items),
    )


def write_encoder(folder: Path, items: int, width: int) -> None:
    """Write an encoder of one layer and, as a checkpoint, random text vectors `[N, H]` of the catalogue."""
    shape = {"hidden_size": width, "intermediate_size": width, "num_hidden_layers": 1, "num_attention_heads": 4}
    BertModel(BertConfig(vocab_size=8, **shape)).save_pretrained(folder)
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\nc\n", encoding="utf-8")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    rng = np.random.default_rng(1)
    vectors = np.lib.format.open_memmap(folder / TEXT_VECTORS, "w+", np.float32, (items, width))
    for start in range(0, items, BLOCK):
        vectors[start : start + BLOCK] = rng.standard_normal(vectors[start : start + BLOCK].shape, np.float32)
    torch.save({"model": {}}, folder / STATE)


def work(rank: int, config: Config, options: argparse.Namespace, folder: Path) -> None:
    """Be worker `rank`: train, validate, write a checkpoint and read it."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{folder / 'meeting'}", rank=rank, world_size=options.workers)
    peak, checkpoint = Peak(), folder / "checkpoint"
    threading.Thread(target=peak.watch, daemon=True).start()
    checkpoint.mkdir(exist_ok=True)
    start = anonymous_gib()
    with peak.of("build"):
        trainer = InterestTrainer(
            synthetic(options.items, config.interest.batch_users * options.steps),
            config,
            device=torch.device("cpu"),
            seed=0,
            rank=rank,
            world_size=options.workers,
            wrap=_parallel if options.workers > 1 else _alone,
            encoder_from=folder,
        )
    times: list[float] = []
    with peak.of("steps"):
        trainer.fit_epoch(0, lambda done, of: times.append(time.monotonic()))
    with peak.of("validation"):
        trainer.evaluate()
    with peak.of("checkpoint"):
        trainer.save(checkpoint)
    distributed.barrier()
    with peak.of("restore"):
        trainer.restore(checkpoint)
    rows = [tuple(p.shape) for name, p in trainer.model.named_parameters() if name.startswith("id_table")]
    parts = {"imports": start} | peak.parts
    seconds = float(np.median(np.diff(times)))
    torch.save({"rows": rows, "parts": parts, "seconds": seconds}, folder / f"{rank}.pt")
    distributed.destroy_process_group()


def _parallel(module: nn.Module) -> nn.Module:
    return DistributedDataParallel(module, broadcast_buffers=False)


def _alone(module: nn.Module) -> nn.Module:
    return module


def measure_memory(options: argparse.Namespace) -> None:
    """Print seconds and memory of each worker, and whether one process reads what they wrote."""
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        write_encoder(folder, options.items, options.width)
        config = Config.model_validate(
            {
                "encoder": {"name": name, "trainable_layers": 0, "precision": "fp32"},
                "compute": {"workers": options.workers, "device": "cpu", "id_table_gib": options.gib},
            }
        )
        spawn(work, (config, options, folder), nprocs=options.workers)
        print(f"{options.items:,} items, width {options.width}, {options.workers} workers, id_table_gib {options.gib}")
        for rank in range(options.workers):
            said = torch.load(folder / f"{rank}.pt", weights_only=True)
            parts = ", ".join(f"{part} {gib:.2f}" for part, gib in said["parts"].items())
            print(f"worker {rank}: rows {said['rows']}, {said['seconds']:.3f} s a step; GiB: {parts}", flush=True)
        size = sum(path.stat().st_size for path in (folder / "checkpoint").iterdir()) / 2**30
        model = load_trained(folder / "checkpoint", config, torch.ones(options.items, dtype=torch.bool))
        assert model.id_table is not None
        rows = next(model.id_table.parameters())
        learned = int(rows.abs().sum(1).count_nonzero())
        print(
            f"one process reads {tuple(rows.shape)}, of which {learned:,} rows have learned; the checkpoint has {size:.2f} GiB"
        )


class SharedTrainer(InterestTrainer):
    """One worker whose ID residuals learn as shares do."""

    def _new_table(self, known: Tensor, width: int) -> TorchRecIdTable:
        return ShardedIdTable(known, width, 1 << 40, self.config.interest.learning_rate)


def measure_learning(options: argparse.Namespace) -> None:
    """Print the best ndcg@10 without ID residuals, with Adam, and with rates of row-wise Adagrad, by one worker."""
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        distributed.init_process_group("gloo", f"file://{folder / 'meeting'}", rank=0, world_size=1)
        write_encoder(folder, options.items, options.width)
        data = synthetic(options.items, 32 * options.steps, TOPICS)
        adam = [("no ID residuals", InterestTrainer, 0.0, False), ("Adam", InterestTrainer, 0.0, True)]
        adagrad = [(f"row-wise Adagrad, rate x {rate:g}", SharedTrainer, rate, True) for rate in RATES]
        for title, kind, rate, residual in [*adam, *adagrad]:
            sharded_table.RATE = rate
            interest = {
                "id_residual": residual,
                "catalogue_negatives": options.negatives,
                "learning_rate": options.rate,
            }
            config = Config.model_validate(
                {"encoder": {"name": name, "trainable_layers": 0, "precision": "fp32"}, "interest": interest}
            )
            best = []
            for seed in range(options.seeds):
                trainer = kind(data, config, device=torch.device("cpu"), seed=seed, encoder_from=folder)
                best.append(max(_ndcg_after_epochs(trainer, options.epochs)))
            print(f"{title}: {np.mean(best):.4f} ({', '.join(f'{value:.4f}' for value in best)})", flush=True)
        distributed.destroy_process_group()


def _ndcg_after_epochs(trainer: InterestTrainer, epochs: int) -> Iterator[float]:
    for epoch in range(epochs):
        trainer.fit_epoch(epoch)
        yield trainer.evaluate()


def main() -> None:
    """Measure one of the two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=2_000_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--gib", type=float, default=Config().compute.id_table_gib)
    parser.add_argument(
        "--folder", type=Path, help="where files lie meanwhile; by default the system's folder for them"
    )
    parser.add_argument("--learning", action="store_true", help="compare optimisers")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rate", type=float, default=1e-3, help="Adam's peak learning rate with --learning")
    parser.add_argument("--negatives", type=int, default=512)
    options = parser.parse_args()
    if options.learning:
        measure_learning(options)
    else:
        measure_memory(options)


if __name__ == "__main__":
    main()
