"""Items have one truth: what was said of them last, in the catalogue or by the API, and for how long it holds."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from fastapi.testclient import TestClient

from recsys.bundle import read_config, verify
from recsys.events import DAY_US
from serving.api.app import create_app
from serving.columns import MAX_COLUMNS
from serving.store.retention import prune
from serving.store.store import Store
from tests.serving.api.conftest import NOW
from tests.worlds import client_of, holder_of, sealed_again, with_columns

HOUR = 3_600_000_000


def put(client: TestClient, item: str, **columns: Any) -> Any:
    body = {"items": [{"item_id": item, "title": "red lamp for the garden", **columns}]}
    return client.put("/v1/items", json=body)


def listed(client: TestClient, **body: Any) -> list[str]:
    answer = client.post("/v1/recommend", json={"k": 60, **body})
    assert answer.status_code == 200, answer.text
    return [item["item_id"] for item in answer.json()["items"]]


def everywhere(client: TestClient, item: str) -> set[str]:
    """Return where an item can be met: in lists, rankings, searches, among similar items."""
    similar = client.get("/v1/items/i5/similar", params={"k": 60}).json()["items"]
    found = client.post("/v1/search", json={"query": "red lamp for the garden", "k": 60}).json()["items"]
    ranked = client.post("/v1/rank", json={"candidates": [item]}).json()["items"]
    answers = {"similar": similar, "search": found, "rank": ranked}
    places = {name for name, items in answers.items() if item in [one["item_id"] for one in items]}
    return places | ({"list"} if item in listed(client) else set())


EVERYWHERE = {"list", "rank", "search", "similar"}


def restarted(bundle: Path, store: Store, now: int = NOW) -> TestClient:
    """Return a client of a server that was just started."""
    return client_of(create_app(holder_of(bundle, store), store, clock=lambda: now))


@pytest.fixture
def bundle_as_of(tiny: Path, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes the bundle with other items, read at a time."""

    def write(as_of: int | None, **columns: pl.Expr) -> Path:
        folder = with_columns(tiny, tmp_path / f"bundle-{as_of}", **columns)
        about = verify(folder)
        (folder / "manifest.json").write_text(json.dumps(about | {"items_as_of": as_of}), encoding="utf-8")
        return sealed_again(folder, read_config(folder))

    return write


