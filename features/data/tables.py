"""Scan the tables of a dataset folder and cast their columns to the types of the contract.

In: a folder. Out: `Tables`, lazy frames with the contract's columns. A value that does not fit its
type becomes null; its original text stays in a column `_raw_*`, so that validation can show it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from features.data import values
from features.data.formats import scan, unreadable
from recsys.errors import RecsysError
from recsys.schema import OPTIONAL, REQUIRED, TABLES, DatasetInfo, read_info

SUFFIXES = (".parquet", ".csv", ".jsonl")
ROW = "_row"
"""Column with the number of a row in its file, from 1."""

TIMES = ("timestamp", "created_at", "available_from", "available_until")


@dataclass(frozen=True)
class Reading:
    """How the columns of a table are read, decided once from each column as a whole."""

    units: Mapping[str, str | None] = field(default_factory=dict)
    """Of the columns of times that hold numbers; None where the numbers are no times in any unit."""
    commas: frozenset[str] = frozenset()
    """Columns of text whose numbers have a decimal comma."""
    separators: Mapping[str, str] = field(default_factory=dict)
    """Of the columns of text that hold lists."""
    numbers: frozenset[str] = frozenset()
    """Columns of text that the contract does not know and that hold nothing but numbers."""

    def lines(self) -> list[str]:
        """Return what a person should know of it."""
        units = [f"{name}: numbers are {unit if unit in values.DIGITS else f'{unit} since 1970'}"
                 for name, unit in self.units.items() if unit]  # fmt: skip
        commas = [f"{name}: the decimal mark is a comma" for name in sorted(self.commas)]
        return units + commas + [f"{name}: separated by {mark!r}" for name, mark in self.separators.items()]


@dataclass(frozen=True)
class Tables:
    """The tables of a folder, typed but not yet validated."""

    folder: Path
    info: DatasetInfo
    paths: dict[str, Path]
    frames: dict[str, pl.LazyFrame]
    columns: dict[str, list[str]]
    """Table -> the columns of its file."""
    readings: dict[str, Reading]


def read_tables(folder: Path) -> Tables:
    """Scan `folder`.

    Raises:
        RecsysError: a table is missing, unreadable or in two files, or a required column is missing.
    """
    paths = find_tables(folder)
    info = read_info(folder)
    frames, columns, readings = {}, {}, {}
    for table, path in paths.items():
        raw = scan(path)
        columns[table] = raw.collect_schema().names()
        missing = [name for name in REQUIRED[table] if name not in columns[table]]
        if missing:
            raise RecsysError(
                f"{path}: column {missing[0]!r} is missing; it has {', '.join(columns[table])}; rename one, or "
                f"`recsys data import files {folder} --out NEW --column {missing[0]}=THEIRS`"
            )
        readings[table] = reading_of(raw, table, info, path)
        frames[table] = typed(raw, table, readings[table], info).with_row_index(ROW, offset=1)
    return Tables(folder, info, paths, frames, columns, readings)


def find_tables(folder: Path) -> dict[str, Path]:
    """Return the file of each table in `folder`.

    Raises:
        RecsysError: the folder is missing, or a table is missing or in two files.
    """
    if not folder.is_dir():
        raise RecsysError(f"{folder}: no such folder; make one with `recsys data import FORMAT SRC --out {folder}`")
    return {table: path for table in TABLES if (path := _find(folder, table))}


def reading_of(frame: pl.LazyFrame, table: str, info: DatasetInfo, path: Path) -> Reading:
    """Return how the columns of `frame` are to be read; where some hold text or times as numbers, they are read for it.

    Raises:
        RecsysError: the file at `path`, which `frame` comes from, cannot be read.
    """
    schema = frame.collect_schema()
    texts = [name for name, kind in schema.items() if kind == pl.String()]
    contract = TABLES[table]
    times = [name for name in TIMES if name in contract and name in schema and _counts_time(schema[name], info)]
    floats = [name for name in texts if contract.get(name) in (pl.Float64(), pl.Int32())]
    lists = [name for name in texts if isinstance(contract.get(name), pl.List)]
    others = [name for name in texts if name not in contract and not name.startswith("_")]
    asked = (
        [pl.struct(values.times_by_unit(pl.col(name))).alias(f"unit {name}") for name in times]
        + [values.comma_is_decimal(pl.col(name)).alias(f"comma {name}") for name in floats]
        + [values.separator(pl.col(name)).alias(f"mark {name}") for name in lists]
        + [_all_numbers(pl.col(name)).alias(f"number {name}") for name in others]
    )
    try:
        found: dict[str, Any] = frame.select(asked).collect(engine="streaming").row(0, named=True) if asked else {}
    except (pl.exceptions.PolarsError, OSError) as error:
        raise unreadable(path, error) from error
    return Reading(
        units={name: _most_frequent(found[f"unit {name}"]) for name in times},
        commas=frozenset(name for name in floats if found[f"comma {name}"]),
        separators={name: found[f"mark {name}"] for name in lists},
        numbers=frozenset(name for name in others if found[f"number {name}"]),
    )


def _counts_time(kind: pl.DataType, info: DatasetInfo) -> bool:
    """Return whether a column of times may hold numbers in some unit."""
    return info.timestamp == "utc" and (kind.is_numeric() or kind == pl.String())


def _most_frequent(counts: dict[str, int]) -> str | None:
    unit = max(counts, key=lambda name: counts[name])
    return unit if counts[unit] else None


def _all_numbers(text: pl.Expr) -> pl.Expr:
    stated = values.bare(text).drop_nulls()
    return stated.str.contains(values.NUMBER_TEXT).all() & (stated.len() > 0)


def typed(frame: pl.LazyFrame, table: str, reading: Reading, info: DatasetInfo) -> pl.LazyFrame:
    """Cast the columns of the contract that `frame` has; a value that does not fit becomes null, its text is in `_raw_*`."""
    schema = frame.collect_schema()
    casts: list[pl.Expr] = []
    for name, target in TABLES[table].items():
        if name not in schema:
            continue
        column, kind = pl.col(name), schema[name]
        if isinstance(target, pl.List):
            casts.append(_string_list(column, kind, reading.separators.get(name, "|")).alias(name))
        elif target == pl.String():
            casts.append(column.cast(pl.String))
        elif target == pl.Boolean():
            casts += [values.truth(column, kind).alias(name), _raw(name, schema)]
        else:
            value = (
                _moment(column, kind, reading.units.get(name), info)
                if name in TIMES
                else _number(column, kind, name in reading.commas)
            )
            whole = pl.when(value == value.floor()).then(value) if target == pl.Int32() else value
            casts += [whole.cast(target, strict=False).alias(name), _raw(name, schema)]
    casts += [pl.col(name).str.strip_chars().cast(pl.Float64, strict=False) for name in reading.numbers]
    return frame.with_columns(casts)


def _raw(name: str, schema: pl.Schema) -> pl.Expr:
    """Return the text of a column, as the import kept it where it could not be read; null where a cell may be empty and is."""
    text = pl.col(name).cast(pl.String)
    kept = [pl.col(f"_raw_{name}")] if f"_raw_{name}" in schema else []
    stated = text if name == "timestamp" else pl.when(values.bare(text).is_not_null()).then(text)
    return pl.coalesce(stated, *kept).alias(f"_raw_{name}")


def failed(column: str) -> pl.Expr:
    """Return whether a value did not fit its column's type."""
    return pl.col(column).is_null() & pl.col(f"_raw_{column}").is_not_null()


