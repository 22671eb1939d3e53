"""What a GPU makes of the engine: encoding, the training step, search, and two GPUs together.

    .venv/bin/python -m benchmarks.gpu [--items 20000] [--steps 20] [--peak-tflops 989]

In: nothing; texts, users and vectors are made up. Out: a row for each way to do a thing, on the GPU where there is one and on the CPU
everywhere. What cannot be measured has a line that says why.

Encoding goes as the engine does it: batches of one length, so that nothing is padded and PyTorch's fused attention gets no mask; then
with pinned batches of which the next one is copied while the device works, with `torch.compile`, and with padded batches and a mask. The training
step is that of fine-tuning, whose batches are pinned and prefetched. FLOP are counted by PyTorch; the share of peak is of what the maker names for
dense bfloat16 (or `--peak-tflops`), and where that is unknown of a matrix product that is measured first.

Shapes: U texts of a batch, T tokens.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.ann_speed import random_vectors
from benchmarks.encode_scale import random_tokens
from benchmarks.train_speed import matmul_peak, steps_of, synthetic_data
from recsys.config import Config, EncoderConfig, InterestConfig
from recsys.errors import first_line
from recsys.models.encoder import (
    TOKENS_PER_BATCH,
    FrozenPrefix,
    Tokens,
    autocast,
    encode_all,
    load_encoder,
    resolve_precision,
)
from recsys.models.interest import to_device
from serving.retrieval.index import VectorIndex
from training.interest.trainer import InterestTrainer

PEAK_TFLOPS = {
    "A10": 125,
    "L4": 121,
    "L40S": 362,
    "A100": 312,
    "H100 PCIe": 756,
    "H100 NVL": 835,
    "H100": 989,
    "H200": 989,
    "B200": 2250,
}
"""Dense bfloat16 TFLOP/s by the maker's data sheets and by words of the device's name, the longer ones first."""

NEIGHBOURS = 100
USERS_PER_STEP = 64


@dataclass(frozen=True)
class Device:
    """A device and what it could do."""

    name: str
    """`cpu` or `cuda`."""
    precision: str
    peak: float
    """FLOP/s in that precision."""
    source: str
    """Where the peak is from."""

    @classmethod
    def of(cls, name: str, tflops: float | None) -> "Device":
        """Return the device `name` with the peak that is named, known or measured, in this order."""
        precision = resolve_precision("auto", torch.device(name))
        words = torch.cuda.get_device_name().replace("-", " ") if name == "cuda" else ""
        known = next((peak for chip, peak in PEAK_TFLOPS.items() if f" {chip} " in f" {words} "), None)
        if name == "cuda" and precision == "bf16" and (tflops or known):
            return cls(name, precision, 1e12 * (tflops or known or 0), "--peak-tflops" if tflops else "data sheet")
        return cls(name, precision, matmul_peak(name, precision), "unknown: a matrix product, measured")


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--items", type=int, default=20_000, help="texts to encode, and vectors to search (default 20,000)"
    )
    parser.add_argument("--tokens", type=int, default=64, help="longest texts, in tokens (default 64)")
    parser.add_argument("--steps", type=int, default=20, help="timed training steps (default 20)")
    parser.add_argument("--peak-tflops", type=float, help="the GPU's dense bfloat16 peak, where its name is not known")
    parser.add_argument(
        "--no-compile", action="store_true", help="leave out torch.compile, which takes minutes on a CPU"
    )
    parser.add_argument("--encoder", default=Config().encoder.name, help="a folder or name (default: the packaged one)")
    options = parser.parse_args()
    names = ["cuda"] * torch.cuda.is_available() + ["cpu"]
    print(f"GPU: {torch.cuda.get_device_name()}" if names[0] == "cuda" else "GPU: PyTorch sees none; CPU only")
    config = Config.model_validate({"encoder": {"name": options.encoder}})
    for device in (Device.of(name, options.peak_tflops) for name in names):
        print(f"\n{device.name} in {device.precision}, peak {device.peak / 1e12:.2f} TFLOP/s ({device.source})")
        print(f"{'':44}{'items/s':>10}{'tokens/s':>11}{'of peak':>9}", flush=True)
        compare_encoding(device, config, random_tokens(options.items, options.tokens), not options.no_compile)
        compare_steps(device, config.encoder, options.steps)
    print()
    compare_search(options.items)
    compare_two_gpus(config.encoder, options.steps)


def compare_encoding(device: Device, config: Config, tokens: Tokens, compile: bool) -> None:
    """Print a row for each way to encode `tokens`; the FLOP of all are those without padding."""
    encoder = load_encoder(config.encoder)[0].eval().to(device.name)
    prefix = FrozenPrefix(encoder, tokens, device.precision, limit_bytes=0)
    with FlopCounterMode(display=False) as counter:
        encode_all(encoder, prefix)
    ways: dict[str, Callable[[], Tensor]] = {
        "encoding, as the engine does it": lambda: encode_all(encoder, prefix),
        "pinned batches, prefetched": lambda: encoded(encoder, tokens, one_length(tokens), device),
        "padded batches with a mask": lambda: encoded(encoder, tokens, all_lengths(tokens), device),
    }
    if compile:
        compiled = torch.compile(encoder, dynamic=True)
        ways["pinned, prefetched, torch.compile"] = lambda: encoded(compiled, tokens, one_length(tokens), device)
    for name, way in ways.items():
        try:
            seconds = seconds_of(way)
        except Exception as error:  # torch.compile fails in many ways, for want of a compiler for example
            print(f"{name:44}not measured: {first_line(error)}", flush=True)
            continue
        share = counter.get_total_flops() / seconds / device.peak
        print_row(name, len(tokens) / seconds, len(tokens.ids) / seconds, share)


def seconds_of(way: Callable[[], Tensor]) -> float:
    """Return the seconds of a second run; the first one compiles, allocates and fills caches."""
    seconds = 0.0
    for _ in range(2):
        start = time.perf_counter()
        way().sum().item()  # waits for the device
        seconds = time.perf_counter() - start
    return seconds


def print_row(name: str, items: float, tokens: float | None, share: float) -> None:
    """Print a row of the table."""
    print(f"{name:44}{items:10,.0f}{f'{tokens:,.0f}' if tokens else '':>11}{share:9.1%}", flush=True)


def one_length(tokens: Tokens) -> Iterator[NDArray[np.int64]]:
    """Yield the engine's batches of all texts."""
    return tokens.batches(np.arange(len(tokens)))


