"""Requests a second of one process and of replicas, with and without batches, under the same load.

    python -m benchmarks.replicas --items 10000 --clients 16

In: the URL of a PostgreSQL database in RECSYS_TEST_POSTGRES. Out: a line per server. All servers are up
the whole time and get requests in turn, round after round, so that other work on the machine affects them equally.
"""

import argparse
import http.client
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import psutil

SERVERS = {
    "one process": ("one", 1),
    "one process, batches": ("one", 8),
    "2 replicas": ("ray", 1),
    "2 replicas, batches": ("ray", 8),
}
USERS = 2000


def serve(kind: str, batch: int, bundle: str, port: int) -> None:
    """Answer on `port` until the process is stopped."""
    import uvicorn

    from serving.api.access.limits import Limits
    from serving.api.app import create_app
    from serving.api.replicas import Plan, run
    from serving.api.server import open_model
    from serving.store.store import Store

    limits = Limits(per_second=10**6)
    if kind == "ray":
        run(
            Plan(bundle, os.environ["RECSYS_TEST_POSTGRES"], limits, batch=batch),
            host="127.0.0.1",
            port=port,
            replicas=2,
        )
    else:
        store = Store(os.environ["RECSYS_TEST_POSTGRES"])
        app = create_app(open_model(bundle, store), store, limits=limits, batch=batch)
        uvicorn.run(app, port=port, log_level="error")


def start(kind: str, batch: int, bundle: Path, stack: ExitStack) -> tuple[int, psutil.Process]:
    """Start a server, wait until it answers, and return its port and process; `stack` stops it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    arguments = ["--serve", kind, str(batch), str(bundle), str(port)]
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.replicas", *arguments], stdout=subprocess.DEVNULL)
    stack.callback(process.wait)
    stack.callback(process.send_signal, signal.SIGTERM)
    while True:
        if process.poll() is not None:
            raise SystemExit(f"the server {kind} {batch} ended with {process.returncode}")
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:
                return port, psutil.Process(process.pid)
        except OSError:
            time.sleep(0.5)


def processor_s(process: psutil.Process) -> float:
    """Return the processor time that a server and all below it have used."""
    return sum(sum(one.cpu_times()[:2]) for one in (process, *process.children(recursive=True)))


def load(port: int, clients: int, seconds: float) -> list[float]:
    """Ask for lists from as many threads and return the milliseconds of each answer."""
    spent: list[float] = []
    end = time.perf_counter() + seconds

    def ask(client: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        user = client
        while time.perf_counter() < end:
            begun, user = time.perf_counter(), (user + clients) % USERS
            body = json.dumps({"user_id": f"u{user:07d}", "k": 20})
            connection.request("POST", "/v1/recommend", body, {"content-type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            if answer.status == 200:
                spent.append(1000 * (time.perf_counter() - begun))

    threads = [threading.Thread(target=ask, args=(client,)) for client in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return spent


def main() -> None:
    """Measure every server and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=5, help="of one round of one server")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--serve", nargs=4, metavar=("KIND", "BATCH", "BUNDLE", "PORT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        kind, batch, bundle, port = options.serve
        serve(kind, int(batch), bundle, int(port))
        return
    from benchmarks.serving_world import bundle_of

    made = bundle_of(Path(tempfile.gettempdir()) / "recsys-replicas", options.items, USERS)
    rates: dict[str, list[float]] = {name: [] for name in SERVERS}
    times: dict[str, list[float]] = {name: [] for name in SERVERS}
    used = dict.fromkeys(SERVERS, 0.0)
    with ExitStack() as stack:
        servers = {name: start(*server, made, stack) for name, server in SERVERS.items()}
        for round_ in range(options.rounds + 1):
            for name, (port, process) in servers.items():
                before = processor_s(process)
                spent = load(port, options.clients, options.seconds)
                if round_:  # the first one warms up
                    used[name] += processor_s(process) - before
                    rates[name].append(len(spent) / options.seconds)
                    times[name] += spent
    print(f"{options.items:,} items, {options.clients} clients, {os.cpu_count()} cores")
    for name, rate in rates.items():
        cuts = statistics.quantiles(times[name], n=100)
        ratio = statistics.median(mine / first for mine, first in zip(rate, rates["one process"], strict=True))
        print(
            f"{name:<22} {statistics.median(rate):6.1f} requests/s, {ratio:.2f} x the first, "
            f"p50 {cuts[49]:.0f} ms, p99 {cuts[98]:.0f} ms, processor {1000 * used[name] / len(times[name]):.1f} ms a list"
        )


if __name__ == "__main__":
    main()
