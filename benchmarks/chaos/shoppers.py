"""The load of a chaos run, a Locust file: people who ask for lists, act on them, change items, and are forgotten.

In: CHAOS_FOLDER, CHAOS_URLS (comma-separated servers) and CHAOS_KEY. Out: in that folder `answers.csv`, for each request its time,
server, route, status, whether it said when to come again, and milliseconds; and `ledger.txt`, a line as soon as it is so:
`try USER EVENT…` before events are sent, `kept USER EVENT…` when they are acknowledged, `forget USER` and `forgotten USER` likewise.

A person is one shopper's alone, so that the lines of a person are in order. A request that fails goes to the other server, with
the same ids of events.
"""

import itertools
import os
import random
import time
import uuid
from pathlib import Path
from typing import Any, TextIO

from locust import HttpUser, constant_throughput, task

from benchmarks.chaos.machines import ITEMS, USERS

FOLDER = Path(os.environ["CHAOS_FOLDER"])
URLS = os.environ["CHAOS_URLS"].split(",")
QUERIES = ("a red lamp", "warm jacket", "golden chair for the garden", "blue tent", "plain desk", "small silver knife")
SHOPPERS = 6
PERSONS = 20
"""People that a shopper is, in turn."""
ATTEMPTS = 150
WAIT_S = 0.3

numbers = itertools.count()
written: dict[str, TextIO] = {name: (FOLDER / name).open("a", buffering=1) for name in ("ledger.txt", "answers.csv")}


class Shopper(HttpUser):
    """Some people, two requests a second at most."""

    host = URLS[0]
    wait_time = constant_throughput(2)

    def on_start(self) -> None:
        """Be those of the model's users whom no other shopper is."""
        number = next(numbers)
        self.persons = [f"u{person:07d}" for person in range(number, USERS, SHOPPERS)][:PERSONS]
        self.server = number % len(URLS)
        self.impressions: list[str] = []
        self.request_id: str | None = None
        self.client.headers["Authorization"] = f"Bearer {os.environ['CHAOS_KEY']}"

    def send(self, method: str, path: str, route: str, body: Any = None, attempts: int = 2) -> Any:
        """Send a request, to the other server when one fails, and return the answer's JSON; None without any."""
        for attempt in range(attempts):
            if attempt:
                self.server = (self.server + 1) % len(URLS)
                time.sleep(WAIT_S)
            start = time.time()
            answer = self.client.request(method, URLS[self.server] + path, json=body, name=route, timeout=30)
            taken, retry = 1000 * (time.time() - start), int("retry-after" in answer.headers)
            line = f"{start:.3f},{self.server},{route},{answer.status_code},{retry},{taken:.1f}"
            written["answers.csv"].write(line + "\n")
            if answer.status_code == 200:
                return answer.json()
        return None

    @property
    def person(self) -> str:
        """One of the shopper's people."""
        return random.choice(self.persons)

    @task(8)
    def recommend(self) -> None:
        """Ask for a list, with a sentence or filters now and then."""
        body: dict[str, Any] = {"user_id": self.person, "k": 20}
        if random.random() < 0.2:
            body["query"] = random.choice(QUERIES)
        if random.random() < 0.2:
            body["filters"] = {"price": {"max": random.choice([20, 50, 100])}}
        answer = self.send("POST", "/v1/recommend", "recommend", body)
        if answer:
            self.impressions = [item["item_id"] for item in answer["items"]]
            self.request_id = answer["request_id"]

    @task(6)
    def act(self) -> None:
        """Click on something, once or a few times, as on what was listed last."""
        person = self.person
        sent = [
            {
                "event_id": uuid.uuid4().hex,
                "user_id": person,
                "item_id": random.choice(self.impressions or ["i0000001"]),
                "event_type": random.choice(["view", "click", "cart", "purchase"]),
                "request_id": self.request_id,
            }
            for _ in range(random.randrange(1, 6))
        ]
        ids = " ".join(str(event["event_id"]) for event in sent)
        written["ledger.txt"].write(f"try {person} {ids}\n")
        if self.send("POST", "/v1/events", "events", {"events": sent}, ATTEMPTS):
            written["ledger.txt"].write(f"kept {person} {ids}\n")

    @task(1)
    def be_forgotten(self) -> None:
        """Have somebody forgotten."""
        person = self.person
        written["ledger.txt"].write(f"forget {person}\n")
        if self.send("DELETE", f"/v1/users/{person}", "forget", attempts=ATTEMPTS):
            written["ledger.txt"].write(f"forgotten {person}\n")

    @task(2)
    def rank(self) -> None:
        """Have candidates ordered."""
        candidates = [f"i{row:07d}" for row in random.sample(range(ITEMS), 100)]
        self.send("POST", "/v1/rank", "rank", {"user_id": self.person, "candidates": candidates})

    @task(2)
    def search(self) -> None:
        """Type something."""
        self.send("POST", "/v1/search", "search", {"query": random.choice(QUERIES)})

    @task(1)
    def similar(self) -> None:
        """Look beside an item."""
        self.send("GET", f"/v1/items/i{random.randrange(ITEMS):07d}/similar", "similar")

    @task(1)
    def put(self) -> None:
        """Change one of a few items."""
        item = {"item_id": f"new-{random.randrange(20)}", "title": random.choice(QUERIES), "price": 10.0}
        self.send("PUT", "/v1/items", "items", {"items": [item]})
