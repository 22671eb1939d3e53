"""Latency of `/v1/rank` of several running servers, asked in turn: what one version costs against another.

    recsys serve --model BUNDLE --port 8701        # one version
    recsys serve --model BUNDLE --port 8702        # another one, of the same bundle
    .venv/bin/python -m benchmarks.compare_servers DATASET old:8701 new:8702

In: a dataset with the bundle's users and items, and a name and port per server. Out: p50 and p99 in milliseconds, and
the ratio of each p50 to that of the first server.
"""

import argparse
import http.client
import json
import random
import time
from pathlib import Path

import numpy as np

from features.data.dataset import load_dataset

CANDIDATES = 200


def main() -> None:
    """Send the same requests to every server, in random order, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("servers", nargs="+", metavar="NAME:PORT")
    parser.add_argument("--rounds", type=int, default=600)
    options = parser.parse_args()
    dataset, rng = load_dataset(options.dataset), random.Random(0)
    items = dataset.items["item_id"].to_list()
    users = dataset.events.select("user_id").unique().sort("user_id").collect()["user_id"].to_list()
    connections = {
        name: http.client.HTTPConnection("127.0.0.1", int(port))
        for name, port in (server.split(":") for server in options.servers)
    }
    milliseconds: dict[str, list[float]] = {name: [] for name in connections}
    for _ in range(options.rounds):
        candidates = rng.sample(items, min(CANDIDATES, len(items)))
        body = json.dumps({"user_id": rng.choice(users), "candidates": candidates})
        for name in rng.sample(list(connections), len(connections)):
            milliseconds[name].append(rank(connections[name], body))
    first = None
    for name, values in milliseconds.items():
        p50, p99 = np.percentile(values[options.rounds // 10 :], [50, 99])
        first = first or p50
        print(f"{name:12}p50 {p50:8.2f} ms  p99 {p99:8.2f} ms  ratio {p50 / first:.3f}")


def rank(connection: http.client.HTTPConnection, body: str) -> float:
    """Return the milliseconds of one ranking."""
    start = time.perf_counter()
    connection.request("POST", "/v1/rank", body, {"content-type": "application/json"})
    answer = connection.getresponse()
    text = answer.read()
    if answer.status != 200:
        raise SystemExit(f"{answer.status}: {text[:200]!r}")
    return 1000 * (time.perf_counter() - start)


if __name__ == "__main__":
    main()
