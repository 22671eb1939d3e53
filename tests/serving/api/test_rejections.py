"""Negative feedback: what a user dislikes or hides is in no list from the next one on."""

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from serving.api.app import create_app
from serving.loading import load_bundle
from serving.lookup import Lookup, PastEvent
from serving.store.store import Store
from tests.serving.api.conftest import NOW
from tests.serving.api.test_kinds_of_list import scores_without
from tests.worlds import client_of, holder_of, log_of, tiny_bundle

EVERY = [f"i{row}" for row in range(40)]


def listed(client: TestClient, **body: Any) -> dict[str, float]:
    """Return the scores of the longest list, in its order, by item."""
    answer = client.post("/v1/recommend", json={"k": 200, "exclude_seen": False, **body})
    assert answer.status_code == 200, answer.text
    return {item["item_id"]: item["score"] for item in answer.json()["items"]}


def say(client: TestClient, user: str, item: str, kind: str, time: int = NOW) -> None:
    """Send an event."""
    event = {"user_id": user, "item_id": item, "event_type": kind, "timestamp": time}
    assert client.post("/v1/events", json={"events": [event]}).json()["accepted"] == 1


@pytest.mark.parametrize("kind", ["dislike", "hide"])
def test_a_rejected_item_is_in_no_list_of_the_user_from_the_next_one_on(client: TestClient, kind: str) -> None:
    """Pages, likes, rows and scenarios among them; other users' lists stay as they are."""
    say(client, "u3", "i7", kind)
    assert set(listed(client, user_id="u3")) == set(EVERY) - {"i7"}
    assert "i7" not in listed(client, user_id="u3", like=["i8"])
    assert "i7" not in listed(client, user_id="u3", query="red lamp")
    rows = client.post("/v1/rows", json={"user_id": "u3", "rows": 10, "k": 50}).json()["rows"]
    assert rows and not any(item["item_id"] == "i7" for row in rows for item in row["items"])
    assert "i7" in listed(client, user_id="u4") and "i7" in listed(client)


def test_a_rejected_item_is_not_even_where_it_is_pinned_or_promoted(client: TestClient) -> None:
    """Others get it there."""
    rules = {"pins": [{"position": 2, "item": "i7"}], "promotions": [{"item": "i8", "within": 3}]}
    assert client.put("/v1/scenarios/home", json=rules).status_code == 200
    assert client.post("/v1/scenarios/home/switch", json={"on": True}).status_code == 200
    for item in ("i7", "i8"):
        say(client, "u3", item, "hide")
    assert not {"i7", "i8"} & set(listed(client, user_id="u3", scenario="home", k=40))
    assert list(listed(client, user_id="u4", scenario="home", k=40))[1] == "i7"


def test_hiding_leaves_all_other_scores_and_disliking_costs_what_is_similar(client: TestClient, tiny: Path) -> None:
    """A score loses the share that is its largest cosine to a disliked item."""
    lookup = Lookup(load_bundle(tiny))
    say(client, "u3", "i7", "hide")
    without = scores_without(lookup, ["i7"], "u3", None)
    assert listed(client, user_id="u3") == pytest.approx(without, rel=1e-3)
    say(client, "u3", "i9", "dislike")
    without, vectors = scores_without(lookup, ["i7", "i9"], "u3", None), lookup.retriever.vectors
    answer = listed(client, user_id="u3")
    assert set(answer) == set(without) and list(answer) != list(without)
    for item, score in answer.items():
        cosine = float(vectors[int(item[1:])] @ vectors[9])
        assert score == pytest.approx(without[item] * (1 - max(cosine, 0)), rel=1e-3, abs=1e-5)


def test_a_ranking_leaves_out_what_the_user_rejected_and_says_so(client: TestClient) -> None:
    say(client, "u3", "i7", "hide")
    answer = client.post("/v1/rank", json={"user_id": "u3", "candidates": ["i6", "i7", "i8"]}).json()
    assert {item["item_id"] for item in answer["items"]} == {"i6", "i8"} and answer["unknown_items"] == []
    assert answer["notes"] == ["left out: 1 candidates that the user rejected"]
    everything = client.post("/v1/rank", json={"user_id": "u3", "candidates": ["i7"]}).json()
    assert everything["items"] == []


def test_a_later_like_takes_a_rejection_back(client: TestClient) -> None:
    """By time, not by arrival."""
    say(client, "u3", "i7", "hide", NOW - 10)
    say(client, "u3", "i7", "like", NOW - 20)
    assert "i7" not in listed(client, user_id="u3")
    say(client, "u3", "i7", "cart", NOW - 5)
    assert "i7" in listed(client, user_id="u3")


def test_a_history_that_is_sent_may_hold_rejections(client: TestClient, tiny: Path) -> None:
    """They are no part of what the model reads."""
    past = [PastEvent("i1"), PastEvent("i2")]
    expected = scores_without(Lookup(load_bundle(tiny)), ["i7"], None, past)
    assert listed(client, history=["i1", "i2", {"item_id": "i7", "event_type": "hide"}]) == pytest.approx(
        expected, rel=1e-3
    )


def test_a_forgotten_users_rejections_are_forgotten(client: TestClient) -> None:
    say(client, "u3", "i7", "hide")
    assert client.delete("/v1/users/u3").status_code == 200
    assert "i7" in listed(client, user_id="u3")


def test_the_next_bundle_knows_what_was_rejected_before_it(tmp_path: Path, store: Store) -> None:
    """Also of a user who did nothing else, and until it is taken back in the store."""
    rows = [(f"u{u}", f"i{(3 * u + s * s) % 35}", "click", 5 * s + u % 5) for u in range(12) for s in range(5)]
    rows += [
        ("u3", "i7", "hide", 20),
        ("silent", "i8", "dislike", 20),
        ("u4", "i9", "hide", 1),
        ("u4", "i9", "like", 2),
    ]
    bundle = tiny_bundle(tmp_path, log=log_of(rows, 40))
    lookup = Lookup(load_bundle(bundle))
    assert lookup.past("silent") == [PastEvent("i8", "dislike", lookup.past("silent")[0].timestamp)]
    with client_of(create_app(holder_of(bundle, store), store, clock=lambda: NOW)) as client:
        assert set(EVERY) - set(listed(client, user_id="u3")) == {"i7"}
        assert set(EVERY) - set(listed(client, user_id="silent")) == {"i8"}
        assert set(listed(client, user_id="u4")) == set(EVERY)
        say(client, "u3", "i7", "purchase")
        assert set(listed(client, user_id="u3")) == set(EVERY)
