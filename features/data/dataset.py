"""A validated dataset in memory: the catalogue as a frame, events as a lazy frame.

In: a dataset folder. Out: `Dataset`, or an error that names the first violated rule.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl

from features.data.tables import Tables, read_tables
from features.data.validate import Violation, rules, violations, with_known_items
from recsys.atomic import atomic_file
from recsys.errors import RecsysError
from recsys.progress import console
from recsys.schema import EVENT_COLUMNS, ITEM_COLUMNS, DatasetInfo

QUARANTINE = "quarantine"


@dataclass(frozen=True)
class Dataset:
    """The tables of a folder, every row valid."""

    folder: Path
    info: DatasetInfo
    items: pl.DataFrame
    """Every column of `ITEM_COLUMNS`, null where the file lacks it, then attributes; a row is an item index."""
    events: pl.LazyFrame
    """The required columns and those of the known ones that the file has, then others."""
    users: pl.DataFrame | None
    paths: dict[str, Path]

    @property
    def has_clock(self) -> bool:
        """Whether timestamps are UTC microseconds and not ordinals."""
        return self.info.timestamp == "utc"

    def fingerprint(self) -> str:
        """Return a SHA-256 over the names and bytes of the tables and `dataset.json`."""
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
    tables = read_tables(folder)
    frames = with_known_items(tables)
    errors = [violation for violation in violations(tables, frames) if violation.severity == "error"]
    if errors and on_invalid == "error":
        more = f" ({len(errors) - 1} more rules are violated: `recsys data check {folder}`)" if len(errors) > 1 else ""
        raise RecsysError(f"{folder}/{errors[0].line()}{more}")
    if on_invalid == "quarantine":
        frames = _quarantine(tables, errors)
    items = frames["items"].collect()
    absent = [pl.lit(None, kind).alias(name) for name, kind in ITEM_COLUMNS.items() if name not in items.columns]
    items = _public(items.with_columns(absent).lazy(), list(ITEM_COLUMNS)).collect()
    users = _public(frames["users"], ["user_id"]).collect() if "users" in frames else None
    return Dataset(
        folder, tables.info, items, _public(frames["events"], list(EVENT_COLUMNS)), users, dict(tables.paths)
    )


def _public(frame: pl.LazyFrame, first: list[str]) -> pl.LazyFrame:
    """Return the known columns in their order, then the others, without helpers."""
    names = frame.collect_schema().names()
    known = [name for name in first if name in names]
    return frame.select(*known, *(name for name in names if name not in known and not name.startswith("_")))


def _quarantine(tables: Tables, errors: list[Violation]) -> dict[str, pl.LazyFrame]:
    """Set rejected rows aside, table by table; events of rejected items go with them."""
    folder = tables.folder / QUARANTINE
    frames = dict(tables.frames)
    for table in tables.frames:
        current = Tables(tables.folder, tables.info, tables.paths, frames, tables.columns)
        frame = with_known_items(current)[table] if table == "events" else frames[table]
        own = [rule for rule in rules(tables) if rule.table == table and rule.severity == "error"]
        broken = pl.coalesce(*(pl.when(rule.broken).then(pl.lit(rule.name)) for rule in own))
        judged = frame.with_columns(rule=broken).collect()
        rejected = judged.filter(pl.col("rule").is_not_null())
        path = folder / f"{table}.parquet"
        path.unlink(missing_ok=True)
        if rejected.height:
            folder.mkdir(exist_ok=True)
            with atomic_file(path) as temporary:
                rejected.drop("_known_item", strict=False).write_parquet(temporary)
            console.print(
                f"{tables.paths[table].name}: {rejected.height:,} of {judged.height:,} rows set aside in {path}"
            )
        frames[table] = judged.filter(pl.col("rule").is_null()).drop("rule").lazy()
    for table in ("items", "events"):
        if not frames[table].select(pl.len()).collect().item():
            raise RecsysError(f"{tables.paths[table]}: every row violates a rule ({errors[0].line()}); nothing is left")
    return frames
