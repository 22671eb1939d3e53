"""From serving back to training: the store's log as a dataset with impressions.

In: a dataset folder and a store. Out: a new dataset folder: the old tables, what the API was told since,
and the places of answered lists on which nobody acted.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import polars as pl

from features.data.dataset import Dataset, load_dataset
from recsys.atomic import atomic_folder
from recsys.schema import EVENT_COLUMNS, DatasetInfo
from serving.columns import items_table
from serving.loading import changed_catalogue
from serving.store.store import Store

LOGGED = ("user_id", "item_id", "event_type", "timestamp", "value", "session_id", "request_id", "position")


@dataclass(frozen=True)
class Exported:
    """What was added to the dataset."""

    events: int
    impressions: int
    items: int
    notes: list[str]


def export(folder: Path, store: Store, out: Path) -> Exported:
    """Write the dataset in `folder` and what `store` holds beyond it to the new folder `out`.

    Raises:
        RecsysError: the dataset is not valid, `out` is not empty, or the store is away.
    """
    dataset = load_dataset(folder)
    changes = [change for change in store.item_changes() if change.body is not None]
    items = with_changes(dataset.items, [{"item_id": change.item_id, **(change.body or {})} for change in changes])
    gone = store.forgotten_users()
    before = dataset.events.filter(~pl.col("user_id").is_in(gone)).collect()
    acted = logged_events(store)
    known = acted.filter(pl.col("item_id").is_in(items["item_id"].implode()))
    new = known.join(before, on=["user_id", "item_id", "event_type", "timestamp"], how="anti", nulls_equal=True)
    places = impression_rows(store)
    new = new.join(
        places.select("request_id", "item_id", shown="position", chance="propensity"),
        on=["request_id", "item_id"],
        how="left",
        maintain_order="left",
    ).with_columns(position=pl.coalesce("position", "shown"), propensity="chance")
    impressions = places.filter(pl.col("user_id").is_not_null(), pl.col("item_id").is_in(items["item_id"].implode()))
    impressions = impressions.join(acted, on=["request_id", "item_id"], how="anti")
    impressions = (
        impressions.join(before, on=["request_id", "item_id"], how="anti")
        if "request_id" in before.columns
        else impressions
    )
    events = pl.concat([before, new.drop("shown", "chance"), impressions], how="diagonal_relaxed")
    _write(dataset, items, events.sort("timestamp", maintain_order=True), gone, out)
    return Exported(new.height, impressions.height, len(changes), _notes(dataset, acted, known, places, gone))


def with_changes(items: pl.DataFrame, bodies: list[dict[str, object]]) -> pl.DataFrame:
    """Return `items` with the changed ones in their places, and columns that only they have."""
    if not bodies:
        return items
    return changed_catalogue(items, items_table(bodies, items.schema))


def logged_events(store: Store) -> pl.DataFrame:
    """Return the events of the store, in the order in which they came."""
    rows = [tuple(getattr(event, name) for name in LOGGED) for event in store.every_event()]
    return pl.DataFrame(rows, schema={name: EVENT_COLUMNS[name] for name in LOGGED}, orient="row")


def impression_rows(store: Store) -> pl.DataFrame:
    """Return every place of every answered list as an impression, with its propensity where it was explored."""
    shown = [asdict(one) for one in store.every_list() if one.items]
    schema = pl.Schema(
        {
            "request_id": pl.String(),
            "user_id": pl.String(),
            "timestamp": pl.Int64(),
            "items": pl.List(pl.String()),
            "propensities": pl.List(pl.Float64()),
        }
    )
    lists = pl.DataFrame([{name: one[name] for name in schema} for one in shown], schema=schema)
    places = lists.with_columns(position=pl.int_ranges(1, pl.col("items").list.len() + 1, dtype=pl.Int32))
    places = places.explode("items", "propensities", "position", empty_as_null=False)
    return places.rename({"items": "item_id", "propensities": "propensity"}).with_columns(
        event_type=pl.lit("impression")
    )


def _write(dataset: Dataset, items: pl.DataFrame, events: pl.DataFrame, gone: list[str], out: Path) -> None:
    changes = {"name": dataset.info.name}
    if dataset.info.split == "column":
        changes["split"] = "time"
        events = events.drop("split")
    if dataset.has_clock:
        events = events.with_columns(pl.col("timestamp").cast(pl.Datetime("us", "UTC")))
        items = items.with_columns(pl.col("created_at").cast(pl.Datetime("us", "UTC")))
    info = DatasetInfo.model_validate(dataset.info.model_dump() | changes)
    with atomic_folder(out) as folder:
        items.write_parquet(folder / "items.parquet")
        events.write_parquet(folder / "events.parquet")
        if dataset.users is not None:
            dataset.users.filter(~pl.col("user_id").is_in(gone)).write_parquet(folder / "users.parquet")
        (folder / "dataset.json").write_text(info.model_dump_json(indent=1), encoding="utf-8")


def _notes(
    dataset: Dataset, acted: pl.DataFrame, known: pl.DataFrame, places: pl.DataFrame, gone: list[str]
) -> list[str]:
    notes = []
    if acted.height > known.height:
        lost = acted.join(known, on="item_id", how="anti")["item_id"]
        notes.append(f"left out: {len(lost):,} events on items that are not in the catalogue, for example {lost[0]!r}")
    nobody = int(np.sum(places["user_id"].is_null().to_numpy()))
    if nobody:
        notes.append(f"left out: {nobody:,} places of lists for nobody known")
    if gone:
        notes.append(f"left out: {len(gone):,} users whose data were deleted")
    if dataset.info.split == "column":
        notes.append("the column `split` says nothing of new events: the new dataset is split by time")
    return notes
