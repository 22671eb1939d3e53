"""What is old goes, but no change of an item that the model could not do without."""

from pathlib import Path

import polars as pl
import pytest

from serving.api.live import ModelHolder
from serving.loading import read_items
from serving.store.retention import learnt_changes, prune
from serving.store.store import ItemChange, Store, StoredEvent
from tests.command_line import run
from tests.worlds import with_columns


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return an empty store."""
    return Store(f"sqlite:///{tmp_path}/store.db")


def bodies(items: pl.DataFrame) -> list[tuple[str, dict[str, object]]]:
    """Return items as the API would have stored them."""
    return [
        (row.pop("item_id"), {name: value for name, value in row.items() if value is not None})
        for row in items.iter_rows(named=True)
    ]


def test_a_change_is_learnt_when_the_bundle_has_the_item_as_it_is_now(tiny: Path, tmp_path: Path) -> None:
    """Also a deletion; another price, a new item and an item that is offered are not."""
    away = pl.when(pl.col("item_id") == "i3").then(False).alias("available")
    items = read_items(with_columns(tiny, tmp_path / "bundle", available=away))
    (same_id, same), (other_id, other) = bodies(items[:2])
    changes = [
        ItemChange(1, same_id, same),
        ItemChange(2, other_id, other | {"price": 0.5}),
        ItemChange(3, "new", {"title": "red lamp"}),
        ItemChange(4, "i3", None),
        ItemChange(5, "i4", None),
        ItemChange(6, "never seen", None),
    ]
    assert sorted(learnt_changes(items, changes)) == [1, 4, 6]
    assert learnt_changes(items, []) == []


def test_pruning_keeps_changes_that_are_young_or_unknown_to_the_model(tiny: Path, store: Store) -> None:
    """Without a model it keeps them all."""
    items = read_items(tiny)
    store.change_items([bodies(items[:1])[0], ("new", {"title": "red lamp"})])
    assert prune(store, 1, items).total == 0
    assert prune(store, 1 << 60).total == 0
    assert prune(store, 1 << 60, items).item_changes == 1
    assert [change.item_id for change in store.item_changes()] == ["new"]


def test_a_server_deletes_what_is_older_than_it_keeps(
    tiny: Path, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """At its start, and the log says how much."""
    store.add_events([StoredEvent("old", "u", "i1", "click", 1), StoredEvent("new", "u", "i1", "click", 1 << 60)])
    holder = ModelHolder(str(tiny), store, keep_days=30)
    with caplog.at_level("INFO", "recsys.live"):
        holder.watch()
        holder.stop()
    assert [event.event_id for event in store.every_event()] == ["new"]
    assert "deleted 1 events, 0 lists and 0 item changes older than 30 days" in caplog.text


def test_the_command_says_what_it_deleted_and_what_stays(
    tiny: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    """Item changes go with a model only."""
    store.change_items([bodies(read_items(tiny)[:1])[0]])
    with store.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE item_changes SET at = NULL")
    command = ("data", "prune", "--days", "1", "--store", str(store.url))
    _, printed, _ = run(capsys, *command)
    assert "0 item changes older than 1 days" in printed and "--model NAME" in printed
    assert "1 item changes older" in run(capsys, *command, "--model", str(tiny))[1]
    assert not store.item_changes()