def _number(column: pl.Expr, kind: pl.DataType, comma: bool) -> pl.Expr:
    return values.number(column, comma) if kind == pl.String() else column.cast(pl.Float64, strict=False)


def _moment(column: pl.Expr, kind: pl.DataType, unit: str | None, info: DatasetInfo) -> pl.Expr:
    """Return the column as microseconds since the epoch, or the ordinal as it is."""
    if isinstance(kind, pl.Datetime):
        utc = column if kind.time_zone else column.dt.replace_time_zone("UTC")
        return utc.dt.timestamp("us")
    if kind == pl.Date():
        return column.cast(pl.Datetime("us")).dt.timestamp("us")
    if info.timestamp == "ordinal":
        number = column.cast(pl.Float64, strict=False)
        finite = pl.when(number.is_finite()).then(number)
        return pl.coalesce(column.cast(pl.Int64, strict=False), finite.cast(pl.Int64, strict=False))
    if kind == pl.String():
        return values.moment(column, unit)
    return values.moment_of_number(column, unit)


def _string_list(column: pl.Expr, kind: pl.DataType, mark: str) -> pl.Expr:
    """Return the column as a list of texts; text is taken apart, and of an object its name counts."""
    target = pl.List(pl.String)
    if kind == pl.String():
        return column.map_elements(lambda text: values.list_of(text, mark), return_dtype=target)
    if isinstance(kind, pl.List) and isinstance(kind.inner, pl.List | pl.Struct):
        return column.map_elements(lambda parts: values.names_in(parts.to_list()), return_dtype=target)
    if isinstance(kind, pl.List):
        return column.cast(target)
    return pl.concat_list(column.cast(pl.String)).list.drop_nulls()


def _find(folder: Path, table: str) -> Path | None:
    paths = [folder / f"{table}{suffix}" for suffix in SUFFIXES if (folder / f"{table}{suffix}").exists()]
    if len(paths) > 1:
        raise RecsysError(f"{folder}: {paths[0].name} and {paths[1].name} are both there; keep one of them")
    if not paths and table not in OPTIONAL:
        raise RecsysError(
            f"{folder}: {table}.parquet, .csv or .jsonl is missing; "
            f"`recsys data import files {folder} --out NEW` reads other names"
        )
    return paths[0] if paths else None
