"""What the routes answer: lists, rankings, events, items, the model that serves, and its metrics."""

import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from fastapi.testclient import TestClient

from recsys.errors import RecsysError
from serving.api.app import create_app
from serving.api.live import ModelHolder
from serving.api.schemas import MAX_CANDIDATES, RecommendResponse
from serving.batch import histories_of
from serving.loading import load_bundle
from serving.recommender import RecommendOptions
from serving.store.store import ImpressionList, Store, StoredEvent
from tests.serving.api.conftest import NOW
from tests.worlds import DAY, START, client_of, holder_of, tiny_recommender, with_config


def send(client: TestClient, user: str, item: str, **more: Any) -> Any:
    return client.post("/v1/events", json={"events": [{"user_id": user, "item_id": item, **more}]})


def ids(answer: Any) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [item["item_id"] for item in answer.json()["items"]]


def test_the_model_is_described_with_its_dataset_and_counts(tiny: Path, client: TestClient) -> None:
    """And the probes report that it serves."""
    answer = client.get("/v1/model").json()
    assert (answer["model"], answer["dataset"], answer["items"], answer["users"]) == (str(tiny), "tiny", 40, 12)
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ok", "failed": []}


def test_a_known_user_gets_the_list_that_the_recommender_makes(client: TestClient, tiny: Path, tmp_path: Path) -> None:
    """With the same items, order and scores."""
    recommender = load_bundle(tiny).recommender
    _, log, _ = tiny_recommender(tmp_path / "encoder")
    histories = histories_of(recommender, log, [log.user_ids.index("u3")], 1_702_000_000_000_000)
    expected = recommender.recommend(histories, RecommendOptions(7))
    answer = client.post("/v1/recommend", json={"user_id": "u3", "k": 7})
    assert ids(answer) == [f"i{row}" for row in expected.items[0]]
    np.testing.assert_allclose([item["score"] for item in answer.json()["items"]], expected.score[0], rtol=1e-5)


def test_a_history_in_the_request_replaces_the_stored_one(client: TestClient) -> None:
    """With the same events the list is the same, whichever user is named."""
    times = [1_700_000_000 + (5 * step + 3) * 86_400 for step in range(5)]
    history = [
        {"item_id": f"i{(9 + step * step) % 35}", "timestamp": time * 1_000_000} for step, time in enumerate(times)
    ]
    stored = ids(client.post("/v1/recommend", json={"user_id": "u3"}))
    assert ids(client.post("/v1/recommend", json={"user_id": "nobody", "history": history})) == stored
    assert ids(client.post("/v1/recommend", json={"history": history[:2]})) != stored


def test_unknown_users_get_a_full_list(client: TestClient) -> None:
    """So does a request that names no user."""
    assert len(ids(client.post("/v1/recommend", json={"user_id": "nobody", "k": 20}))) == 20
    assert len(ids(client.post("/v1/recommend", json={}))) == 20


def test_a_k_above_the_number_of_items_gives_every_item_once(client: TestClient) -> None:
    """The list is shorter than k."""
    assert sorted(ids(client.post("/v1/recommend", json={"user_id": "u1", "k": 200}))) == sorted(
        f"i{n}" for n in range(40)
    )


def test_rank_orders_the_candidates_and_lists_unknown_ids(client: TestClient) -> None:
    """An unknown id does not fail the request; scores fall."""
    body = {"user_id": "u1", "candidates": ["i4", "nope", "i9", "i2"], "history": ["i1", "gone"]}
    answer = client.post("/v1/rank", json=body)
    assert sorted(ids(answer)) == ["i2", "i4", "i9"]
    assert answer.json()["unknown_items"] == ["gone", "nope"]
    scores = [item["score"] for item in answer.json()["items"]]
    assert scores == sorted(scores, reverse=True)
    nothing = client.post("/v1/rank", json={"candidates": ["nope"]}).json()
    assert (nothing["items"], nothing["unknown_items"]) == ([], ["nope"])