def all_lengths(tokens: Tokens) -> Iterator[NDArray[np.int64]]:
    """Yield batches of as many tokens, in no order, so that they are padded."""
    size = max(1, TOKENS_PER_BATCH // int(tokens.lengths.max()))
    yield from np.array_split(np.arange(len(tokens)), -(-len(tokens) // size))


@torch.no_grad()
def encoded(
    encoder: Callable[[Tensor, Tensor], Tensor], tokens: Tokens, batches: Iterator[NDArray[np.int64]], device: Device
) -> Tensor:
    """Return the sum of the vectors of all `batches`."""
    total = torch.zeros((), device=device.name)
    for ids, mask in on_device(tokens, batches, device.name):
        with autocast(ids.device, device.precision):
            total += encoder(ids, mask).float().sum()
    return total


def on_device(tokens: Tokens, batches: Iterator[NDArray[np.int64]], device: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield ids and mask `[U, T]` of each batch; the next one is on its way to a GPU while this one is encoded."""
    ahead = None
    for rows in batches:
        ids, mask = tokens.padded(rows)
        moved = to_device(ids, torch.device(device)), to_device(mask, torch.device(device))
        if ahead is not None:
            yield ahead
        ahead = moved
    if ahead is not None:
        yield ahead


def compare_steps(device: Device, encoder: EncoderConfig, steps: int) -> None:
    """Print the training step in fp32 and in the precision of `device`; the first losses tell whether they do the same."""
    for precision in dict.fromkeys(["fp32", device.precision]):
        peak = device.peak if precision == device.precision else matmul_peak(device.name, precision)
        changed = encoder.model_copy(update={"precision": precision})
        losses, seconds, flop = steps_of(changed, device.name, steps)
        name = f"fine-tuning in {precision}, {1 / seconds:.2f} steps/s"
        print_row(name, Config().interest.encoded_per_step / seconds, None, flop / seconds / peak)
        print(f"    first losses {' '.join(f'{loss:.4f}' for loss in losses)}", flush=True)


def compare_search(count: int) -> None:
    """Print searches a second in `count` vectors, which FAISS's GPU build does on a GPU."""
    gpus = faiss.get_num_gpus() if hasattr(faiss, "get_num_gpus") else 0
    vectors, queries = random_vectors(count, 1024)
    index = VectorIndex.build(vectors, np.arange(count))
    index.search(queries, NEIGHBOURS)
    start = time.perf_counter()
    index.search(queries, NEIGHBOURS)
    rate = len(queries) / (time.perf_counter() - start)
    where = "on the GPU" if gpus else "on the CPU: FAISS sees no GPU (faiss-gpu is another package)"
    print(f"search in {count:,} vectors, {len(queries)} at a time: {rate:,.0f} searches/s {where}", flush=True)


def compare_two_gpus(encoder: EncoderConfig, steps: int) -> None:
    """Print the training step of two GPUs beside that of one."""
    if torch.cuda.device_count() < 2:
        print(f"two GPUs: not measured, PyTorch sees {torch.cuda.device_count()}")
        return
    one, two = (sequences_per_second(encoder, count, "nccl", steps) for count in (1, 2))
    print(f"fine-tuning on two GPUs (DDP): {two:,.0f} sequences/s, on one {one:,.0f}: {two / one:.2f} times as fast")


def sequences_per_second(encoder: EncoderConfig, workers: int, backend: str, steps: int) -> float:
    """Return the sequences that so many workers, each with `USERS_PER_STEP` a step, train on in a second."""
    with tempfile.TemporaryDirectory() as folder:
        spawn(work, (encoder, workers, backend, steps, folder), nprocs=workers)
        return workers * USERS_PER_STEP * steps / float((Path(folder) / "seconds").read_text())


def work(rank: int, encoder: EncoderConfig, workers: int, backend: str, steps: int, folder: str) -> None:
    """Be one of the workers; the first writes how many seconds the steps took."""
    device = torch.device("cuda", rank) if backend == "nccl" else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group(backend, f"file://{folder}/meeting", rank=rank, world_size=workers)
    config = Config(encoder=encoder, interest=InterestConfig(batch_users=workers * USERS_PER_STEP))
    trainer = InterestTrainer(
        synthetic_data(config, 1024),
        config,
        device=device,
        seed=0,
        rank=rank,
        world_size=workers,
        wrap=lambda module: DistributedDataParallel(module, broadcast_buffers=False),
    )
    trainer.start_tuning()
    batches = list(trainer.data.batches(0, config.interest.batch_users, rank, workers))
    start = 0.0
    for step in range(3 + steps):
        if step == 3:
            distributed.barrier()
            start = time.perf_counter()
        loss, _ = trainer.step(batches[step % len(batches)].to(device))
    loss.item()
    distributed.barrier()
    if rank == 0:
        (Path(folder) / "seconds").write_text(str(time.perf_counter() - start))
    distributed.destroy_process_group()


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
