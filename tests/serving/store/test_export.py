"""From serving back to training: stored events and lists become a dataset that training accepts."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from features.data.dataset import load_dataset
from recsys.errors import RecsysError
from serving.store.export import actions, events_table, export
from serving.store.store import ImpressionList, Store, StoredEvent
from tests.worlds import DAY, write_dataset

AFTER = 1_700_000_000_000_000 + 30 * DAY


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return an empty store."""
    return Store(f"sqlite:///{tmp_path}/store.db")


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Return a small valid dataset of 8 items and 36 events."""
    return write_dataset(tmp_path / "shop")


def click(number: int, user: str, item: str, request_id: str | None = None) -> StoredEvent:
    return StoredEvent(f"e{number}", user, item, "click", AFTER + number, request_id=request_id)


def test_listed_items_without_an_event_become_impressions(shop: Path, store: Store, tmp_path: Path) -> None:
    """An event takes the position at which its item was listed, the propensity, and what was drawn from."""
    items, scores, propensities = ["i3", "i5", "i6"], [3.0, 2.0, 1.0], [None, 0.05, None]
    store.add_lists([ImpressionList("r1", "u1", AFTER, "m/1", items, scores, propensities, pool=["i5", "i7"])])
    store.add_events([click(1, "u1", "i5", request_id="r1")])
    report = export(shop, store, tmp_path / "out")
    assert (report.events, report.impressions) == (1, 2)
    new = load_dataset(tmp_path / "out").events.filter(pl.col("request_id") == "r1").collect().sort("position")
    assert new["item_id"].to_list() == ["i3", "i5", "i6"]
    assert new["event_type"].to_list() == ["impression", "click", "impression"]
    assert new["position"].to_list() == [1, 2, 3] and new["propensity"].to_list() == [None, 0.05, None]
    assert new["pool"].to_list() == [None, ["i5", "i7"], None]


def test_a_rejected_item_is_exported_as_impression_and_rejection_and_counts_as_no_click(
    shop: Path, store: Store, tmp_path: Path
) -> None:
    store.add_lists([ImpressionList("r1", "u1", AFTER, "m/1", ["i3", "i5"], [2.0, 1.0], [None, None])])
    store.add_events([replace(click(1, "u1", "i5", request_id="r1"), event_type="hide")])
    report = export(shop, store, tmp_path / "out")
    assert (report.events, report.impressions) == (1, 2)
    new = load_dataset(tmp_path / "out").events.filter(pl.col("request_id") == "r1").collect().sort("item_id")
    assert new.select("item_id", "event_type", "position").rows() == [
        ("i3", "impression", 1), ("i5", "impression", 2), ("i5", "hide", 2),
    ]  # fmt: skip
    assert actions(events_table(store.every_event())).is_empty()
    again = export(tmp_path / "out", store, tmp_path / "again")
    assert (again.events, again.impressions) == (0, 0)


def test_the_scenario_of_a_list_is_exported_with_its_impressions_and_events(
    shop: Path, store: Store, tmp_path: Path
) -> None:
    """Name and version; what was listed without one has none."""
    made_by: Any = {"scenario": "home", "scenario_version": 2}
    store.add_lists([ImpressionList("r1", "u1", AFTER, "m/1", ["i3", "i5"], [2.0, 1.0], [None, None], **made_by)])
    store.add_lists([ImpressionList("r2", "u1", AFTER, "m/1", ["i3"], [2.0], [None])])
    store.add_events([click(1, "u1", "i5", request_id="r1")])
    export(shop, store, tmp_path / "out")
    new = load_dataset(tmp_path / "out").events.filter(pl.col("request_id").is_in(["r1", "r2"])).collect()
    rows = new.sort("request_id", "position").select("request_id", "scenario", "scenario_version").rows()
    assert rows == [("r1", "home", 2), ("r1", "home", 2), ("r2", None, None)]


def test_a_second_export_adds_nothing(shop: Path, store: Store, tmp_path: Path) -> None:
    """No event and no impression is added twice."""
    store.add_lists([ImpressionList("r1", "u1", AFTER, "m/1", ["i3", "i5"], [3.0, 2.0], [None, None])])
    store.add_events([click(1, "u1", "i5", request_id="r1"), click(2, "new", "i1")])
    export(shop, store, tmp_path / "one")
    again = export(tmp_path / "one", store, tmp_path / "two")
    assert (again.events, again.impressions) == (0, 0)
    tables = [load_dataset(tmp_path / name).events.collect() for name in ("one", "two")]
    assert tables[0].height == tables[1].height == 36 + 3


def test_changed_items_are_exported_and_omissions_are_reported(shop: Path, store: Store, tmp_path: Path) -> None:
    """Deleted items stay, since histories contain them; forgotten users leave nothing."""
    store.change_items([("i1", {"title": "Renamed", "price": 3.0}), ("i9", {"title": "Fresh"}), ("i2", None)])
    store.add_events([click(1, "u1", "i9"), click(2, "u1", "unheard of")])
    store.add_lists([ImpressionList("r1", None, AFTER, "m/1", ["i3"], [3.0], [None])])
    store.forget_user("u3")
    report = export(shop, store, tmp_path / "out")
    dataset = load_dataset(tmp_path / "out")
    titles = dict(dataset.items.select("item_id", "title").rows())
    assert titles["i1"] == "Renamed" and titles["i9"] == "Fresh" and titles["i2"] == "Title number 2"
    assert dataset.items.filter(pl.col("available").not_())["item_id"].to_list() == ["i2"]
    events = dataset.events.collect()
    assert "u3" not in events["user_id"] and "i9" in events["item_id"] and events.height == 30 + 1
    notes = " ".join(report.notes)
    assert "'unheard of'" in notes and "1 impressions without a user" in notes and "deleted" in notes


def test_an_item_that_is_put_again_after_its_deletion_is_available(shop: Path, store: Store, tmp_path: Path) -> None:
    """In the next export, also where the one before said that it was not."""
    store.change_items([("i2", None)])
    export(shop, store, tmp_path / "without")
    store.change_items([("i2", {"title": "Back"})])
    export(tmp_path / "without", store, tmp_path / "with")
    assert not load_dataset(tmp_path / "with").items.filter(pl.col("available").not_()).height


def test_a_split_by_column_becomes_one_by_time(tmp_path: Path, store: Store) -> None:
    """New events have no split of their own."""
    rows = "".join(f"u{n % 3},i{n % 8},click,{1_700_000_000 + n},{'test' if n > 30 else 'train'}\n" for n in range(36))
    shop = write_dataset(
        tmp_path / "shop",
        **{
            "events.csv": "user_id,item_id,event_type,timestamp,split\n" + rows,
            "dataset.json": json.dumps({"split": "column"}),
        },
    )
    store.add_events([click(1, "u1", "i1")])
    assert any("split" in note for note in export(shop, store, tmp_path / "out").notes)
    assert load_dataset(tmp_path / "out").info.split == "time"


def test_a_folder_that_is_not_empty_is_left_alone(shop: Path, store: Store, tmp_path: Path) -> None:
    """The error is one line, and nothing is written."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(RecsysError, match="not an empty folder"):
        export(shop, store, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


def test_attributes_and_times_that_were_put_are_exported(shop: Path, store: Store, tmp_path: Path) -> None:
    """An attribute that no column has becomes one."""
    store.change_items([("i1", {"title": "Lamp", "watts": 5.0, "available_from": AFTER}), ("i9", {"title": "Fresh"})])
    export(shop, store, tmp_path / "out")
    dataset = load_dataset(tmp_path / "out")
    rows = {row["item_id"]: row for row in dataset.items.iter_rows(named=True)}
    assert (rows["i1"]["watts"], rows["i1"]["available_from"]) == (5.0, AFTER)
    assert rows["i9"]["watts"] is None and rows["i2"]["available_from"] is None


def test_a_dataset_that_is_newer_than_a_change_wins_over_it(shop: Path, store: Store, tmp_path: Path) -> None:
    """By the time that it states, or else by when its items were written; what is exported is as new as the last change in it."""
    store.change_items([("i1", {"title": "Put first"})])
    (first,) = store.item_changes()
    assert first.at is not None
    export(shop, store, tmp_path / "out")
    assert load_dataset(tmp_path / "out").items_as_of == first.at
    newer = write_dataset(tmp_path / "newer")
    assert load_dataset(newer).items_as_of > first.at
    report = export(newer, store, tmp_path / "as of newer")
    assert report.items == 0 and "Put first" not in load_dataset(tmp_path / "as of newer").items["title"]
    stated = write_dataset(tmp_path / "stated", **{"dataset.json": json.dumps({"items_as_of": "2023-01-31T06:00:00Z"})})
    assert load_dataset(stated).items_as_of == 1_675_144_800_000_000
    assert export(stated, store, tmp_path / "as of stated").items == 1


def test_what_was_chosen_from_a_search_becomes_a_query(shop: Path, store: Store, tmp_path: Path) -> None:
    """Once for each item and user, however often; not what was rejected, nor what the search did not find."""
    nobody: Any = {"scores": [3.0, 2.0, 1.0], "propensities": [None, None, None], "query": "red lamp"}
    store.add_lists([ImpressionList("r1", None, AFTER, "m/1", ["i3", "i5", "i6"], **nobody)])
    store.add_lists([ImpressionList("r2", "u1", AFTER, "m/1", ["i3"], [3.0], [None])])
    chosen = [
        click(2, "u1", "i5", "r1"),
        replace(click(5, "u1", "i5", "r1"), event_type="purchase"),
        click(3, "u2", "i3", "r1"),
    ]
    others = [
        replace(click(4, "u2", "i6", "r1"), event_type="hide"),
        click(6, "u1", "i7", "r1"),
        click(7, "u1", "i3", "r2"),
    ]
    store.add_events(chosen + others)
    assert export(shop, store, tmp_path / "out").queries == 2
    queries = load_dataset(tmp_path / "out").queries
    assert queries is not None
    assert queries.rows() == [("red lamp", "i5", AFTER + 2, "u1"), ("red lamp", "i3", AFTER + 3, "u2")]
    again = export(tmp_path / "out", store, tmp_path / "again")
    kept = load_dataset(tmp_path / "again").queries
    assert again.queries == 0 and kept is not None and queries.equals(kept)


def test_queries_of_a_forgotten_user_leave_the_store_and_the_dataset(shop: Path, store: Store, tmp_path: Path) -> None:
    """Those that were exported before, and those that wait in the store; of others, and without a user, they stay."""
    rows = f"query,item_id,timestamp,user_id\nold,i1,{AFTER},u1\nold,i2,{AFTER},u2\nold,i3,{AFTER},\n"
    (shop / "queries.csv").write_text(rows)
    for number, user in enumerate(("u1", "u2")):
        store.add_lists([ImpressionList(f"r{number}", None, AFTER, "m/1", ["i3"], [3.0], [None], query=f"of {user}")])
        store.add_events([click(number, user, "i3", f"r{number}")])
    store.forget_user("u1")
    assert [one.query for one in store.every_list()] == ["of u2"]
    export(shop, store, tmp_path / "out")
    queries = load_dataset(tmp_path / "out").queries
    assert queries is not None
    assert sorted(queries.select("query", "item_id").rows()) == [("of u2", "i3"), ("old", "i2"), ("old", "i3")]


def test_a_dataset_whose_queries_have_no_users_takes_those_of_the_store(
    shop: Path, store: Store, tmp_path: Path
) -> None:
    """The column is optional."""
    (shop / "queries.csv").write_text(f"query,item_id,timestamp\nold,i1,{AFTER}\n")
    store.add_lists([ImpressionList("r1", None, AFTER, "m/1", ["i3"], [3.0], [None], query="new")])
    store.add_events([click(1, "u1", "i3", "r1")])
    export(shop, store, tmp_path / "out")
    queries = load_dataset(tmp_path / "out").queries
    assert queries is not None and queries.select("query", "user_id").rows() == [("old", None), ("new", "u1")]
