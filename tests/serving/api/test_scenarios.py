"""Lists by scenario through the API, and the routes of those who edit scenarios."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from fastapi.testclient import TestClient

from features.histories import EventLog
from serving.api.app import create_app
from serving.batch import write_lists
from serving.list_maker import Job
from serving.lists import FileOptions
from serving.scenarios import kept
from serving.scenarios.definition import parse
from serving.store.store import Store
from tests.serving.api.conftest import NOW
from tests.worlds import client_of, holder_of, log_of, with_config

BUSY = {
    "filters": {"price": {"min": 3.0}},
    "boosts": [{"factor": 3.0, "where": {"brand": "brand 1"}}],
    "pins": [{"position": 2, "item": "i38"}],
    "promotions": [{"share": 0.25, "where": {"brand": "brand 2"}}, {"item": "i37", "within": 6}],
    "per_brand": 4,
    "diversity": 0.2,
    "value": {"click": 1.0, "purchase": 5.0},
    "sources": {"popular": 5, "new": 0},
    "exclude_seen": True,
}


Listed = Callable[..., list[str]]


@pytest.fixture
def listed(client: TestClient) -> Listed:
    """Return a function that gives the ids of a list."""

    def ids(**body: Any) -> list[str]:
        answer = client.post("/v1/recommend", json={"user_id": "u3", "k": 10} | body)
        assert answer.status_code == 200, answer.text
        return [item["item_id"] for item in answer.json()["items"]]

    return ids


def switch(client: TestClient, name: str, definition: dict[str, Any]) -> Any:
    stored = client.put(f"/v1/scenarios/{name}", json=definition)
    assert stored.status_code == 200, stored.text
    answer = client.post(f"/v1/scenarios/{name}/switch", json={"on": True})
    assert answer.status_code == 200, answer.text
    return stored.json()


def test_a_list_follows_its_scenario_as_soon_as_it_is_on(client: TestClient, listed: Listed) -> None:
    """And no longer once it is off."""
    plain = listed()
    last = plain[-1]
    stored = client.put("/v1/scenarios/home", json={"pins": [{"position": 1, "item": last}]}).json()
    assert (stored["version"], stored["on"], stored["notes"]) == (1, False, [])
    assert client.post("/v1/recommend", json={"scenario": "home"}).status_code == 422
    assert client.post("/v1/scenarios/home/switch", json={"on": True}).json()["on"]
    assert listed(scenario="home") == [last, *plain[:-1]]
    assert listed() == plain
    assert client.get("/v1/scenarios").json() == {"scenarios": [{"name": "home", "on": 1, "latest": 1}]}
    client.post("/v1/scenarios/home/switch", json={"on": False})
    assert client.post("/v1/recommend", json={"scenario": "home"}).status_code == 422


def test_each_rule_does_what_it_says(client: TestClient, listed: Listed) -> None:
    """On lists of which everything else is known."""
    everything = listed(k=40)
    brands = {f"i{row}": f"brand {row % 3}" for row in range(40)}

    switch(client, "one", {"filters": {"brand": "brand 1"}})
    assert listed(scenario="one", k=40) == listed(filters={"brand": "brand 1"}, k=40)
    switch(client, "one", {"boosts": [{"factor": 1000.0, "where": {"brand": "brand 2"}}]})
    own = [item for item in everything if brands[item] == "brand 2"]
    assert listed(scenario="one", k=40)[: len(own)] == own
    switch(client, "one", {"per_brand": 2})
    assert sorted(brands[item] for item in listed(scenario="one")) == sorted([f"brand {n}" for n in range(3)] * 2)
    switch(client, "one", {"promotions": [{"share": 0.5, "where": {"brand": "brand 0"}}]})
    promoted = [brands[item] == "brand 0" for item in listed(scenario="one")]
    assert all(sum(promoted[:n]) >= n // 2 for n in range(11))
    switch(client, "one", {"promotions": [{"item": everything[-1], "within": 3}]})
    assert listed(scenario="one")[2] == everything[-1]
    switch(client, "one", {"sources": dict.fromkeys(("interest", "taste", "covisitation", "lexical", "related"), 0)})
    assert set(listed(scenario="one")) <= set(everything)
    seen = {f"i{(9 + step * step) % 35}" for step in range(5)}
    switch(client, "one", {"exclude_seen": True})
    assert not seen & set(listed(scenario="one", k=40))
    switch(client, "one", {"diversity": 0.7})
    assert listed(scenario="one") == listed(diversity=0.7)


def test_what_the_request_says_itself_goes_before_the_scenario(client: TestClient, listed: Listed) -> None:
    """Filters as a whole, and so a pin that does not pass them is left out with a note."""
    switch(client, "home", BUSY)
    filters = {"brand": "brand 0"}
    answer = client.post("/v1/recommend", json={"user_id": "u3", "scenario": "home", "filters": filters}).json()
    assert all(int(item["item_id"][1:]) % 3 == 0 for item in answer["items"])
    assert "pins 1: item 'i38' does not pass the filters" in answer["notes"]
    switch(client, "plain", {"diversity": 0.7, "exclude_seen": True, "value": {"click": 0, "purchase": 1}})
    own = {"diversity": 0.0, "exclude_seen": False, "value": {"click": 1, "purchase": 0}}
    assert listed(scenario="plain", **own) == listed(**own)


def test_rules_that_no_item_meets_are_noted(client: TestClient) -> None:
    """When they are stored and in every list; a condition that does not fit the catalogue is refused."""
    rules = {
        "pins": [{"position": 1, "item": "gone"}],
        "boosts": [{"factor": 2, "where": {"brand": "nobody"}}],
        "promotions": [{"share": 0.5, "where": {"price": {"min": 1e6}}}],
    }
    notes = [
        "boosts 1: where.brand: no item passes",
        "pins 1: item 'gone' is not in the catalogue, or not available",
        "promotions 1: where.price: no item passes",
    ]
    assert switch(client, "home", rules)["notes"] == notes
    answer = client.post("/v1/recommend", json={"user_id": "u3", "scenario": "home"}).json()
    assert answer["notes"] == notes and len(answer["items"]) == 20
    wrong = client.put("/v1/scenarios/home", json={"filters": {"attributes": {"colour": "red"}}})
    assert wrong.status_code == 422 and "the items have no 'colour'" in wrong.json()["detail"]
    unknown = client.put("/v1/scenarios/home", json={"divesity": 1})
    assert unknown.status_code == 422 and "did you mean 'diversity'?" in unknown.text
    assert client.get("/v1/scenarios/home").json()["version"] == 1


def test_a_pinned_item_that_is_deleted_is_left_out_at_once(client: TestClient, listed: Listed) -> None:
    """The next best takes its position."""
    switch(client, "home", {"pins": [{"position": 1, "item": "i20"}]})
    assert listed(scenario="home")[0] == "i20"
    client.delete("/v1/items/i20")
    assert listed(scenario="home")[0] == listed()[0]


def test_an_unknown_scenario_is_refused_by_naming_those_that_are_on(client: TestClient) -> None:
    """Routes about scenarios answer 404."""
    switch(client, "home", {})
    refused = client.post("/v1/recommend", json={"scenario": "hom"})
    assert refused.status_code == 422
    assert refused.json()["detail"] == "scenario: 'hom' is not on; did you mean 'home'? there are: home"
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/switch"), ("POST", "/preview")):
        answer = client.request(method, f"/v1/scenarios/hom{path}", json={"on": True} if path == "/switch" else {})
        assert answer.status_code == 404, answer.text
    assert client.get("/v1/scenarios/home", params={"version": 9}).status_code == 404
    assert client.delete("/v1/scenarios/home").json() == {"name": "home", "versions": 1}
    assert "there are none" in client.post("/v1/recommend", json={"scenario": "home"}).json()["detail"]


def test_a_preview_is_the_list_that_comes_and_is_not_kept(client: TestClient, listed: Listed, store: Store) -> None:
    """Of a draft as of a stored version."""
    request = {"user_id": "u3", "k": 10}

    def previewed(**body: Any) -> list[str]:
        answer = client.post("/v1/scenarios/home/preview", json={"request": request} | body)
        assert answer.status_code == 200, answer.text
        return [item["item_id"] for item in answer.json()["items"]]

    draft = previewed(definition=BUSY)
    client.put("/v1/scenarios/home", json=BUSY)
    assert previewed() == previewed(version=1) == draft
    time.sleep(0.6)  # longer than the log collects
    assert list(store.every_list()) == []
    switch(client, "home", BUSY)
    assert listed(scenario="home") == draft


def test_another_server_follows_within_a_second(client: TestClient, listed: Listed, tiny: Path, store: Store) -> None:
    """What the command line or another replica stores is taken over without a call."""
    store.add_scenario("home", {"pins": [{"position": 1, "item": "i20"}]})
    kept.switch_on(store, "home")
    time.sleep(1.0)
    assert listed(scenario="home")[0] == "i20"


def test_scenarios_need_an_admin(tiny: Path, store: Store) -> None:
    """A key that reads may request lists by them."""
    from serving.api.access.keys import create_key

    reader = {"Authorization": f"Bearer {create_key(store, 'shop', ('read',))}"}
    store.add_scenario("home", {})
    kept.switch_on(store, "home")
    with client_of(create_app(holder_of(tiny, store), store, clock=lambda: NOW)) as client:
        assert client.get("/v1/scenarios", headers=reader).status_code == 403
        assert client.put("/v1/scenarios/home", json={}, headers=reader).status_code == 403
        assert client.post("/v1/recommend", json={"scenario": "home"}, headers=reader).status_code == 200


def test_a_kept_list_knows_its_scenario(client: TestClient, listed: Listed, store: Store) -> None:
    """Name and version; other lists have none."""
    switch(client, "home", {})
    switch(client, "home", {"diversity": 0.1})
    listed(scenario="home")
    listed()
    deadline = time.monotonic() + 5
    while len(kept_lists := list(store.every_list())) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert {(one.scenario, one.scenario_version) for one in kept_lists} == {("home", 2), (None, None)}


@pytest.fixture
def exploring(tiny: Path, tmp_path: Path, store: Store) -> Iterator[TestClient]:
    """Return a client of a model that explores nothing by itself."""
    bundle = with_config(tiny, tmp_path / "bundle", lists={"explore": 0.0})
    with client_of(create_app(holder_of(bundle, store), store, clock=lambda: NOW, seed=3)) as opened:
        yield opened


def test_pins_and_promoted_items_are_not_explored(exploring: TestClient) -> None:
    """Other positions are, by the scenario's share."""
    rules = {
        "explore": 0.5,
        "pins": [{"position": 1, "item": "i3"}],
        "promotions": [{"share": 0.3, "where": {"brand": "brand 2"}}],
    }
    switch(exploring, "home", rules)
    explored = 0
    for _ in range(30):
        body = {"user_id": "u3", "k": 10, "scenario": "home"}
        items = exploring.post("/v1/recommend", json=body).json()["items"]
        explored += sum(item["explored"] for item in items)
        assert len({item["item_id"] for item in items}) == 10
        assert items[0]["item_id"] == "i3" and not items[0]["explored"]
        assert sum(not item["explored"] and int(item["item_id"][1:]) % 3 == 2 for item in items) >= 3
    assert explored


