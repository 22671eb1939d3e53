"""The API answers what it documents, refuses what it does not, and never fails with 5xx."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from serving.api import MAX_BODY_BYTES, MAX_CANDIDATES, create_app
from serving.batch import histories_of
from serving.loading import load_bundle
from tests.worlds import DAY, tiny_bundle, tiny_recommender


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a small bundle."""
    return tiny_bundle(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def client(folder: Path) -> TestClient:
    """Return a client of an app whose clock stands still."""
    return TestClient(create_app(load_bundle(folder), "tiny", clock=lambda: 1_702_000_000_000_000))


def ids(answer: Any) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [item["item_id"] for item in answer.json()["items"]]


def test_health_says_what_is_served(client: TestClient) -> None:
    """Model name and counts."""
    assert client.get("/healthz").json() == {"status": "ok", "model": "tiny", "items": 40, "users": 12}


def test_a_known_user_gets_the_list_of_the_recommender(client: TestClient, folder: Path, tmp_path: Path) -> None:
    """The API adds nothing to and takes nothing from the one path to lists."""
    recommender = load_bundle(folder).recommender
    _, log, _ = tiny_recommender(tmp_path / "encoder")
    histories = histories_of(recommender, log, [log.user_ids.index("u3")], 1_702_000_000_000_000)
    wanted = recommender.recommend(histories, 7)
    answer = client.post("/v1/recommend", json={"user_id": "u3", "k": 7})
    assert ids(answer) == [f"i{row}" for row in wanted.items[0]]
    np.testing.assert_allclose([item["score"] for item in answer.json()["items"]], wanted.score[0], rtol=1e-5)


def test_a_sent_history_stands_for_the_stored_one(client: TestClient) -> None:
    """With the same events the list is the same, whoever asks."""
    times = [1_700_000_000 + (5 * step + 3) * 86_400 for step in range(5)]
    history = [
        {"item_id": f"i{(9 + step * step) % 35}", "timestamp": time * 1_000_000} for step, time in enumerate(times)
    ]
    stored = ids(client.post("/v1/recommend", json={"user_id": "u3"}))
    assert ids(client.post("/v1/recommend", json={"user_id": "stranger", "history": history})) == stored
    assert ids(client.post("/v1/recommend", json={"history": history[:2]})) != stored


def test_strangers_get_a_full_list(client: TestClient) -> None:
    """Neither known nor with a history: what is popular."""
    assert len(ids(client.post("/v1/recommend", json={"user_id": "nobody", "k": 20}))) == 20
    assert len(ids(client.post("/v1/recommend", json={}))) == 20


def test_more_places_than_items_give_all_items(client: TestClient) -> None:
    """Each once."""
    assert sorted(ids(client.post("/v1/recommend", json={"user_id": "u1", "k": 200}))) == sorted(
        f"i{n}" for n in range(40)
    )


def test_rank_orders_the_candidates_and_lists_unknown_ids(client: TestClient) -> None:
    """Unknown ids are reported, not fatal; scores fall."""
    body = {"user_id": "u1", "candidates": ["i4", "nope", "i9", "i2"], "history": ["i1", "gone"]}
    answer = client.post("/v1/rank", json=body)
    assert sorted(ids(answer)) == ["i2", "i4", "i9"]
    assert answer.json()["unknown_items"] == ["gone", "nope"]
    scores = [item["score"] for item in answer.json()["items"]]
    assert scores == sorted(scores, reverse=True)
    nothing = client.post("/v1/rank", json={"candidates": ["nope"]}).json()
    assert (nothing["items"], nothing["unknown_items"]) == ([], ["nope"])


def test_times_may_be_iso_or_numbers(client: TestClient) -> None:
    """Without a zone they are UTC."""
    asked = [
        {"item_id": "i3", "timestamp": at}
        for at in ("2023-12-01T00:00:00", "2023-12-01T01:00:00+01:00", 1_701_388_800_000_000)
    ]
    lists = [ids(client.post("/v1/recommend", json={"history": [event]})) for event in asked]
    assert lists[0] == lists[1] == lists[2]


@pytest.mark.parametrize(
    "body",
    [
        {"k": 0},
        {"k": 1000},
        {"user": "u1"},
        {"user_id": ""},
        {"user_id": 5},
        {"history": [{"item_id": "i1", "event_type": "impression"}]},
        {"history": ["i1"] * 1001},
        [],
        "text",
    ],
    ids=str,
)
def test_a_body_outside_the_documentation_is_refused(client: TestClient, body: Any) -> None:
    """422, and the answer names the field."""
    answer = client.post("/v1/recommend", json=body)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"][0] == "body"


def test_rank_refuses_too_many_repeated_or_no_candidates(client: TestClient) -> None:
    """The limits are part of the documentation."""
    for candidates in ([], ["i1", "i1"], [str(n) for n in range(MAX_CANDIDATES + 1)]):
        assert client.post("/v1/rank", json={"candidates": candidates}).status_code == 422


def test_large_unsized_and_broken_bodies_are_refused(client: TestClient) -> None:
    """413 and 422, also where the size is not told before."""
    assert client.post("/v1/recommend", content=b" " * (MAX_BODY_BYTES + 1)).status_code == 413
    assert client.post("/v1/recommend", content=iter([b" " * 70_000] * 20)).status_code == 413
    assert client.post("/v1/recommend", content=b"{").status_code == 422
    assert client.post("/v1/recommend", content=b"\xff\xfe").status_code == 422


def test_extreme_times_are_no_failure(client: TestClient) -> None:
    """Before the epoch, far ahead, or with a leap of years."""
    for at in (-(10**15), 0, 4 * 10**15, 1_702_000_000_000_000 + 400 * DAY):
        assert client.post("/v1/recommend", json={"history": [{"item_id": "i1", "timestamp": at}]}).status_code == 200
    answer = client.post("/v1/recommend", json={"history": [{"item_id": "i1", "timestamp": 10**30}]})
    assert answer.status_code == 422


def test_the_documentation_has_examples(client: TestClient) -> None:
    """Whoever reads /docs can try each route at once."""
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    assert schemas["RecommendBody"]["examples"] and schemas["RankBody"]["examples"]