@pytest.mark.parametrize(
    "path, body",
    [
        ("recommend", {"user_id": "u3", "k": 5, "explain": True}),
        ("rank", {"user_id": "u3", "candidates": ["i3", "i9", "i0"]}),
        ("rank", {"history": ["i1"], "candidates": ["nothing"]}),
        ("search", {"query": "lamp", "k": 3, "filters": {"price": {"max": -1}}}),
    ],
)
def test_an_answer_is_what_the_documentation_says(client: TestClient, path: str, body: Any) -> None:
    """It is written without a check, and reads as the documented model does, with every field."""
    answer = client.post(f"/v1/{path}", json=body)
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/json"
    read = RecommendResponse.model_validate_json(answer.content, strict=True)
    assert read.model_dump(mode="json") == answer.json()
    schema = client.get("/openapi.json").json()["paths"][f"/v1/{path}"]["post"]["responses"]["200"]["content"]
    assert schema["application/json"]["schema"] == {"$ref": "#/components/schemas/RecommendResponse"}


def test_times_are_iso_strings_or_microseconds(client: TestClient) -> None:
    """Without a zone they are UTC; another time gives other scores."""

    def scores(time: str | int) -> list[float]:
        answer = client.post("/v1/recommend", json={"history": [{"item_id": "i3", "timestamp": time}]})
        return [item["score"] for item in answer.json()["items"]]

    assert scores("2023-12-01T00:00:00") == scores("2023-12-01T01:00:00+01:00") == scores(1_701_388_800_000_000)
    assert scores("2023-12-01T00:00:00") != scores("2023-11-01T00:00:00")


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
    assert answer.json()["errors"][0]["loc"][0] == "body"


def test_rank_refuses_too_many_repeated_or_no_candidates(client: TestClient) -> None:
    """With 422."""
    for candidates in ([], ["i1", "i1"], [str(n) for n in range(MAX_CANDIDATES + 1)]):
        assert client.post("/v1/rank", json={"candidates": candidates}).status_code == 422


def test_extreme_times_are_accepted_within_64_bits(client: TestClient) -> None:
    """Before the epoch where they are written out, or centuries ahead; beyond that it is 422."""
    for at in ("1930-01-01T00:00:00Z", 631_152_000_000_000, 4 * 10**15, 1_702_000_000_000_000 + 400 * DAY):
        assert client.post("/v1/recommend", json={"history": [{"item_id": "i1", "timestamp": at}]}).status_code == 200
    answer = client.post("/v1/recommend", json={"history": [{"item_id": "i1", "timestamp": 10**30}]})
    assert answer.status_code == 422


def test_the_documentation_has_examples(client: TestClient) -> None:
    """So that a reader of /docs can try the routes at once."""
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    assert schemas["RecommendRequest"]["examples"] and schemas["RankRequest"]["examples"]


def test_the_next_list_takes_the_last_click_into_account(client: TestClient, tiny: Path) -> None:
    """A stored event counts like one in the history of a request."""
    before = ids(client.post("/v1/recommend", json={"user_id": "newcomer"}))
    assert send(client, "newcomer", "i7").json() == {"accepted": 1, "duplicates": 0, "unknown_items": []}
    after = ids(client.post("/v1/recommend", json={"user_id": "newcomer"}))
    assert after != before
    assert after == ids(client.post("/v1/recommend", json={"history": [{"item_id": "i7", "timestamp": NOW}]}))


def test_events_in_both_bundle_and_store_count_once(client: TestClient) -> None:
    """As they do after events were exported and a model was trained on them; new ones are added."""
    fitted = ids(client.post("/v1/recommend", json={"user_id": "u3"}))
    times = [1_700_000_000 + (5 * step + 3) * 86_400 for step in range(5)]
    for step, at in enumerate(times):
        send(client, "u3", f"i{(9 + step * step) % 35}", timestamp=at * 1_000_000)
    assert ids(client.post("/v1/recommend", json={"user_id": "u3"})) == fitted
    send(client, "u3", "i11")
    assert ids(client.post("/v1/recommend", json={"user_id": "u3"})) != fitted


