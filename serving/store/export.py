"""The store's log as a dataset to train on: `recsys data export shop --out shop-2`.

In: a dataset folder and a store. Out: a new dataset folder with the old tables, the events and items that the API
received since, an impression for every item that was listed and led to no event, and a query for every item that was chosen
from what a search found.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from features.data.dataset import Dataset, load_dataset
from features.data.tables import TIMES
from recsys.atomic import atomic_folder
from recsys.events import NO_ACTION, REJECTIONS, moment_at
from recsys.schema import EVENT_COLUMNS, QUERY_COLUMNS, DatasetInfo
from serving.columns import held, items_table, with_attributes
from serving.loading import changed_catalogue
from serving.store.changes import later_changes
from serving.store.store import Store, StoredEvent

STORED_COLUMNS = ("user_id", "item_id", "event_type", "timestamp", "value", "session_id", "request_id", "position")
EVENT_KEY = ("user_id", "item_id", "event_type", "timestamp")
IMPRESSION_KEY = ("request_id", "item_id")
OF_LIST = ("propensity", "pool", "scenario", "scenario_version", "experiment", "arm")
LIST_COLUMNS = pl.Schema(
    {
        "request_id": pl.String(),
        "user_id": pl.String(),
        "timestamp": pl.Int64(),
        "items": pl.List(pl.String()),
        "propensities": pl.List(pl.Float64()),
        "pool": pl.List(pl.String()),
        "scenario": pl.String(),
        "scenario_version": pl.Int64(),
        "experiment": pl.String(),
        "arm": pl.String(),
        "teams": pl.List(pl.String()),
    }
)


@dataclass(frozen=True)
class Exported:
    """How many rows the export added to the dataset, and what it left out and why."""

    events: int
    impressions: int
    queries: int
    items: int
    notes: list[str]


def export(folder: Path, store: Store, out: Path) -> Exported:
    """Write the dataset in `folder`, with what `store` has beyond it, to the new folder `out`.

    Raises:
        RecsysError: the dataset is not valid, `out` is not empty, or the store is unreachable.
    """
    dataset = load_dataset(folder)
    changes = later_changes(store.item_changes(), dataset.items_as_of)
    bodies = [{"item_id": change.item_id, **change.body} for change in changes if change.body is not None]
    items = with_changes(dataset.items, bodies)
    deleted = [change.item_id for change in changes if change.body is None]
    gone = pl.col("item_id").is_in(deleted)
    items = items.with_columns(available=pl.when(gone).then(pl.lit(False)).otherwise("available"))
    forgotten = store.forgotten_users()
    old_events = _without(dataset.events.collect(), forgotten)
    stored = events_table(store.every_event(), old_events.schema)
    listed = _without(impression_rows(store), forgotten)
    in_catalogue = pl.col("item_id").is_in(items["item_id"].implode())
    new_events = _with_positions(
        stored.filter(in_catalogue).join(old_events, on=EVENT_KEY, how="anti", nulls_equal=True), listed
    )
    impressions = listed.filter(pl.col("user_id").is_not_null(), in_catalogue)
    for known in (stored, old_events):
        if "request_id" in known.columns:  # rejected items stay impressions
            acted = known.filter(~pl.col("event_type").is_in(REJECTIONS))
            impressions = impressions.join(acted, on=IMPRESSION_KEY, how="anti")
    events = pl.concat([old_events, new_events, impressions], how="diagonal_relaxed")
    as_of = max([dataset.items_as_of, *(change.at for change in changes if change.at is not None)])
    users = with_users(dataset.users, list(store.every_user()), list(forgotten))
    none = pl.DataFrame(schema=QUERY_COLUMNS)
    old_queries = none if dataset.queries is None else pl.concat([none, dataset.queries], how="diagonal_relaxed")
    old_queries, new_queries = _without(old_queries, forgotten), queries_table(store, stored.filter(in_catalogue))
    new_queries = new_queries.join(old_queries, on=list(QUERY_COLUMNS), how="anti", nulls_equal=True)
    queries = pl.concat([old_queries, new_queries], how="diagonal_relaxed").sort("timestamp", maintain_order=True)
    _write(dataset, items, as_of, events.sort("timestamp", maintain_order=True), users, queries, out)
    notes = _notes(
        dataset,
        unknown_items=stored.filter(~in_catalogue)["item_id"],
        anonymous=listed["user_id"].null_count(),
        forgotten=len(forgotten),
        deleted=items.filter(gone).height,
    )
    return Exported(new_events.height, impressions.height, new_queries.height, len(bodies), notes)


def _without(rows: pl.DataFrame, forgotten: dict[str, int]) -> pl.DataFrame:
    """Return the rows but for those of forgotten users that are not after the deletion."""
    tombstones = pl.DataFrame(
        {"user_id": list(forgotten), "_at": list(forgotten.values())}, schema={"user_id": pl.String, "_at": pl.Int64}
    )
    joined = rows.join(tombstones, on="user_id", how="left", maintain_order="left")
    return joined.filter(pl.col("_at").is_null() | (pl.col("timestamp") > pl.col("_at"))).drop("_at")


def with_changes(items: pl.DataFrame, bodies: list[dict[str, object]]) -> pl.DataFrame:
    """Return `items` with the changed items in their rows and new items after them, and columns for further attributes."""
    if not bodies:
        return items
    return changed_catalogue(items, items_table(bodies, with_attributes(items.schema, bodies)))


def events_table(events: Iterable[StoredEvent], schema: Mapping[str, pl.DataType] = EVENT_COLUMNS) -> pl.DataFrame:
    """Return stored events as a table, in their order, with a column per name of their context; `schema` has known types."""
    rows, contexts = [], []
    for event in events:
        rows.append(tuple(getattr(event, name) for name in STORED_COLUMNS))
        contexts.append(event.context or {})
    table = pl.DataFrame(rows, schema={name: EVENT_COLUMNS[name] for name in STORED_COLUMNS}, orient="row")
    return table.with_columns(named_columns(contexts, schema))


def actions(events: pl.DataFrame) -> pl.DataFrame:
    """Return what `events` made of each listed item: click, purchase, and the value of its purchases, by `IMPRESSION_KEY`."""
    bought = pl.col("event_type") == "purchase"
    return (
        events.filter(pl.col("request_id").is_not_null(), ~pl.col("event_type").is_in(NO_ACTION))
        .group_by(IMPRESSION_KEY)
        .agg(purchase=bought.any(), value=pl.col("value").filter(bought).sum())
        .with_columns(click=pl.lit(True))
    )


def queries_table(store: Store, events: pl.DataFrame) -> pl.DataFrame:
    """Return a query for each item that `events` say was chosen from what a search found, when it was chosen first."""
    searches = [(one.request_id, one.query, one.items) for one in store.every_list() if one.query is not None]
    schema = {"request_id": pl.String(), "query": pl.String(), "item_id": pl.List(pl.String())}
    found = pl.DataFrame(searches, schema=schema, orient="row").explode("item_id", empty_as_null=False)
    chosen = events.filter(~pl.col("event_type").is_in(NO_ACTION)).sort("timestamp", maintain_order=True)
    chosen = chosen.unique([*IMPRESSION_KEY, "user_id"], keep="first", maintain_order=True)
    return chosen.join(found, on=IMPRESSION_KEY, maintain_order="left").select(list(QUERY_COLUMNS))


def named_columns(rows: Sequence[Mapping[str, Any]], schema: Mapping[str, pl.DataType]) -> list[pl.Series]:
    """Return a column per name in `rows`, of the type that `schema` has; null where a value does not fit or is missing."""
    names = sorted({name for row in rows for name in row})
    return [_named_column(name, [row.get(name) for row in rows], schema.get(name)) for name in names]


def _named_column(name: str, values: list[Any], kind: pl.DataType | None) -> pl.Series:
    if kind is None:
        texts = any(isinstance(value, str) for value in values)
        return pl.Series(name, values, pl.String if texts else pl.Float64, strict=False)
    return pl.Series(name, [held(value, kind) for value in values], kind)


def with_users(
    users: pl.DataFrame | None, changes: Sequence[tuple[str, Mapping[str, Any]]], forgotten: Sequence[str]
) -> pl.DataFrame | None:
    """Return the table of `users` without the `forgotten` ones, and with the attributes that were set since."""
    users = None if users is None else users.filter(~pl.col("user_id").is_in(forgotten))
    if not changes:
        return users
    old = pl.DataFrame(schema={"user_id": pl.String}) if users is None else users
    columns = named_columns([attributes for _, attributes in changes], old.schema)
    new = pl.DataFrame({"user_id": [user for user, _ in changes]}).with_columns(columns)
    absent = [pl.lit(None, column.dtype).alias(column.name) for column in columns if column.name not in old.columns]
    return old.with_columns(absent).update(new, on="user_id", how="full")


def impression_rows(store: Store) -> pl.DataFrame:
    """Return an impression for every position of every list, with its propensity and pool if the position was explored.

    In an experiment, it has the arm that it is from.
    """
    stored = [asdict(impressions) for impressions in store.every_list() if impressions.items]
    lists = pl.DataFrame([{name: row[name] for name in LIST_COLUMNS} for row in stored], schema=LIST_COLUMNS)
    rows = lists.with_columns(position=pl.int_ranges(1, pl.col("items").list.len() + 1, dtype=pl.Int32))
    of_one = pl.col("arm").repeat_by(pl.col("items").list.len())
    rows = rows.with_columns(arm=pl.coalesce("teams", of_one)).drop("teams")
    rows = rows.explode("items", "propensities", "position", "arm", empty_as_null=False)
    rows = rows.rename({"items": "item_id", "propensities": "propensity"})
    explored = pl.col("propensity").is_not_null()
    return rows.with_columns(pool=pl.when(explored).then("pool"), event_type=pl.lit("impression"))


def _with_positions(events: pl.DataFrame, listed: pl.DataFrame) -> pl.DataFrame:
    """Give events the propensity, pool, scenario and arm of the list that led to them, and its position where they have none."""
    of_list = listed.select(*IMPRESSION_KEY, *OF_LIST, listed_position="position")
    events = events.join(of_list, on=IMPRESSION_KEY, how="left", maintain_order="left")
    return events.with_columns(position=pl.coalesce("position", "listed_position")).drop("listed_position")


def _write(
    dataset: Dataset,
    items: pl.DataFrame,
    as_of: int,
    events: pl.DataFrame,
    users: pl.DataFrame | None,
    queries: pl.DataFrame,
    out: Path,
) -> None:
    changes = {"name": dataset.info.name, "items_as_of": moment_at(as_of)}
    if dataset.info.split == "column":
        changes["split"] = "time"
        events = events.drop("split")
    if dataset.has_clock:
        events, queries = (
            table.with_columns(pl.col("timestamp").cast(pl.Datetime("us", "UTC"))) for table in (events, queries)
        )
        times = [name for name in TIMES if name in items.columns]
        items = items.with_columns(pl.col(times).cast(pl.Datetime("us", "UTC")))
    info = DatasetInfo.model_validate(dataset.info.model_dump() | changes)
    with atomic_folder(out) as folder:
        items.write_parquet(folder / "items.parquet")
        events.write_parquet(folder / "events.parquet")
        if users is not None:
            users.write_parquet(folder / "users.parquet")
        if queries.height:
            queries.write_parquet(folder / "queries.parquet")
        (folder / "dataset.json").write_text(info.model_dump_json(indent=1), encoding="utf-8")


def _notes(dataset: Dataset, *, unknown_items: pl.Series, anonymous: int, forgotten: int, deleted: int) -> list[str]:
    notes = []
    if unknown_items.len():
        notes.append(
            f"left out: {unknown_items.len():,} events on items that are not in the catalogue, "
            f"for example {unknown_items[0]!r}"
        )
    if anonymous:
        notes.append(f"left out: {anonymous:,} impressions without a user")
    if forgotten:
        notes.append(f"left out: {forgotten:,} users whose data was deleted")
    if deleted:
        notes.append(f"not available: {deleted:,} deleted items, which stay in histories and are in no list")
    if dataset.info.split == "column":
        notes.append("new events have no value in the column `split`: the new dataset is split by time")
    return notes
