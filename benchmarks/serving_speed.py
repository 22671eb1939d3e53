"""How fast the API answers, on a made-up catalogue, from another process on this machine.

    python -m benchmarks.serving_speed                    # all rows, some 4 minutes and the making of the bundle
    python -m benchmarks.serving_speed --profile          # where the time of a ranking goes

Prints latencies at a fixed rate, requests/s beside an endpoint of the same app that only parses and
echoes the same body, and how soon an event and a new item are seen.
"""

import argparse
import cProfile
import json
import os
import pstats
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import uvicorn
from rich.table import Table

from benchmarks.load import Caller, Request, as_many, at_rate, wait_until_ready
from benchmarks.serving_world import bundle_of
from recsys.progress import console
from serving.api.access.limits import Limits
from serving.api.app import create_app
from serving.api.live import ModelHolder
from serving.api.metrics import Metrics
from serving.api.schemas import RankRequest
from serving.api.server import open_model
from serving.api.service import Service
from serving.api.workers import BATCH
from serving.store.impressions import ImpressionLog
from serving.store.store import Store

CANDIDATES = 200
HISTORY = 50


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=30, help="of each measurement")
    parser.add_argument("--bundles", type=Path, default=Path(".recsys/benchmarks"))
    parser.add_argument("--profile", action="store_true", help="profile rankings instead")
    parser.add_argument("--batch", type=int, default=BATCH, help="requests that one call of the model answers at most")
    parser.add_argument("--serve", type=int, metavar="PORT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    bundle = bundle_of(options.bundles, options.items)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(f"sqlite:///{folder}/store.db")
        if options.serve:
            serve(bundle, store, options.serve, options.batch)
        elif options.profile:
            profile(bundle, store, options.items)
        else:
            with _server(options) as port:
                wait_until_ready(port)
                measure(port, options.items, options.seconds)


def measure(port: int, items: int, seconds: float) -> None:
    """Print the table of one server."""
    rng = np.random.default_rng(0)
    ranks, lists = rank_requests(items, rng), list_requests(rng)
    at_rate(port, ranks + lists, 20, 5)  # warm
    table = Table("what", "p50 ms", "p99 ms", "target", title=f"{items:,} items, {seconds:g} s each")
    for name, requests, rate, target in (
        (f"/v1/rank, {CANDIDATES} candidates, history of {HISTORY}, 50 requests/s", ranks, 50, "10, 40"),
        ("/v1/recommend, k = 20, 30 requests/s", lists, 30, "15, 60"),
    ):
        taken = at_rate(port, requests, rate, seconds)
        table.add_row(name, *(f"{np.percentile(taken, share):.1f}" for share in (50, 99)), target)
    for name, seen in (
        ("event sent to the list that knows it", event_seen),
        ("item put to the list that has it", item_found),
    ):
        call = Caller(port)
        taken = np.array([seen(call, number) for number in range(50)])
        target = "50" if seen is event_seen else "1000"
        table.add_row(name, *(f"{np.percentile(taken, share):.1f}" for share in (50, 99)), target)
    console.print(table)
    echoes = [("POST", "/v1/echo", body) for _, _, body in ranks]
    rates = [(as_many(port, ranks, seconds / 4), as_many(port, echoes, seconds / 4)) for _ in range(4)]
    ours, echo = np.median(rates, axis=0)
    ratio = float(np.median([one / other for one, other in rates]))
    console.print(f"/v1/rank {ours:.0f} requests/s, echo of its body {echo:.0f}: {ratio:.2f} of it (target 0.25)")


def rank_requests(items: int, rng: np.random.Generator, count: int = 200) -> list[Request]:
    """Return rankings of `CANDIDATES` items after histories of `HISTORY`."""
    requests = []
    for _ in range(count):
        drawn = [f"i{item:07d}" for item in rng.choice(items, CANDIDATES + HISTORY, replace=False)]
        body = {"history": drawn[:HISTORY], "candidates": drawn[HISTORY:]}
        requests.append(("POST", "/v1/rank", json.dumps(body).encode()))
    return requests


def list_requests(rng: np.random.Generator, count: int = 200) -> list[Request]:
    """Return requests for lists of 20 for users that the model knows."""
    users = rng.integers(20_000, size=count)
    return [("POST", "/v1/recommend", json.dumps({"user_id": f"u{user:07d}", "k": 20}).encode()) for user in users]


def serve(bundle: Path, store: Store, port: int, batch: int) -> None:
    """Answer on `port` as `recsys serve` does, with an endpoint that echoes beside the others."""
    holder = open_model(str(bundle), store)
    app = create_app(holder, store, limits=Limits(per_second=100_000), batch=batch)

    @app.post("/v1/echo")
    async def echo(body: RankRequest) -> RankRequest:
        return body

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)


def profile(bundle: Path, store: Store, items: int) -> None:
    """Print the functions in which rankings spend their time."""
    torch.set_num_threads(1)
    holder = ModelHolder(str(bundle), store)
    metrics = Metrics(lambda: "benchmark")
    service = Service(holder, store, metrics, ImpressionLog(store, metrics.dropped.inc))
    bodies = [RankRequest.model_validate_json(body) for _, _, body in rank_requests(items, np.random.default_rng(0))]
    for body in bodies[:20]:
        service.rank_all([body])
    with cProfile.Profile() as profiler:
        for body in bodies:
            service.rank_all([body])
    statistics: Any = pstats.Stats(profiler)
    console.print(f"{1000 * statistics.total_tt / len(bodies):.2f} ms a ranking under the profiler")
    statistics.sort_stats("tottime").print_stats(20)


@contextmanager
def _server(options: argparse.Namespace) -> Iterator[int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "benchmarks.serving_speed", "--serve", str(port)]
    command += ["--items", str(options.items), "--bundles", str(options.bundles), "--batch", str(options.batch)]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})  # as `recsys serve` does
    try:
        yield port
    finally:
        process.terminate()
        process.wait()


def event_seen(call: Caller, number: int) -> float:
    """Return the milliseconds from an event of an unknown user to the answered list that follows from it."""
    user, item = f"new user {number}", f"i{number:07d}"
    start = time.perf_counter()
    call.json("POST", "/v1/events", {"events": [{"user_id": user, "item_id": item}]})
    answer = call.json("POST", "/v1/recommend", {"user_id": user, "k": 20, "explain": True})
    taken = 1000 * (time.perf_counter() - start)
    assert answer["items"][0]["reasons"]["nearest"][0]["item_id"] == item
    return taken


def item_found(call: Caller, number: int) -> float:
    """Return the milliseconds from a new item of a new brand to the answered list of that brand."""
    item, brand = f"new {number}", f"unheard-of {number}"
    start = time.perf_counter()
    call.json("PUT", "/v1/items", {"items": [{"item_id": item, "title": "a green lamp", "brand": brand}]})
    answer = call.json("POST", "/v1/recommend", {"user_id": "u0000001", "k": 20, "filters": {"brand": brand}})
    taken = 1000 * (time.perf_counter() - start)
    assert [listed["item_id"] for listed in answer["items"]] == [item]
    return taken


def item_repriced(call: Caller, number: int) -> float:
    """Return the milliseconds until an item whose text stays has another price."""
    item = {"item_id": "repriced", "title": "a green lamp", "brand": "repriced", "price": 1 + number}
    start = time.perf_counter()
    call.json("PUT", "/v1/items", {"items": [item]})
    return 1000 * (time.perf_counter() - start)


if __name__ == "__main__":
    main()
