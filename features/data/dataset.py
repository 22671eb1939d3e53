"""A validated dataset: the catalogue in memory, events as a lazy frame.

In: a dataset folder. Out: `Dataset`, or an error that names the first violated rule.
"""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import polars as pl

from features.data.tables import Tables, read_tables
from features.data.validate import Violation, collect, prepare, rules, violations, with_known_items
from recsys.atomic import atomic_file
from recsys.errors import RecsysError
from recsys.progress import console
from recsys.schema import ITEM_COLUMNS, TABLES, DatasetInfo

QUARANTINE = "quarantine"


@dataclass(frozen=True)
class Dataset:
    """The tables of a folder, every row valid."""

    folder: Path
    info: DatasetInfo
    items: pl.DataFrame
    """Every column of `ITEM_COLUMNS`, null where the file lacks it, then attributes; a row is an item index."""
    events: pl.LazyFrame
    """The contract's columns that the file has, in the contract's order, then the file's others; read when collected."""
    users: pl.DataFrame | None
    paths: dict[str, Path]
    queries: pl.DataFrame | None = None
    """What users typed and which item they then chose, one row each."""

    @property
    def has_clock(self) -> bool:
        """Whether timestamps are UTC microseconds and not ordinals."""
        return self.info.timestamp == "utc"

    @property
    def items_as_of(self) -> int:
        """The time in microseconds since 1970 at which the items were as they are here."""
        if self.info.items_as_of is not None:
            return round(self.info.items_as_of.timestamp() * 1e6)
        return self.paths["items"].stat().st_mtime_ns // 1000

    @cached_property
    def fingerprint(self) -> str:
        """The SHA-256 of the names and bytes of the tables and `dataset.json`; files are read on first use."""
        digest = hashlib.sha256()
        for path in [*self.paths.values(), self.folder / "dataset.json"]:
            if path.exists():
                with path.open("rb") as file:
                    own = hashlib.file_digest(file, "sha256").hexdigest()
                digest.update(f"{path.name} {own}\n".encode())
        return digest.hexdigest()


def load_dataset(folder: Path, on_invalid: Literal["error", "quarantine"] = "error") -> Dataset:
    """Read and validate the dataset in `folder`.

    With `quarantine`, rows that violate a rule are written to `folder/quarantine` and left out.

    Raises:
        RecsysError: the dataset cannot be read, or violates a rule and `on_invalid` is `error`.
    """
    raw = read_tables(folder)
    tables = prepare(raw)
    errors = [violation for violation in violations(tables) if violation.severity == "error"]
    if errors and on_invalid == "error":
        more = f" ({len(errors) - 1} more rules are violated: `recsys data check {folder}`)" if len(errors) > 1 else ""
        raise RecsysError(f"{folder}/{errors[0].line()}{more}")
    if on_invalid == "quarantine":
        tables, rejected = _quarantine(tables, errors)
        for table, rows in rejected.items():
            name, noun = tables.paths[table].name, "row" if rows.height == 1 else "rows"
            kept_in = folder / QUARANTINE / f"{table}.parquet"
            console.print(f"{name}: {rows.height:,} {noun} left out, kept in {kept_in}")
    items = _public(tables, "items").collect()
    absent = [pl.lit(None, kind).alias(name) for name, kind in ITEM_COLUMNS.items() if name not in items.columns]
    attributes = [name for name in items.columns if name not in ITEM_COLUMNS]
    users, queries = (
        _public(tables, table).collect() if table in tables.frames else None for table in ("users", "queries")
    )
    return Dataset(
        folder=folder,
        info=tables.info,
        items=items.with_columns(absent).select(*ITEM_COLUMNS, *attributes),
        events=_public(tables if errors else raw, "events"),  # without the join that only validation needs
        users=users,
        paths=dict(tables.paths),
        queries=queries,
    )


def quarantine_invalid(folder: Path) -> dict[str, pl.DataFrame]:
    """Write the rows that violate a rule to `folder/quarantine`; return them by table, each with the name of its `rule`.

    Raises:
        RecsysError: the dataset cannot be read, or nothing is left of it.
    """
    tables = prepare(read_tables(folder))
    errors = [violation for violation in violations(tables) if violation.severity == "error"]
    return _quarantine(tables, errors)[1] if errors else {}


def _public(tables: Tables, table: str) -> pl.LazyFrame:
    """Return the contract's columns in the contract's order, then the file's others, without helpers."""
    frame = tables.frames[table]
    names = frame.collect_schema().names()
    known = [name for name in TABLES[table] if name in names]
    return frame.select(*known, *(name for name in names if name not in known and not name.startswith("_")))


def _quarantine(tables: Tables, errors: list[Violation]) -> tuple[Tables, dict[str, pl.DataFrame]]:
    """Write rejected rows to the quarantine folder; return the others and these; events of rejected items go with them."""
    every = {}
    for table in tables.frames:  # items come before the events on them
        own = [rule for rule in rules(tables) if rule.table == table and rule.severity == "error"]
        rule = pl.coalesce(*(pl.when(rule.broken).then(pl.lit(rule.name)) for rule in own))
        judged = tables.frames[table].with_columns(rule=rule)
        rejected = collect(tables, table, judged.filter(pl.col("rule").is_not_null()))
        _write_rejected(tables, table, rejected)
        if rejected.height:
            every[table] = rejected
        kept = judged.filter(pl.col("rule").is_null()).drop("rule")
        tables = replace(tables, frames=tables.frames | {table: kept})
        if table == "items":
            tables = with_known_items(tables, collect(tables, "items", kept.select("item_id")).to_series())
    for table in ("items", "events"):
        if not collect(tables, table, tables.frames[table].select(pl.len())).item():
            raise RecsysError(f"{tables.paths[table]}: every row violates a rule ({errors[0].line()}); nothing is left")
    return tables, every


def _write_rejected(tables: Tables, table: str, rejected: pl.DataFrame) -> None:
    """Write rejected rows as they are in the file, with the name of the rule in a column `rule`."""
    path = tables.folder / QUARANTINE / f"{table}.parquet"
    path.unlink(missing_ok=True)
    if not rejected.height:
        return
    path.parent.mkdir(exist_ok=True)
    with atomic_file(path) as temporary:
        rejected.drop("_known_item", strict=False).write_parquet(temporary)
