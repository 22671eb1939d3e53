"""Kinds of list beyond the one for a user: next pages, likes and dislikes, rows, companions, audiences."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from serving.api.app import create_app
from serving.api.rows import TITLES
from serving.loading import load_bundle
from serving.lookup import Lookup, PastEvent
from serving.recommender import ItemFilter, RecommendOptions
from serving.retrieval.retriever import Retriever
from serving.store.store import Store, StoredEvent, StoreError
from tests.serving.api.conftest import NOW
from tests.worlds import DAY, START, client_of, holder_of


def recommend(client: TestClient, **body: Any) -> Any:
    answer = client.post("/v1/recommend", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def ids(answer: Any) -> list[str]:
    return [item["item_id"] for item in answer["items"]]


@pytest.fixture
def lookup(tiny: Path) -> Lookup:
    """Return what the application makes its lists with."""
    return Lookup(load_bundle(tiny))


@pytest.fixture
def retriever(lookup: Lookup) -> Retriever:
    """Return what proposes the items of the application."""
    return lookup.retriever


def scores_without(
    lookup: Lookup, left_out: list[str], user: str | None, past: list[PastEvent] | None
) -> dict[str, float]:
    """Return the scores of a list of all items but some, in its order, by their ids."""
    allowed = np.array([item not in left_out for item in lookup.ids])
    options = RecommendOptions(40 - len(left_out), ItemFilter("", allowed))
    ranking = lookup.recommender.recommend(lookup.histories([(user, past)], NOW), options)
    return dict(zip(lookup.item_ids(ranking.items)[0], ranking.score[0].tolist(), strict=True))


def test_pages_have_no_item_twice_and_end_when_there_is_none_left(client: TestClient, store: Store) -> None:
    """Whether the pages before are in the store or wait to be written, and with filters as well."""
    first = recommend(client, user_id="u3", k=9)
    pages = [first]
    for number in range(5):
        pages.append(recommend(client, user_id="u3", k=9, after=pages[-1]["request_id"]))
        if number == 1:
            deadline = time.monotonic() + 10
            while store.list_of(pages[-1]["request_id"]) is None and time.monotonic() < deadline:
                time.sleep(0.05)
            assert store.list_of(pages[-1]["request_id"]).after == pages[-2]["request_id"]  # type: ignore[union-attr]
    listed = [item for page in pages for item in ids(page)]
    assert sorted(listed) == sorted(f"i{row}" for row in range(40))
    assert [len(ids(page)) for page in pages] == [9, 9, 9, 9, 4, 0]
    assert ids(pages[0]) + ids(pages[1]) != ids(recommend(client, user_id="u1", k=18))
    branded = recommend(client, user_id="u3", k=9, after=first["request_id"], filters={"brand": "brand 1"})
    assert not set(ids(branded)) & set(ids(first)) and branded["items"]


def test_a_page_after_a_list_that_is_not_kept_is_refused(client: TestClient, tiny: Path, store: Store) -> None:
    """With the way out, in one line; the page for people keeps no list."""
    answer = client.post("/v1/recommend", json={"after": "unheard-of"})
    assert answer.status_code == 404 and "'unheard-of' is kept; send the request_id" in answer.json()["detail"]


def test_pages_go_on_while_the_store_cannot_be_written(
    client: TestClient, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lists that wait count."""

    def fail(*_: Any) -> None:
        raise StoreError("disk full; free it")

    with monkeypatch.context() as patch:
        patch.setattr(store, "add_lists", fail)
        first = recommend(client, user_id="u3", k=20)
        second = recommend(client, user_id="u3", k=20, after=first["request_id"])
        assert len({*ids(first), *ids(second)}) == 40