def test_a_catalogue_that_is_newer_than_a_put_wins_over_it_and_an_older_one_does_not(
    store: Store, bundle_as_of: Callable[..., Path], tiny: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """So with an item that was replaced, one that was added and one that was deleted; of bundles that keep no time the put wins."""
    before = time.time_ns() // 1000
    with restarted(tiny, store) as client:
        put(client, "i3", price=1000.0)
        put(client, "new")
        assert client.delete("/v1/items/i4").status_code == 200
    after = time.time_ns() // 1000
    dear = {"filters": {"price": {"min": 999}}}
    for as_of, put_wins in ((before, True), (None, True), (after, False)):
        with caplog.at_level("INFO", "recsys.live"):
            client = restarted(bundle_as_of(as_of), store)
        assert ("3 of 3 item changes are older" in caplog.text) is not put_wins
        assert (listed(client, **dear) == ["i3"]) is put_wins
        assert ("new" in listed(client)) is put_wins and ("i4" in listed(client)) is not put_wins
    put(client, "i4", price=2000.0)
    assert listed(client, **dear) == ["i4"]
    assert listed(restarted(bundle_as_of(after - 1), store), **dear) == ["i4"]


def test_what_a_newer_catalogue_has_overruled_is_pruned_with_its_model(store: Store) -> None:
    """What came after it stays."""
    store.change_items([("i1", {"title": "old"}), ("i2", None)])
    as_of = time.time_ns() // 1000
    store.change_items([("i3", {"title": "late"})])
    items = pl.DataFrame({"item_id": ["i1", "i2", "i3"], "title": ["new"] * 3, "available": [True] * 3})
    assert prune(store, 1 << 60, items, as_of).item_changes == 2
    assert [change.item_id for change in store.item_changes()] == ["i3"]


@pytest.mark.parametrize("gone", ["deleted", "not available in the catalogue"])
def test_a_deleted_item_that_is_put_again_is_back_everywhere(
    tiny: Path, store: Store, tmp_path: Path, gone: str
) -> None:
    """In the process that got it, in one that follows, and after a restart; also where the catalogue says that it is gone."""
    bundle = tiny
    if gone != "deleted":
        away = pl.when(pl.col("item_id") == "i3").then(False).alias("available")
        bundle = with_columns(tiny, tmp_path / "away", available=away)
    with restarted(bundle, store) as client, restarted(bundle, store) as replica:
        if gone == "deleted":
            assert client.delete("/v1/items/i3").status_code == 200
        assert everywhere(client, "i3") == everywhere(restarted(bundle, store), "i3") == set()
        assert put(client, "i3").json()["items"] == 40
        replica.app.state.workers.service.holder.take_changes()  # type: ignore[attr-defined]
        for one in (client, replica, restarted(bundle, store)):
            assert everywhere(one, "i3") == EVERYWHERE


def test_an_attribute_that_no_column_has_is_kept_and_can_be_filtered(
    client: TestClient, store: Store, tiny: Path
) -> None:
    """Also by another process and after a restart, by a value, a range and an element."""
    assert client.post("/v1/recommend", json={"filters": {"attributes": {"size": "L"}}}).status_code == 422
    put(client, "i3", attributes={"size": "L", "watts": 5, "new price": 1.0, "vegan": True, "row": ["a", "b"]})
    put(client, "new", attributes={"size": "M", "watts": 7.5})
    for one in (client, restarted(tiny, store)):
        for attributes, fits in (
            ({"size": "L"}, {"i3"}),
            ({"size": ["L", "M"]}, {"i3", "new"}),
            ({"watts": {"min": 6}}, {"new"}),
            ({"new price": 1.0}, {"i3"}),
            ({"vegan": True}, {"i3"}),
            ({"row": "b"}, {"i3"}),
        ):
            assert set(listed(one, filters={"attributes": attributes})) == fits
    put(client, "i3")
    assert listed(client, filters={"attributes": {"size": "L"}}) == []


def test_a_value_that_contradicts_the_type_of_an_attribute_is_refused_and_not_kept(
    client: TestClient, store: Store
) -> None:
    """Within one request as well as against what was put before; the first value says what the type is."""
    body = [{"item_id": name, "title": "x", "attributes": {"size": size}} for name, size in (("a", 5), ("b", "L"))]
    answer = client.put("/v1/items", json={"items": body})
    assert answer.status_code == 422 and not store.item_changes()
    assert answer.json()["detail"].startswith("items: 'L' of 'b' for 'size', which holds Float64 here; send")
    assert put(client, "a", attributes={"size": "L"}).status_code == 200
    assert put(client, "b", attributes={"size": ["L"]}).status_code == 422
    assert put(client, "b", attributes={"size": None}).status_code == 200
    assert put(client, "b", attributes={"_size": "L"}).status_code == 422


def test_attributes_without_end_are_refused_and_harm_no_process(client: TestClient, store: Store, tiny: Path) -> None:
    """Also where they were kept before there was a limit."""
    for part in range(0, MAX_COLUMNS, 100):
        answer = put(client, "i3", attributes={f"a{number}": 1 for number in range(part, part + 100)})
    assert answer.status_code == 422 and f"more than {MAX_COLUMNS} columns" in answer.json()["detail"]
    store.change_items([("i3", {"title": "x", **{f"a{number}": 1 for number in range(2 * MAX_COLUMNS)}})])
    restart = restarted(tiny, store)
    assert listed(restart, filters={"attributes": {"a5": 1}}) == ["i3"]
    width = restart.app.state.workers.service.holder.snapshot.lookup.retriever.items.width  # type: ignore[attr-defined]
    assert width == MAX_COLUMNS


def test_stored_attributes_that_contradict_each_other_are_unknown_and_harm_no_process(store: Store, tiny: Path) -> None:
    """As when two processes took them at the same moment."""
    store.change_items([("i1", {"title": "x", "size": "L"}), ("i2", {"title": "x", "size": 5.0})])
    assert listed(restarted(tiny, store), filters={"attributes": {"size": "L"}}) == ["i1"]


def test_items_are_listed_in_their_time_alone(client: TestClient, store: Store, tiny: Path) -> None:
    """From its first moment on, before its last one; nothing has to happen in between."""
    put(client, "i3", available_from=NOW - HOUR, available_until=NOW + HOUR)
    put(client, "i4", available_from=NOW + HOUR)
    put(client, "i6", available_until=NOW)
    for now, open_ones in (
        (NOW - HOUR - 1, {"i6"}),
        (NOW - HOUR, {"i3", "i6"}),
        (NOW, {"i3"}),
        (NOW + HOUR, {"i4"}),
    ):
        one = restarted(tiny, store, now)
        for item in ("i3", "i4", "i6"):
            assert everywhere(one, item) == (EVERYWHERE if item in open_ones else set()), (now - NOW, item)
        assert one.get("/v1/model").json()["items"] == 37 + len(open_ones)
    assert client.post("/v1/rank", json={"candidates": ["i4"]}).json()["unknown_items"] == ["i4"]
    later = {"candidates": ["i4"], "context": {"time": NOW + HOUR}}
    assert [item["item_id"] for item in client.post("/v1/rank", json=later).json()["items"]] == ["i4"]
    put(client, "i6")
    assert everywhere(client, "i6") == EVERYWHERE


def test_a_list_is_full_when_items_are_out_of_their_time(client: TestClient) -> None:
    """With and without filters; an expired item can be deleted, and stays in histories."""
    for row in range(20):
        put(client, f"i{row}", available_until="2023-01-01", brand="gone" if row else "here")
    assert len(listed(client, history=["i1", "i2"])) == 20
    assert listed(client, filters={"brand": "gone"}) == []
    assert client.post("/v1/recommend", json={"history": ["i1"]}).json()["unknown_items"] == []
    assert client.delete("/v1/items/i1").status_code == 200


def test_a_time_that_ends_before_it_begins_is_refused(client: TestClient, store: Store) -> None:
    """So are seconds in place of microseconds."""
    assert put(client, "i3", available_from=NOW, available_until=NOW).status_code == 422
    assert put(client, "i3", available_until=NOW // 1_000_000).status_code == 422
    assert put(client, "i3", available_until="tomorrow").status_code == 422
    assert not store.item_changes()
    assert put(client, "i3", available_from="2023-11-01", available_until=NOW + DAY_US).status_code == 200