def test_an_event_that_is_sent_again_is_stored_once(client: TestClient, store: Store) -> None:
    """Events with the same id are the same event."""
    for expected in ({"accepted": 1, "duplicates": 0}, {"accepted": 0, "duplicates": 1}):
        assert send(client, "u", "i1", event_id="e").json() == expected | {"unknown_items": []}
    assert len(list(store.every_event())) == 1


def test_events_on_unknown_items_count_once_the_item_is_added(client: TestClient, store: Store) -> None:
    """Until then they are stored, and the answer names the items."""
    assert send(client, "u", "later").json()["unknown_items"] == ["later"]
    before = ids(client.post("/v1/recommend", json={"user_id": "u"}))
    client.put("/v1/items", json={"items": [{"item_id": "later", "title": "red lamp"}]})
    assert ids(client.post("/v1/recommend", json={"user_id": "u"})) != before


@pytest.mark.parametrize("moment", [1_764_064_800, 1_764_064_800_000, 0, -(10**15)])
def test_whole_numbers_before_1990_are_refused_since_they_are_in_another_unit(
    client: TestClient, store: Store, moment: int
) -> None:
    """Wherever a time is sent; seconds and milliseconds would land in January 1970."""
    past = {"item_id": "i1", "timestamp": moment}
    answers = [
        send(client, "u", "i1", timestamp=moment),
        client.post("/v1/recommend", json={"history": ["i2", past]}),
        client.post("/v1/rank", json={"history": [past], "candidates": ["i1"]}),
        client.post("/v1/rank", json={"candidates": ["i1"], "context": {"time": moment}}),
        client.put("/v1/items", json={"items": [{"item_id": "new", "title": "t", "created_at": moment}]}),
    ]
    for answer in answers:
        assert answer.status_code == 422
        assert str(moment) in answer.json()["detail"] and "microseconds since 1970" in answer.json()["detail"]
    assert not list(store.every_event())
    assert client.get("/v1/items/new/similar").status_code == 404


def test_an_event_in_the_future_is_refused_with_the_whole_request(client: TestClient, store: Store) -> None:
    """The answer gives the count and an example."""
    answer = client.post(
        "/v1/events",
        json={"events": [{"user_id": "u", "item_id": "i1"}, {"user_id": "u", "item_id": "i2", "timestamp": NOW + DAY}]},
    )
    assert answer.status_code == 422 and "1 of 2" in answer.json()["detail"] and "'i2'" in answer.json()["detail"]
    assert not list(store.every_event())


def test_a_new_item_is_recommendable_when_its_put_returns(client: TestClient, store: Store, tiny: Path) -> None:
    """Also from another process on the same store."""
    titles = load_bundle(tiny).recommender.retriever.items["title"]
    body = {"items": [{"item_id": "new", "title": titles[7], "brand": "brand 1", "price": 3.5}]}
    assert client.put("/v1/items", json=body).json() == {"changed": 1, "items": 41}
    similar = client.get("/v1/items/i7/similar", params={"k": 3}).json()["items"]
    assert similar[0]["item_id"] == "new" and similar[0]["similarity"] > 0.99
    assert "new" in ids(client.post("/v1/recommend", json={"history": ["i7"], "k": 41}))
    assert ids(client.post("/v1/rank", json={"user_id": "u1", "candidates": ["new"]})) == ["new"]
    other = client_of(create_app(holder_of(tiny, store), store))
    assert other.get("/v1/items/new/similar").status_code == 200


