"""What a list and a ranking cost one checkout of this repository against another, without an API around them.

    python -m benchmarks.compare_lists ../before . --rounds 8

In: two checkouts, which read the same made-up bundle (see `benchmarks.serving_world`). A process of each makes the same parts
of 1,024 users, as `recsys recommend` does, and the same rankings of 200 candidates after 50 events, in turn, with one
thread. Out: medians of the processor time over the rounds, their ratio, and whether both made the same lists.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from rich.table import Table

from benchmarks.serving_world import START_US, bundle_of, log_of, topics_of
from features.histories import Histories
from recsys.progress import console
from serving.loading import load_bundle
from serving.recommender import Ranking, RecommendOptions

PART, RANKINGS, CANDIDATES, HISTORY = 1024, 50, 200, 50
NOW = START_US + 91 * 86_400_000_000


def main() -> None:
    """Have both checkouts work in turn, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkouts", type=Path, nargs="*", help="the checkout before, and the one after a change")
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--bundles", type=Path, default=Path(".recsys/benchmarks"))
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    bundle = bundle_of(options.bundles.resolve(), options.items)
    if options.work:
        work(bundle, options.items, options.rounds)
        return
    workers = [worker(checkout, options) for checkout in options.checkouts]
    table = Table("processor ms", "before", "after", "ratio", "same lists")
    for kind, of in (("a list of 100, in parts of 1,024 users", PART), ("a ranking, history that is new", RANKINGS)):
        answers = [[asked(one, kind, number) for one in workers] for number in range(options.rounds)][
            1:
        ]  # warm by then
        cost = np.array([[1000 * answer["seconds"] / of for answer in pair] for pair in answers])
        same = np.mean([before["lists"] == after["lists"] for before, after in answers])
        ratio = np.median(cost[:, 1] / cost[:, 0])
        table.add_row(kind, *(f"{one:.2f}" for one in np.median(cost, axis=0)), f"{ratio:.2f}", f"{same:.0%}")
    console.print(table)
    for one in workers:
        one.terminate()


def worker(checkout: Path, options: argparse.Namespace) -> "subprocess.Popen[str]":
    """Start the process of a checkout."""
    command = [sys.executable, __file__, "--work", "--items", str(options.items), "--rounds", str(options.rounds)]
    command += ["--bundles", str(options.bundles.resolve())]
    there = {**os.environ, "PYTHONPATH": str(checkout.resolve()), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=there, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def asked(one: "subprocess.Popen[str]", kind: str, number: int) -> dict[str, Any]:
    """Return what a process says of a round."""
    assert one.stdin and one.stdout
    print(f"{kind}\t{number}", file=one.stdin, flush=True)
    answer: dict[str, Any] = json.loads(one.stdout.readline())
    return answer


def work(bundle: Path, items: int, rounds: int) -> None:
    """Answer each line of a kind and a round with the seconds, and a digest of the lists."""
    torch.set_num_threads(1)
    recommender = load_bundle(bundle, pl.read_parquet(bundle / "items.parquet")).recommender
    out = (
        recommender.retriever.model.user_tower.out
    )  # of zeros in a made-up bundle: what the tower computes would not show
    torch.nn.init.normal_(out.weight, std=0.03, generator=torch.Generator().manual_seed(0))
    log = log_of(topics_of(items), rounds * PART, 30, np.random.default_rng(1))

    def part(number: int) -> Callable[[], list[Ranking]]:
        users = np.arange(number * PART, (number + 1) * PART)
        histories = log.histories(users, np.full(PART, NOW), HISTORY)
        return lambda: [recommender.recommend(histories, RecommendOptions(k=100))]

    def rankings(number: int) -> Callable[[], list[Ranking]]:
        rng = np.random.default_rng(number)
        drawn = [rng.choice(items, CANDIDATES + HISTORY, replace=False)[None] for _ in range(RANKINGS)]
        past = [history_of(one[:, :HISTORY]) for one in drawn]
        return lambda: [
            recommender.rank(histories, one[:, HISTORY:]) for histories, one in zip(past, drawn, strict=True)
        ]

    for line in sys.stdin:
        kind, number = line.rstrip("\n").split("\t")
        make = (part if "list" in kind else rankings)(int(number))
        start = time.process_time()
        made = make()
        seconds = time.process_time() - start
        lists = hashlib.sha256(b"".join(ranking.items.tobytes() for ranking in made)).hexdigest()
        print(json.dumps({"seconds": seconds, "lists": lists}), flush=True)


def history_of(items: np.ndarray) -> Histories:
    """Return `items` `[R, L]` as clicks, an hour apart."""
    times = NOW - 3_600_000_000 * np.arange(items.shape[1], 0, -1)
    return Histories(
        items.astype(np.int32),
        np.zeros(items.shape, np.int8),
        np.tile(times, (len(items), 1)),
        np.full(len(items), NOW),
    )


if __name__ == "__main__":
    main()
