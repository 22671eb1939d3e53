"""Rankings and probes of a running server while its catalogue and its model change, against the same in quiet.

    recsys serve --model BUNDLE --port 8701
    python -m benchmarks.busy_server DATASET 8701

In: a dataset with the bundle's users and items, and the server's port. Out: p50 and p99 of `/v1/rank` (200 candidates, 20 a second) and
the slowest `/readyz` (10 a second), in milliseconds, in quiet and while 256 items are put and the model is reloaded, in turn.
"""

import argparse
import json
import random
import threading
from pathlib import Path

import numpy as np

from benchmarks.load import Caller, Request, at_rate
from features.data.dataset import load_dataset

CANDIDATES, PER_SECOND, PROBES_PER_SECOND, SECONDS, ITEMS = 200, 20, 10, 30, 256


def main() -> None:
    """Measure twice and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("port", type=int)
    options = parser.parse_args()
    dataset, rng = load_dataset(options.dataset), random.Random(0)
    items = dataset.items["item_id"].to_list()
    users = dataset.events.select("user_id").unique().sort("user_id").collect()["user_id"].to_list()
    requests: list[Request] = []
    for _ in range(200):
        body = {"user_id": rng.choice(users), "candidates": rng.sample(items, min(CANDIDATES, len(items)))}
        requests.append(("POST", "/v1/rank", json.dumps(body).encode()))
    texts = dataset.items.select("title", "description").rows()
    at_rate(options.port, requests, PER_SECOND, 5)
    measure("quiet", options.port, requests)
    done, changes = threading.Event(), [0]
    changing = threading.Thread(target=change, args=(options.port, texts, done, changes))
    changing.start()
    measure("while items are put and the model is reloaded", options.port, requests)
    done.set()
    changing.join()
    print(f"{changes[0]} times {ITEMS} items and a reload")


def measure(name: str, port: int, requests: list[Request]) -> None:
    """Print the figures of `SECONDS` seconds."""
    probes: list[float] = []

    def probe() -> None:
        probes.extend(at_rate(port, [("GET", "/readyz", b"")], PROBES_PER_SECOND, SECONDS, callers=4))

    probing = threading.Thread(target=probe)
    probing.start()
    p50, p99 = np.percentile(at_rate(port, requests, PER_SECOND, SECONDS), [50, 99])
    probing.join()
    print(f"{name:50}p50 {p50:7.1f} ms  p99 {p99:7.1f} ms  slowest probe {max(probes):7.1f} ms", flush=True)


def change(port: int, texts: list[tuple[str, str]], done: threading.Event, changes: list[int]) -> None:
    """Put items and reload the model until `done` is set."""
    call = Caller(port)
    while not done.is_set():
        some = random.Random(changes[0]).sample(texts, ITEMS)
        items = [{"item_id": f"new-{n}", "title": title, "description": text} for n, (title, text) in enumerate(some)]
        call.json("PUT", "/v1/items", {"items": items})
        call.json("POST", "/v1/model/reload")
        changes[0] += 1


if __name__ == "__main__":
    main()