def test_likes_take_the_place_of_the_history_and_are_not_in_the_list(client: TestClient, lookup: Lookup) -> None:
    """An unknown id is named; with a user, what the user has seen can be left out."""
    liked = recommend(client, user_id="u3", like=["i7", "i8", "nope"], k=38)
    expected = list(scores_without(lookup, ["i7", "i8"], None, [PastEvent(item, "like") for item in ("i7", "i8")]))
    assert ids(liked) == expected and liked["unknown_items"] == ["nope"]
    assert ids(recommend(client, user_id="u3", k=38)) != expected
    seen = {f"i{(9 + step * step) % 35}" for step in range(5)}
    unseen = recommend(client, user_id="u3", like=["i7"], exclude_seen=True, k=40)
    assert set(ids(unseen)) == {f"i{row}" for row in range(40)} - seen - {"i7"}
    both = client.post("/v1/recommend", json={"like": ["i1"], "history": ["i2"]})
    assert both.status_code == 422 and "send one of them" in both.json()["detail"]


def test_what_is_like_an_unliked_item_loses_the_share_that_is_their_cosine(
    client: TestClient, lookup: Lookup, retriever: Retriever
) -> None:
    """The largest of several; the items themselves are not in the list, and padding stays padding."""
    without = scores_without(lookup, ["i7", "i9"], "u3", None)
    answer = recommend(client, user_id="u3", unlike=["i7", "i9", "nope"], k=40)
    vectors = {f"i{row}": vector for row, vector in enumerate(retriever.vectors)}
    assert set(ids(answer)) == set(without) and answer["unknown_items"] == ["nope"]
    for item in answer["items"]:
        cosine = max(float(vectors[item["item_id"]] @ vectors[other]) for other in ("i7", "i9"))
        assert item["score"] == pytest.approx(without[item["item_id"]] * (1 - max(cosine, 0)), rel=1e-3, abs=1e-5)
    scores = [item["score"] for item in answer["items"]]
    assert scores == sorted(scores, reverse=True)


def test_rows_are_for_the_latest_things_and_share_no_item(client: TestClient, store: Store, lookup: Lookup) -> None:
    """Each is titled, kept as a list of its own, and of the things that it is for; what they are for is in none."""
    acted = [
        ("i3", "click"),
        ("i4", "purchase"),
        ("i3", "like"),
        ("gone", "like"),
        ("i5", "impression"),
        ("i6", "cart"),
    ]
    events = [
        {"user_id": "new", "item_id": item, "event_type": kind, "timestamp": NOW - 1000 + number}
        for number, (item, kind) in enumerate(acted)
    ]
    assert client.post("/v1/events", json={"events": events}).status_code == 200
    answer = client.post("/v1/rows", json={"user_id": "new", "rows": 5, "k": 6}).json()
    assert [(row["item_id"], row["event_type"]) for row in answer["rows"]] == [
        ("i6", "cart"), ("i3", "like"), ("i4", "purchase"),
    ]  # fmt: skip
    assert all(row["title"].startswith("Because you ") and len(row["items"]) == 6 for row in answer["rows"])
    listed = [item for row in answer["rows"] for item in ids(row)]
    assert len(set(listed)) == 18 and not {"i3", "i4", "i6"} & set(listed)
    allowed = ~np.isin(lookup.ids, ["i3", "i4", "i6"])
    history = lookup.histories([(None, [PastEvent("i6", "cart", NOW - 995)])], NOW)
    alone = lookup.recommender.recommend(history, RecommendOptions(18, ItemFilter("", allowed)))
    assert ids(answer["rows"][0]) == lookup.item_ids(alone.items)[0][:6]
    deadline = time.monotonic() + 10
    while len(kept := list(store.every_list())) < 4 and time.monotonic() < deadline:
        time.sleep(0.05)
    lists = {one.request_id: one for one in kept}
    assert all(lists[row["request_id"]].items == ids(row) for row in answer["rows"])
    assert set(TITLES) == {"view", "click", "like", "share", "comment", "cart", "purchase"}


def test_rows_obey_filters_and_the_rule_on_seen_items_and_may_be_none(client: TestClient) -> None:
    """Of somebody who did nothing there is nothing to say."""
    assert client.post("/v1/rows", json={"user_id": "nobody"}).json()["rows"] == []
    branded = client.post("/v1/rows", json={"history": ["i1", "i2"], "filters": {"brand": "brand 2"}, "k": 4}).json()
    assert all(int(item[1:]) % 3 == 2 for row in branded["rows"] for item in ids(row)) and branded["rows"]
    seen = client.post("/v1/rows", json={"user_id": "u3", "exclude_seen": True, "k": 50, "rows": 1}).json()
    assert not {f"i{(9 + step * step) % 35}" for step in range(5)} & set(ids(seen["rows"][0]))