def test_batch_lists_by_a_scenario_are_those_of_the_api(
    tiny: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same items in the same order with the same scores, for users known and unknown."""
    monkeypatch.setattr("serving.batch.PART_USERS", 5)
    log: EventLog = log_of(
        [(f"u{u}", f"i{(3 * u + s * s) % 35}", "click", 5 * s + u % 5) for u in range(12) for s in range(5)], 40
    )
    users, catalogue = [*log.user_ids, "nobody"], pl.read_parquet(tiny / "items.parquet")
    job = Job.of("tiny", tiny, "-", 8, users, log, scenario=parse(BUSY, "busy"))
    written = write_lists(job, catalogue, log, users, tmp_path / "out", False, lambda *_: None, FileOptions())
    lists = pl.read_parquet(tmp_path / "out" / "part-*.parquet")
    assert written.lists == len(users) and written.notes == [] and written.scenario == BUSY
    store.add_scenario("email", BUSY)
    kept.switch_on(store, "email")
    with client_of(create_app(holder_of(tiny, store), store, clock=lambda: job.now)) as client:
        for user in users:
            items = client.post("/v1/recommend", json={"user_id": user, "k": 8, "scenario": "email"}).json()["items"]
            own = lists.filter(user_id=user).sort("rank")
            assert own["item_id"].to_list() == [item["item_id"] for item in items], user
            assert own["score"].to_list() == pytest.approx([item["score"] for item in items], rel=1e-5)