def test_a_deleted_item_is_in_no_list_until_it_is_put_again(client: TestClient, store: Store, tiny: Path) -> None:
    """Also after a restart."""
    listed = ids(client.post("/v1/recommend", json={"user_id": "u1", "k": 40}))
    assert client.delete(f"/v1/items/{listed[0]}").json() == {"changed": 1, "items": 39}
    assert sorted(ids(client.post("/v1/recommend", json={"user_id": "u1", "k": 40}))) == sorted(listed[1:])
    assert listed[0] not in [
        item["item_id"] for item in client.get("/v1/items/i5/similar", params={"k": 40}).json()["items"]
    ]
    assert client.delete(f"/v1/items/{listed[0]}").status_code == 404
    assert client.get(f"/v1/items/{listed[0]}/similar").status_code == 404
    ranked = client.post("/v1/rank", json={"user_id": "u1", "candidates": listed[:2]})
    assert ids(ranked) == listed[1:2] and ranked.json()["unknown_items"] == listed[:1]
    lookup = holder_of(tiny, store).snapshot.lookup
    assert lookup.retriever.available is not None and not lookup.retriever.available[lookup.rows[listed[0]]]
    client.put("/v1/items", json={"items": [{"item_id": listed[0], "title": "back"}]})
    assert listed[0] in ids(client.post("/v1/recommend", json={"user_id": "u1", "k": 40}))


def test_an_item_that_is_put_as_not_available_is_in_no_list(client: TestClient) -> None:
    """Until it is put again without saying so."""
    item = {"item_id": "i3", "title": "sold out", "available": False}
    assert client.put("/v1/items", json={"items": [item]}).json()["items"] == 39
    assert "i3" not in ids(client.post("/v1/recommend", json={"user_id": "u1", "k": 40}))
    assert client.put("/v1/items", json={"items": [item | {"available": None}]}).json()["items"] == 40
    assert "i3" in ids(client.post("/v1/recommend", json={"user_id": "u1", "k": 40}))


def test_another_process_follows_item_changes_without_a_restart(client: TestClient, store: Store, tiny: Path) -> None:
    """Within five seconds, even on a busy machine."""
    with client_of(create_app(holder_of(tiny, store), store)) as other:
        client.put("/v1/items", json={"items": [{"item_id": "new", "title": "red lamp"}]})
        start = time.monotonic()
        while other.get("/v1/items/new/similar").status_code == 404:
            assert time.monotonic() - start < 5
            time.sleep(0.05)


def test_a_query_counts_alone_and_together_with_the_history(client: TestClient) -> None:
    """Three different lists."""
    alone = ids(client.post("/v1/recommend", json={"query": "red lamp for the garden"}))
    both = ids(client.post("/v1/recommend", json={"query": "red lamp for the garden", "user_id": "u1"}))
    assert len({tuple(alone), tuple(both), tuple(ids(client.post("/v1/recommend", json={"user_id": "u1"})))}) == 3


def test_a_list_that_filters_leave_empty_says_which_of_them(client: TestClient) -> None:
    """Of a list and of a search."""
    filters = {"brand": "none of ours", "price": {"min": 0}}
    for path, body in (("recommend", {"user_id": "u1"}), ("search", {"query": "red lamp"})):
        answer = client.post(f"/v1/{path}", json={**body, "filters": filters}).json()
        assert answer["items"] == [] and answer["notes"] == ["filters.attributes.brand: no item passes"]
    assert client.post("/v1/recommend", json={"user_id": "u1"}).json()["notes"] == []


def test_a_search_has_the_best_match_first_and_obeys_filters(client: TestClient, tiny: Path) -> None:
    """Every title finds an item of that title first, whatever the ranker thinks of it."""
    items = pl.read_parquet(tiny / "items.parquet")
    title_of = dict(items.select("item_id", "title").rows())
    for title in items["title"]:
        found = client.post("/v1/search", json={"query": title, "k": 5}).json()["items"]
        assert title_of[found[0]["item_id"]] == title and len(found) == 5
    brand = items["brand"][3]
    listed = ids(client.post("/v1/search", json={"query": items["title"][0], "filters": {"brand": brand}, "k": 40}))
    assert set(listed) == set(items.filter(pl.col("brand") == brand)["item_id"])


def test_a_query_with_markup_counts_as_its_text(client: TestClient) -> None:
    """For the encoder and for the words alike; without any text it is still answered."""
    lists = [
        client.post("/v1/search", json={"query": query}) for query in ("steel lamp", "<b>steel&#32;lamp</b>", "<b>")
    ]
    assert ids(lists[0]) == ids(lists[1]) != ids(lists[2])


