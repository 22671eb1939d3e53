"""Encoding a catalogue by actors of Ray Data: items/s by the number of workers.

    .venv/bin/python -m benchmarks.encode_scale [--items 20000] [--workers 1 2] [--cores 1] [--rounds 1]

In: nothing; texts are random tokens. Out: a row for each number of workers with so many cores each, and the seconds of this process
with all cores of the machine. A row's ratio compares its seconds with 1/N of those of one worker, start of the actors
included; 1.2 is the target. Core seconds are those of all processes: where the machine is shared, they say what
the workers cost, and wall clock what others left to them. With `--rounds` the fastest of some rounds in turn counts.

`--items 1000000` is possible. With RAY_ADDRESS, Ray is that of the cluster, where core seconds are those of the command alone.
"""

import argparse
import logging
import os
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import ray
import torch

from recsys.arrays import offsets_of
from recsys.cluster import start_ray
from recsys.config import ComputeConfig, Config
from recsys.models.encoder import TextEncoder, Tokens, load_encoder
from recsys.models.text_vectors import text_vectors
from training.encoding import encode_on_ray, parts_of

SHORTEST = 8
"""Tokens of the shortest texts."""


class Took(NamedTuple):
    """What an encoding took."""

    seconds: float
    first: float
    """Seconds until the first part was there."""
    core: float
    """Seconds of all processors."""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=20_000, help="items to encode (default 20,000)")
    parser.add_argument("--tokens", type=int, default=64, help="longest texts, in tokens (default 64)")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="numbers of workers (default 1 2)")
    parser.add_argument("--cores", type=int, default=1, help="cores of each worker (default 1)")
    parser.add_argument("--rounds", type=int, default=1, help="rounds, of which the fastest counts (default 1)")
    parser.add_argument("--precision", default="auto", choices=["auto", "bf16", "fp32"], help="default auto")
    parser.add_argument("--gpu", action="store_true", help="a GPU for each worker")
    options = parser.parse_args()
    encoder, _ = load_encoder(Config().encoder)
    tokens = random_tokens(options.items, options.tokens)
    lengths = f"{SHORTEST} to {options.tokens} tokens"
    print(f"{len(tokens):,} items of {lengths}, {len(parts_of(tokens))} parts, {options.precision}", flush=True)
    best: dict[int, Took] = {}
    for _ in range(options.rounds):
        for count in options.workers:
            took = timed(encoder, tokens, options.precision, count, options.cores, options.gpu)
            best[count] = min(took, best.get(count, took))
    print(f"{'workers':>8}{'cores each':>12}{'seconds':>9}{'first part':>12}{'core s':>8}{'items/s':>9}{'ratio':>7}")
    fewest = min(best)
    for count, took in best.items():
        ratio = took.seconds * count / (best[fewest].seconds * fewest)
        figures = f"{took.seconds:9.1f}{took.first:12.1f}{took.core:8.1f}{len(tokens) / took.seconds:9.0f}{ratio:7.2f}"
        print(f"{count:8}{options.cores:12}{figures}", flush=True)
    alone = timed_alone(encoder, tokens, options.precision)
    print(f"in this process, {torch.get_num_threads()} threads: {alone:.1f} s, {len(tokens) / alone:.0f} items/s")


def random_tokens(items: int, longest: int) -> Tokens:
    """Return `items` texts of random lengths and words."""
    rng = np.random.default_rng(0)
    offsets = offsets_of(rng.integers(SHORTEST, longest + 1, items))
    return Tokens(rng.integers(1000, 20_000, offsets[-1], dtype=np.int32), offsets)


def timed(encoder: TextEncoder, tokens: Tokens, precision: str, workers: int, cores: int, gpu: bool) -> Took:
    """Return what so many `workers` take."""
    if "RAY_ADDRESS" in os.environ:
        start_ray()
    else:
        start_small_ray(workers * cores)
    start, before, first, core = time.perf_counter(), core_seconds(), 0.0, 0.0

    def note(share: float, _: str) -> None:
        nonlocal first, core
        first = first or time.perf_counter() - start
        if share == 1:
            core = core_seconds() - before  # the actors end soon after

    with tempfile.TemporaryDirectory() as folder:
        compute = ComputeConfig(workers=workers)
        encode_on_ray(encoder, tokens, precision, folder=Path(folder), compute=compute, gpu=gpu, update=note)
    seconds = time.perf_counter() - start
    if "RAY_ADDRESS" not in os.environ:
        ray.shutdown()
    return Took(seconds, first, core)


def start_small_ray(cores: int) -> None:
    """Start Ray on this machine as if it had so many cores."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DATA_LOG_LEVEL": "ERROR"}
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
    ray.init(address="local", num_cpus=cores, **quiet)


def core_seconds() -> float:
    """Return the processor time that this process and all that it started have taken."""
    own = psutil.Process()
    times = [process.cpu_times() for process in (own, *own.children(recursive=True))]
    return sum(each.user + each.system for each in times)


def timed_alone(encoder: TextEncoder, tokens: Tokens, precision: str) -> float:
    """Return the seconds that this process needs."""
    start = time.perf_counter()
    text_vectors(encoder, tokens, precision)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