def test_companions_are_those_that_users_met_close_to_an_item(client: TestClient, retriever: Retriever) -> None:
    """The strongest first, and none that is not offered."""
    answer = client.get("/v1/items/i9/together", params={"k": 3}).json()
    links = retriever.sources["covisitation"].graph[9].toarray().ravel()  # type: ignore[attr-defined]
    links[9] = 0
    best = np.argsort(-links, kind="stable")[: min(3, (links > 0).sum())]
    assert ids(answer) == [f"i{row}" for row in best] and answer["items"]
    assert [item["strength"] for item in answer["items"]] == pytest.approx(links[best].tolist())
    assert client.delete(f"/v1/items/{ids(answer)[0]}").status_code == 200
    assert ids(answer)[0] not in ids(client.get("/v1/items/i9/together").json())
    client.put("/v1/items", json={"items": [{"item_id": "new", "title": "red lamp"}]})
    assert client.get("/v1/items/new/together").json()["items"] == []
    assert client.get("/v1/items/nope/together").status_code == 404


def test_companions_follow_the_events_of_the_store(client: TestClient, store: Store) -> None:
    """An item that many users came to from another is its first companion."""

    def companions() -> list[str]:
        return ids(client.get("/v1/items/i9/together").json())

    assert "i39" not in companions()
    late = START + 25 * DAY
    store.add_events(
        [
            StoredEvent(f"{user} {item}", f"n{user}", item, "purchase", late + number)
            for user in range(30)
            for number, item in enumerate(("i9", "i39"))
        ]
    )
    client.app.state.workers.service.holder.take_events()  # type: ignore[attr-defined]
    assert companions()[0] == "i39"


def test_without_the_source_there_are_no_companions(retriever: Retriever) -> None:
    """An empty list is no error."""
    sources = {name: source for name, source in retriever.sources.items() if name != "covisitation"}
    assert [len(column) for column in replace(retriever, sources=sources).together(9, 3, NOW)] == [0, 0]


@pytest.mark.parametrize("by", ["p_click", "p_purchase", "interest"])
def test_the_audience_of_an_item_is_what_ranking_it_for_every_user_says(
    client: TestClient, tiny: Path, store: Store, by: str
) -> None:
    """Best first, without users who were forgotten."""
    lookup = Lookup(load_bundle(tiny))
    expected = {}
    for user in lookup.users:
        ranking = lookup.recommender.rank(lookup.histories([(user, None)], NOW), np.array([[7]]))
        expected[user] = float(getattr(ranking, by)[0, 0])
    store.forget_user("u5")
    users = client.post("/v1/items/i7/audience", json={"by": by, "k": 100}).json()["users"]
    assert {user["user_id"] for user in users} == set(expected) - {"u5"}
    assert [user[by] for user in users] == sorted((user[by] for user in users), reverse=True)
    assert all(user[by] == pytest.approx(expected[user["user_id"]], rel=1e-3) for user in users)
    met = {user for user in lookup.users if "i7" in [event.item_id for event in lookup.past(user)]}
    assert {user["user_id"] for user in users if user["seen"]} == met - {"u5"}
    assert len(client.post("/v1/items/i7/audience", json={"k": 2}).json()["users"]) == 2
    assert client.post("/v1/items/nope/audience", json={}).status_code == 404


def test_lists_that_only_people_look_at_have_no_next_page(tiny: Path, store: Store) -> None:
    """They are not kept."""
    from serving.api.refusals import UnknownListError
    from serving.api.schemas import RecommendRequest
    from serving.api.service import preview

    app = create_app(holder_of(tiny, store), store)
    with client_of(app) as opened:
        first = recommend(opened, k=3)
        service = preview(holder_of(tiny, store), store)
        with pytest.raises(UnknownListError):
            service.recommend(RecommendRequest(after=first["request_id"]))