@pytest.mark.parametrize(
    ("filters", "fits"),
    [
        ({"brand": "brand 1"}, lambda row: row % 3 == 1),
        ({"brand": ["brand 1", "brand 2"]}, lambda row: row % 3 > 0),
        ({"brand": "<b>brand&nbsp;1</b>"}, lambda row: row % 3 == 1),
        ({"price": {"min": 5, "max": 8.5}}, lambda row: 5 <= row + 1 <= 8.5),
        ({"price": {"min": 30}, "brand": "brand 0"}, lambda row: row + 1 >= 30 and row % 3 == 0),
        ({"attributes": {"price": 7}}, lambda row: row == 6),
        ({"attributes": {"item_id": ["i3", "i4"]}}, lambda row: row in (3, 4)),
        ({"category": "none such"}, lambda row: False),
    ],
    ids=lambda value: "" if callable(value) else str(value),  # an address would differ between processes
)
def test_a_filtered_list_has_every_item_that_passes_and_no_other(client: TestClient, filters: Any, fits: Any) -> None:
    """However few there are."""
    listed = ids(client.post("/v1/recommend", json={"user_id": "u1", "k": 40, "filters": filters}))
    assert sorted(listed) == sorted(f"i{row}" for row in range(40) if fits(row))


@pytest.mark.parametrize(
    "filters",
    [
        {"attributes": {"colour": "red"}},
        {"attributes": {"price": "cheap"}},
        {"attributes": {"brand": {"min": 1}}},
        {"attributes": {"brand": 5}},
        {"attributes": {"price": True}},
        {"brand": []},
        {"price": {"min": "a"}},
        {"price": 5},
    ],
    ids=str,
)
def test_a_filter_that_does_not_fit_the_items_is_refused(client: TestClient, filters: Any) -> None:
    """With 422, which names the filter."""
    answer = client.post("/v1/recommend", json={"filters": filters})
    assert answer.status_code == 422
    assert "filters" in answer.json()["detail"]


def test_reasons_name_the_nearest_events_and_the_strongest_features(client: TestClient) -> None:
    """Only with `explain`, which does not change the list."""
    plain = client.post("/v1/recommend", json={"history": ["i1", "i2"], "k": 3}).json()
    explained = client.post("/v1/recommend", json={"history": ["i1", "i2"], "k": 3, "explain": True}).json()
    assert [item["item_id"] for item in plain["items"]] == [item["item_id"] for item in explained["items"]]
    assert plain["items"][0]["reasons"] is None
    for item in explained["items"]:
        reasons = item["reasons"]
        assert {near["item_id"] for near in reasons["nearest"]} == {"i1", "i2"}
        sizes = [abs(part["log_odds"]) for part in reasons["features"]]
        assert sizes and sizes == sorted(sizes, reverse=True)
    ranked = client.post("/v1/rank", json={"history": ["i1"], "candidates": ["i1", "i5"], "explain": True}).json()
    assert all(item["reasons"]["nearest"][0]["item_id"] == "i1" for item in ranked["items"])


def test_diversity_lowers_the_mean_similarity_within_a_list(client: TestClient, tiny: Path) -> None:
    """Measured by the cosine of the items' vectors, over several users; for one of them both lists may be the same."""
    recommender = load_bundle(tiny).recommender

    def mean_similarity(user: str, diversity: float) -> float:
        items = ids(client.post("/v1/recommend", json={"user_id": user, "k": 6, "diversity": diversity}))
        vectors = recommender.retriever.vectors[[int(item[1:]) for item in items]]
        return float((vectors @ vectors.T)[np.triu_indices(6, 1)].mean())

    users = [f"u{row}" for row in range(6)]
    diverse, plain = (np.mean([mean_similarity(user, weight) for user in users]) for weight in (0.9, 0.0))
    assert diverse < plain - 1e-4


