"""What a request costs one checkout of this repository against another, on a machine that others use as well.

    python -m benchmarks.compare_checkouts ../before . --rounds 20

In: two checkouts, which serve the same made-up bundle (see `benchmarks.serving_world`). Their servers answer the same
blocks of requests in turn. Out: medians over the blocks, and the ratio of the second checkout to the first: of the
milliseconds until an answer, of the processor time of the server per request, and of the requests a second.
"""

import argparse
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import perf_counter

import numpy as np
import psutil
from rich.table import Table

from benchmarks.load import Caller, Request, as_many, wait_until_ready
from benchmarks.serving_speed import event_seen, item_found, item_repriced, list_requests, rank_requests
from benchmarks.serving_world import bundle_of
from recsys.progress import console

Block = Callable[[Caller, int], list[float]]
"""Sends the block of a number and returns the milliseconds of each request."""


def main() -> None:
    """Serve both checkouts, send blocks in turn, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkouts", type=Path, nargs=2, help="the checkout before, and the one after a change")
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=20, help="blocks of each kind")
    parser.add_argument("--requests", type=int, default=50, help="requests of a block")
    parser.add_argument("--only", nargs="+", help="kinds of requests")
    parser.add_argument("--bundles", type=Path, default=Path(".recsys/benchmarks"))
    options = parser.parse_args()
    bundle_of(options.bundles, options.items)
    table = Table("", "p50 ms", "", "ratio", "processor ms", "", "ratio")
    with ExitStack() as servers:
        running = [servers.enter_context(server(path, options)) for path in options.checkouts]
        for name, block in blocks(options.items, options.requests).items():
            if not options.only or any(word in name for word in options.only):
                table.add_row(name, *compared(running, block, options.rounds))
        console.print(table)
        if not options.only or "full" in options.only:
            console.print(at_full_speed(running, options.items, options.rounds))


def blocks(items: int, size: int) -> dict[str, Block]:
    """Return the kinds of requests that are compared."""
    again, lists = rank_requests(items, np.random.default_rng(0), size), list_requests(np.random.default_rng(0), 4000)

    def fresh(number: int) -> list[Request]:
        return rank_requests(items, np.random.default_rng(1 + number), size)

    return {
        "/v1/rank, histories that are new": lambda call, number: [timed(call, one) for one in fresh(number)],
        "/v1/rank, histories that came before": lambda call, number: [timed(call, one) for one in again],
        "/v1/recommend, k = 20": lambda call, number: [
            timed(call, lists[index % len(lists)]) for index in range(number * size, (number + 1) * size)
        ],
        "event, until the list knows it": lambda call, number: [
            event_seen(call, index) for index in range(number * size, (number + 1) * size)
        ],
        "item, until the list has it": lambda call, number: [
            item_found(call, index) for index in range(number * 5, number * 5 + 5)
        ],
        "price, until lists know it": lambda call, number: [
            item_repriced(call, index) for index in range(number * 5, number * 5 + 5)
        ],
    }


def timed(call: Caller, request: Request) -> float:
    """Return the milliseconds of one request."""
    start = perf_counter()
    call(request)
    return 1000 * (perf_counter() - start)


def compared(servers: list[tuple[int, psutil.Process]], block: Block, rounds: int) -> list[str]:
    """Return the cells of a row: medians of both servers and their ratio, of milliseconds and of processor time."""
    waited, worked = np.zeros((rounds, 2)), np.zeros((rounds, 2))
    for number in range(-1, rounds):  # the first is not counted
        for index in (0, 1) if number % 2 else (1, 0):
            port, process = servers[index]
            before = sum(process.cpu_times()[:2])
            taken = block(Caller(port), number + 1)
            if number >= 0:
                waited[number, index] = np.median(taken)
                worked[number, index] = 1000 * (sum(process.cpu_times()[:2]) - before) / len(taken)
    cells = []
    for figures in (waited, worked):
        cells += [f"{value:.2f}" for value in np.median(figures, axis=0)]
        cells.append(f"{np.median(figures[:, 1] / figures[:, 0]):.2f}")
    return cells


def at_full_speed(servers: list[tuple[int, psutil.Process]], items: int, rounds: int) -> str:
    """Return the line on `/v1/rank` as fast as it goes, histories that are new, against an echo of its bodies."""
    shares = np.zeros((rounds, 2))
    for number in range(rounds):
        ranks = rank_requests(items, np.random.default_rng(100_000 + number), 1000)
        echoes = [(method, "/v1/echo", body) for method, _, body in ranks]
        for index, (port, _) in enumerate(servers):
            shares[number, index] = as_many(port, ranks, 1) / as_many(port, echoes, 0.5)
    before, after = np.median(shares, axis=0)
    ratio = np.median(shares[:, 1] / shares[:, 0])
    return f"/v1/rank at full speed, as a share of an echo: {before:.3f} before, {after:.3f} after; ratio {ratio:.2f}"


@contextmanager
def server(checkout: Path, options: argparse.Namespace) -> Iterator[tuple[int, psutil.Process]]:
    """Serve a checkout; yield its port and process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "benchmarks.serving_speed", "--serve", str(port), "--items", str(options.items)]
    command += ["--bundles", str(options.bundles.resolve())]
    there = {"PYTHONPATH": str(checkout.resolve()), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=checkout, env={**os.environ, **there})
    try:
        wait_until_ready(port)
        yield port, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main()
