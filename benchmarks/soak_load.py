"""The load of `benchmarks.soak`, a Locust file: users who ask for lists, act on them, and change items.

In: the server (`--host`), and the folder SOAK_FOLDER. Out: in that folder `acknowledged.txt`, an event id a
line as soon as the server acknowledged it, and `answers.csv`, for each request its time, route, status, and
whether a 503 said when to come again.
"""

import os
import random
import time
import uuid
from pathlib import Path
from typing import Any, TextIO

from locust import HttpUser, constant_throughput, events, task

FOLDER = Path(os.environ["SOAK_FOLDER"])
ITEMS, USERS = int(os.environ["SOAK_ITEMS"]), int(os.environ["SOAK_USERS"])
QUERIES = ("a red lamp", "warm jacket", "golden chair for the garden", "blue tent", "plain desk", "small silver knife")

written: dict[str, TextIO] = {
    name: (FOLDER / name).open("a", buffering=1) for name in ("acknowledged.txt", "answers.csv")
}


@events.request.add_listener
def note(name: str, response: Any, **rest: Any) -> None:
    """Write down what was answered; status 0 is a connection that failed."""
    status = getattr(response, "status_code", 0) or 0
    retry = int("retry-after" in getattr(response, "headers", {}))
    written["answers.csv"].write(f"{time.time():.3f},{name},{status},{retry},{rest['response_time']:.1f}\n")


class Shopper(HttpUser):
    """Somebody who looks and clicks, two requests a second at most."""

    wait_time = constant_throughput(2)

    def on_start(self) -> None:
        """Be someone."""
        self.user_id = f"u{random.randrange(2 * USERS):07d}"
        self.impressions: list[str] = []
        self.request_id: str | None = None

    @task(8)
    def recommend(self) -> None:
        """Ask for a list, with a sentence or filters now and then."""
        body: dict[str, Any] = {"user_id": self.user_id, "k": 20}
        if random.random() < 0.2:
            body["query"] = random.choice(QUERIES)
        if random.random() < 0.2:
            body["filters"] = {"price": {"max": random.choice([20, 50, 100])}}
        answer = self.client.post("/v1/recommend", json=body, name="recommend")
        if answer.status_code == 200:
            self.impressions = [item["item_id"] for item in answer.json()["items"]]
            self.request_id = answer.json()["request_id"]

    @task(6)
    def act(self) -> None:
        """Click on something, once or a few times, as on what was shown last."""
        sent = [
            {
                "event_id": uuid.uuid4().hex,
                "user_id": self.user_id,
                "item_id": random.choice(self.impressions or ["i0000001"]),
                "event_type": random.choice(["view", "click", "cart", "purchase"]),
                "request_id": self.request_id,
            }
            for _ in range(random.randrange(1, 6))
        ]
        answer = self.client.post("/v1/events", json={"events": sent}, name="events")
        if answer.status_code == 200:
            written["acknowledged.txt"].write("".join(f"{event['event_id']}\n" for event in sent))

    @task(2)
    def rank(self) -> None:
        """Have candidates ordered."""
        candidates = [f"i{row:07d}" for row in random.sample(range(ITEMS), 100)]
        self.client.post("/v1/rank", json={"user_id": self.user_id, "candidates": candidates}, name="rank")

    @task(2)
    def search(self) -> None:
        """Type something."""
        self.client.post("/v1/search", json={"query": random.choice(QUERIES)}, name="search")

    @task(1)
    def similar(self) -> None:
        """Look beside an item."""
        self.client.get(f"/v1/items/i{random.randrange(ITEMS):07d}/similar", name="similar")

    @task(1)
    def put(self) -> None:
        """Change one of a few items."""
        item = {"item_id": f"new-{random.randrange(20)}", "title": random.choice(QUERIES), "price": 10.0}
        self.client.put("/v1/items", json={"items": [item]}, name="items")
