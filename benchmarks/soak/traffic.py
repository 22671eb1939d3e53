"""The requests of a soak: lists of every kind, events, changed items and users, people who are forgotten.

In: a bundle. Out: requests that can be sent again and again. They are chosen so that what a server keeps by design comes to an
end within the warm-up: those who act are forgotten in turn, and with them their events, which servers count in memory; items
and users that change are few; typed queries are more than a server caches.
"""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from benchmarks.load import Request

LENGTH = 6000
"""Requests before they begin again: five minutes at 20 a second."""
ACTING = 120
"""People who act and are forgotten, a third of them known to the bundle; each about twice in `LENGTH` requests."""
QUERIES = 400
"""Typed sentences, more than the 256 of which a server caches what it read."""
CHANGED = 20
"""Items that are put and deleted."""
SCENARIO = {"boosts": [{"factor": 1.5, "where": {"price": {"max": 50}}}], "per_brand": 3, "diversity": 0.2}


def requests_of(bundle: Path, seed: int = 0) -> list[Request]:
    """Return the requests, for the items and users of the bundle in that folder."""
    items = pl.read_parquet(bundle / "items.parquet", columns=["item_id", "title"])
    users = pl.read_parquet(bundle / "users.parquet", columns=["user_id"])["user_id"].to_list()
    return Traffic(items, users, random.Random(seed)).requests(LENGTH)


class Traffic:
    """Draws requests."""

    def __init__(self, items: pl.DataFrame, users: list[str], rng: random.Random) -> None:
        self._rng, self._items = rng, items["item_id"].to_list()
        words = [word for title in items["title"].to_list() for word in title.split()]
        self._queries = [" ".join(rng.sample(words, 3)) for _ in range(QUERIES)]
        acting = min(ACTING // 3, len(users) // 2)
        self._acting = [*users[:acting], *(f"soak-{number}" for number in range(ACTING - acting))]
        self._looking = users[acting:]
        self._kinds: dict[Callable[[], Request], float] = {
            self._recommend: 8,
            self._act: 6,
            self._rank: 3,
            self._search: 2,
            self._beside: 2,
            self._forget: 1,
            self._put: 0.3,
            self._look: 0.7,
        }

    def requests(self, count: int) -> list[Request]:
        """Return as many requests."""
        kinds = self._rng.choices(list(self._kinds), list(self._kinds.values()), k=count)
        return [kind() for kind in kinds]

    def _recommend(self) -> Request:
        who: dict[str, Any] = self._rng.choice(
            [
                {"user_id": self._rng.choice(self._looking)},
                {"user_id": self._rng.choice(self._acting)},
                {"user_id": f"stray-{self._rng.getrandbits(40)}"},
                {"history": self._rng.sample(self._items, 5)},
                {"like": self._rng.sample(self._items, 2), "unlike": self._rng.sample(self._items, 1)},
                {"query": self._rng.choice(self._queries)},
            ]
        )
        how: dict[str, Any] = self._rng.choice(
            [
                {},
                {"scenario": "soak"},
                {"filters": {"price": {"max": self._rng.randrange(5, 500)}}},
                {"explain": True, "k": 10},
                {"diversity": 0.3},
            ]
        )
        return _request("POST", "/v1/recommend", {"k": 20, **who, **how})

    def _act(self) -> Request:
        user = self._rng.choice(self._acting)
        kinds = self._rng.choices(["view", "click", "cart", "purchase", "dislike"], k=self._rng.randrange(1, 6))
        events = [{"user_id": user, "item_id": self._rng.choice(self._items), "event_type": kind} for kind in kinds]
        return _request("POST", "/v1/events", {"events": events})

    def _rank(self) -> Request:
        candidates = self._rng.sample(self._items, min(100, len(self._items)))
        return _request("POST", "/v1/rank", {"user_id": self._rng.choice(self._looking), "candidates": candidates})

    def _search(self) -> Request:
        return _request("POST", "/v1/search", {"query": self._rng.choice(self._queries)})

    def _beside(self) -> Request:
        return _request("GET", f"/v1/items/{self._rng.choice(self._items)}/{self._rng.choice(['similar', 'together'])}")

    def _forget(self) -> Request:
        return _request("DELETE", f"/v1/users/{self._rng.choice(self._acting)}")

    def _put(self) -> Request:
        title = self._rng.choice(self._queries)
        item = {"item_id": f"soak-{self._rng.randrange(CHANGED)}", "title": title, "price": self._rng.randrange(5, 500)}
        return _request("PUT", "/v1/items", {"items": [item | {"available": self._rng.random() < 0.8}]})

    def _look(self) -> Request:
        user = self._rng.choice(self._acting)
        return self._rng.choice(
            [
                _request("GET", f"/?user={user}"),
                _request("GET", "/metrics"),
                _request("GET", "/v1/trending"),
                _request("POST", "/v1/rows", {"user_id": user}),
                _request("PUT", f"/v1/users/{user}", {"attributes": {"plan": "family"}}),
            ]
        )


def _request(method: str, path: str, body: Any = None) -> Request:
    return method, path, b"" if body is None else json.dumps(body).encode()
