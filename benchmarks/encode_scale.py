"""Encoding a catalogue by actors of Ray Data: items/s by the number of workers.

    .venv/bin/python -m benchmarks.encode_scale [--items 20000] [--workers 1 2] [--cores 1] [--rounds 1]

In: nothing; texts are random tokens, whose speed is that of any of their lengths. Out: a row for each number of workers, with so many
cores each and all in turn, and one for this process with all cores of the machine. The ratio is that of the time, from the call
to the vectors, start of the actors included, to 1/N of that of one worker; 1.2 is the target. `--items 1000000` is possible. With
RAY_ADDRESS, Ray is that of the cluster, and `--cores` what it gives.
"""

import argparse
import logging
import os
import tempfile
import time
from pathlib import Path

import numpy as np
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
    print(
        f"{len(tokens):,} items of {SHORTEST} to {options.tokens} tokens, {len(parts_of(tokens))} parts, {options.precision}"
    )
    print(
        f"{'workers':>8}{'cores each':>12}{'seconds':>9}{'to the first part':>19}{'items/s':>9}{'after it':>10}{'ratio':>7}"
    )
    seconds: dict[int, list[tuple[float, float, float]]] = {count: [] for count in options.workers}
    for _ in range(options.rounds):
        for count in options.workers:
            seconds[count].append(timed(encoder, tokens, options.precision, count, options.cores, options.gpu))
    one = min(seconds[min(seconds)])[0] * min(seconds)
    for count, rounds in seconds.items():
        whole, first, speed = min(rounds)
        ratio = whole * count / one
        print(
            f"{count:8}{options.cores:12}{whole:9.1f}{first:19.1f}{len(tokens) / whole:9.0f}{speed:10.0f}{ratio:7.2f}"
        )
    alone = timed_alone(encoder, tokens, options.precision)
    print(f"in this process, {torch.get_num_threads()} threads: {alone:.1f} s, {len(tokens) / alone:.0f} items/s")


def random_tokens(items: int, longest: int) -> Tokens:
    """Return `items` texts of random lengths and words."""
    rng = np.random.default_rng(0)
    offsets = offsets_of(rng.integers(SHORTEST, longest + 1, items))
    return Tokens(rng.integers(1000, 20_000, offsets[-1], dtype=np.int32), offsets)


def timed(
    encoder: TextEncoder, tokens: Tokens, precision: str, workers: int, cores: int, gpu: bool
) -> tuple[float, float, float]:
    """Return the seconds of the whole, those until the first part was there, and the items/s after it."""
    if "RAY_ADDRESS" in os.environ:
        start_ray()
    else:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
        ray.init(address="local", num_cpus=workers * cores, **quiet)
    start, came = time.perf_counter(), []

    def note(share: float, _: str) -> None:
        came.append((time.perf_counter() - start, share))

    with tempfile.TemporaryDirectory() as folder:
        compute = ComputeConfig(workers=workers)
        encode_on_ray(encoder, tokens, precision, folder=Path(folder), compute=compute, gpu=gpu, update=note)
    whole = time.perf_counter() - start
    if "RAY_ADDRESS" not in os.environ:
        ray.shutdown()
    (first, share), (last, _) = came[0], came[-1]
    return whole, first, len(tokens) * (1 - share) / max(last - first, 1e-9)


def timed_alone(encoder: TextEncoder, tokens: Tokens, precision: str) -> float:
    """Return the seconds that this process needs."""
    start = time.perf_counter()
    text_vectors(encoder, tokens, precision)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