def test_a_request_may_say_what_clicks_and_purchases_are_worth(client: TestClient) -> None:
    """The list is sorted by it; at the model's own worth it is the same, and worth nothing at all is refused."""

    def items(**worth: float) -> list[dict[str, Any]]:
        body = {"user_id": "u3", "k": 40} | ({"value": worth} if worth else {})
        listed: list[dict[str, Any]] = client.post("/v1/recommend", json=body).json()["items"]
        return listed

    for worth, column in (({"click": 3, "purchase": 0}, "p_click"), ({"click": 0, "purchase": 3}, "p_purchase")):
        probabilities = [item[column] for item in items(**worth)]
        assert probabilities == sorted(probabilities, reverse=True)
    assert items(click=1, purchase=2) == items()
    for wrong in ({"click": 0, "purchase": 0}, {"click": -1, "purchase": 2}, {"click": 1}):
        assert client.post("/v1/recommend", json={"value": wrong}).status_code == 422


def test_what_was_typed_is_kept_with_the_list_that_the_search_found_and_with_no_other(
    client: TestClient, store: Store
) -> None:
    """So that what is chosen from it tells what was meant; a sentence for a recommendation is not kept."""
    searched = client.post("/v1/search", json={"query": "Red lamp", "k": 3}).json()
    client.post("/v1/recommend", json={"query": "steel table", "k": 3})
    deadline = time.monotonic() + 5
    while len(kept := {one.request_id: one for one in store.every_list()}) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    found = kept.pop(searched["request_id"])
    assert found.query == "Red lamp" and found.items == [item["item_id"] for item in searched["items"]]
    assert [one.query for one in kept.values()] == [None]


def test_every_list_is_logged_with_its_request_id(tiny: Path, client: TestClient, store: Store) -> None:
    """With its items and scores, in their order."""
    answer = client.post("/v1/recommend", json={"user_id": "u1", "k": 4}).json()
    deadline = time.monotonic() + 10
    while not (kept := list(store.every_list())) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert kept[0].request_id == answer["request_id"] and kept[0].user_id == "u1" and kept[0].model == str(tiny)
    assert kept[0].items == [item["item_id"] for item in answer["items"]]
    assert kept[0].scores == pytest.approx([item["score"] for item in answer["items"]])


def test_a_forgotten_user_is_an_unknown_user(client: TestClient, store: Store) -> None:
    """To the store and to the model; events after the deletion count again."""
    unknown = ids(client.post("/v1/recommend", json={"user_id": "nobody"}))
    send(client, "u1", "i3")
    assert ids(client.post("/v1/recommend", json={"user_id": "u1"})) != unknown
    assert client.delete("/v1/users/u1").json()["deleted"] >= 1
    assert ids(client.post("/v1/recommend", json={"user_id": "u1"})) == unknown
    send(client, "u1", "i3")
    assert ids(client.post("/v1/recommend", json={"user_id": "u1"})) != unknown


def test_a_store_that_fails_is_503_until_it_works_again(client: TestClient, store: Store, monkeypatch: Any) -> None:
    """Events are refused; lists that need nothing of the store are still made."""
    import sqlalchemy as sa

    def broken(*args: Any, **options: Any) -> Any:
        raise sa.exc.OperationalError("statement", {}, Exception("disk I/O error"))

    with monkeypatch.context() as patch:
        patch.setattr(store.engine, "begin", broken)
        answer = send(client, "u", "i1")
        assert answer.status_code == 503 and answer.headers["Retry-After"] == "1"
        assert "disk I/O error" in answer.json()["detail"]
        assert client.post("/v1/recommend", json={"history": ["i1"]}).status_code == 200
    assert send(client, "u", "i1").json()["accepted"] == 1


def test_metrics_show_what_other_commands_write_as_it_is_now(
    tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A file that is not there yet, or cannot be read, costs nothing but its own metrics."""
    store, path, other = Store(f"sqlite:///{tmp_path}/store.db"), tmp_path / "opinion.prom", tmp_path / "drift.prom"
    with client_of(create_app(holder_of(tiny, store), store, metrics_files=(path, other))) as client:
        assert "opinion" not in client.get("/metrics").text
        path.write_text('# TYPE recsys_text_alarm gauge\nrecsys_text_alarm{by="topic",name="lamps"} 1.0\n')
        os.utime(path, (1000, 1000))
        other.write_text("recsys_drift{{{\n")
        text = client.get("/metrics").text
        assert 'recsys_text_alarm{by="topic",name="lamps"} 1.0' in text
        assert 'recsys_metrics_file_written_seconds{file="opinion.prom"} 1000.0' in text
        assert "drift" not in text and "recsys_model{" in text
        assert f"--metrics {other}: left out" in caplog.text
        path.write_text("recsys_text_usual 0.5\n")
        assert "recsys_text_usual 0.5" in client.get("/metrics").text
    store.close()


def test_metrics_count_requests_candidates_cold_users_cache_hits_and_events(tiny: Path, client: TestClient) -> None:
    """And name the model that serves."""
    client.post("/v1/recommend", json={"user_id": "nobody", "query": "red lamp"})
    client.post("/v1/recommend", json={"query": "red lamp"})
    client.post("/v1/recommend", json={})
    send(client, "u", "i1")
    text = client.get("/metrics").text
    for line in (
        'recsys_request_seconds_count{route="/v1/recommend",status="200"} 3.0',
        'recsys_candidates_total{source="popular"}',
        "recsys_cold_requests_total 1.0",
        'recsys_cache_lookups_total{kind="sentence",result="hit"} 1.0',
        "recsys_events_total 1.0",
        f'recsys_model{{model="{tiny}"}} 1.0',
    ):
        assert line in text


def test_a_moved_alias_is_followed_unless_the_model_cannot_be_loaded(
    tmp_path: Path, tiny: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To a newer version and back; item changes are kept, and the failure is reported."""
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    folders, named = {"m/1": tiny, "m/2": tiny, "m/3": damaged}, ["m/1"]
    monkeypatch.setattr("recsys.registry.resolve", lambda model: named[0])
    monkeypatch.setattr("recsys.registry.bundle_folder", folders.__getitem__)
    holder = ModelHolder("m@champion", store)
    client = client_of(create_app(holder, store))
    client.put("/v1/items", json={"items": [{"item_id": "new", "title": "red lamp"}]})
    for name in ("m/2", "m/1"):
        named[0] = name
        assert client.post("/v1/model/reload").json()["model"] == name
        assert client.get("/v1/items/new/similar").status_code == 200
    named[0] = "m/3"
    answer = client.post("/v1/model/reload")
    assert answer.status_code == 409 and "not a bundle" in answer.json()["detail"]
    about = client.get("/v1/model").json()
    assert about["model"] == "m/1" and list(about["failed"]) == ["m/3"]
    assert client.post("/v1/recommend", json={"user_id": "u1"}).json()["model"] == "m/1"
    assert client.get("/readyz").json()["failed"] == ["m/3"]
    assert 'recsys_model_failed{model="m/3"} 1.0' in client.get("/metrics").text


def test_a_model_that_fails_for_a_moment_is_tried_again_ever_more_rarely(
    tmp_path: Path, tiny: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And serves once it can be loaded."""
    now, attempts = [0.0], []
    named, folders = ["m/1"], {"m/1": tiny, "m/2": tmp_path}
    monkeypatch.setattr("serving.api.live.time.monotonic", lambda: now[0])
    monkeypatch.setattr("recsys.registry.resolve", lambda model: named[0])

    def folder(model: str) -> Path:
        attempts.append(now[0])
        return folders[model]

    monkeypatch.setattr("recsys.registry.bundle_folder", folder)
    holder = ModelHolder("m@champion", store)
    named[0] = "m/2"
    for second in range(1000):
        now[0] = float(second)
        with suppress(RecsysError):
            holder._follow_alias()
    gaps = np.diff(attempts[1:])
    assert gaps.tolist() == [4, 8, 16, 32, 64, 128, 256, 300] and holder.snapshot.name == "m/1"
    folders["m/2"] = tiny
    now[0] += 300
    holder._follow_alias()
    assert holder.snapshot.name == "m/2" and holder.failed == {}


def test_a_history_with_times_is_in_their_order(client: TestClient) -> None:
    """However it was sent; without times it is taken as it comes."""
    past = [{"item_id": f"i{n}", "timestamp": START + n * DAY} for n in (3, 1, 2)]
    ordered, shuffled = sorted(past, key=lambda event: str(event["timestamp"])), past
    answers = [client.post("/v1/recommend", json={"history": sent}).json()["items"] for sent in (ordered, shuffled)]
    assert answers[0] == answers[1]


def test_no_request_fails_while_models_change(tiny: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every list is complete and from one of the two models; the alias is followed without a reload."""
    named = ["m/1"]
    monkeypatch.setattr("recsys.registry.resolve", lambda model: named[0])
    monkeypatch.setattr("recsys.registry.bundle_folder", lambda model: tiny)
    holder = ModelHolder("m@champion", store)
    failures, models, done = [], set(), threading.Event()
    with client_of(create_app(holder, store)) as client:

        def ask() -> None:
            while not done.is_set():
                answer = client.post("/v1/recommend", json={"user_id": "u1", "k": 5})
                if answer.status_code != 200 or len(answer.json()["items"]) != 5:
                    failures.append(answer.text)
                models.add(answer.json()["model"])

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        named[0] = "m/2"
        deadline = time.monotonic() + 30
        while holder.snapshot.name != "m/2" and time.monotonic() < deadline:
            client.put("/v1/items", json={"items": [{"item_id": "new", "title": "red lamp"}]})
        time.sleep(0.2)
        done.set()
        for thread in threads:
            thread.join()
    assert not failures and models == {"m/1", "m/2"}


def test_explored_positions_are_marked_and_logged_with_their_propensity(
    tiny: Path, store: Store, tmp_path: Path
) -> None:
    """New items alone."""
    quotas = {"popular": 10, "covisitation": 3, "related": 0, "lexical": 3}
    bundle = with_config(tiny, tmp_path / "exploring", lists={"explore": 0.5}, sources=quotas)
    app = create_app(holder_of(bundle, store), store, clock=lambda: NOW, seed=1)
    with client_of(app) as client:
        items = client.post("/v1/recommend", json={"user_id": "u1", "k": 6}).json()["items"]
    explored = [position for position, item in enumerate(items) if item["explored"]]
    assert explored and len({item["item_id"] for item in items}) == 6
    (logged,) = store.every_list()
    propensities = dict(enumerate(logged.propensities))
    assert [position for position, propensity in propensities.items() if propensity is not None] == explored
    assert all(0 < (propensities[position] or 0) <= 0.5 for position in explored)
    listed = {item["item_id"] for item in items}
    assert {items[position]["item_id"] for position in explored} == set(logged.pool or []) & listed


def test_a_full_queue_of_lists_drops_and_counts_them(tiny: Path, store: Store, monkeypatch: Any) -> None:
    """Answers never wait for the impression log."""
    from serving.store.impressions import ImpressionLog

    dropped: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(Store, "add_lists", lambda self, shown: time.sleep(0.3))
        shown = ImpressionLog(store, lambda: dropped.append(1), capacity=2)
        for number in range(600):
            shown.add(ImpressionList(str(number), "u1", NOW, "tiny", [], [], []))
        assert dropped
        shown.close()


def test_stored_events_of_one_moment_keep_their_order(client: TestClient, store: Store) -> None:
    """The order of arrival."""
    store.add_events([StoredEvent(f"e{n}", "u", f"i{n}", "click", NOW) for n in (5, 2, 9)])
    same = [{"item_id": f"i{n}", "timestamp": NOW} for n in (5, 2, 9)]
    assert ids(client.post("/v1/recommend", json={"user_id": "u"})) == ids(
        client.post("/v1/recommend", json={"history": same})
    )
