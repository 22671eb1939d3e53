"""Scan the tables of a dataset folder and cast their columns to the types of the contract.

In: a folder. Out: `Tables`, lazy frames with the contract's columns. A value that does not fit its
type becomes null; its original text stays in a column `_raw_*`, so that validation can show it.
"""

import codecs
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from recsys.errors import RecsysError
from recsys.schema import REQUIRED, TABLES, DatasetInfo, read_info

SUFFIXES = (".parquet", ".csv", ".jsonl")
ROW = "_row"
"""Column with the number of a row in its file, from 1."""

MILLISECONDS_FROM = 10**11
"""Integers of at least this size are milliseconds since the epoch, not seconds."""
MICROSECONDS_FROM = 10**14


@dataclass(frozen=True)
class Tables:
    """The tables of a folder, typed but not yet validated."""

    folder: Path
    info: DatasetInfo
    paths: dict[str, Path]
    frames: dict[str, pl.LazyFrame]
    columns: dict[str, list[str]]
    """Table -> the columns of its file."""


def read_tables(folder: Path) -> Tables:
    """Scan `folder`.

    Raises:
        RecsysError: a table is missing, unreadable or in two files, or a required column is missing.
    """
    if not folder.is_dir():
        raise RecsysError(f"{folder}: no such folder; make one with `recsys data import FORMAT SRC --out {folder}`")
    info = read_info(folder)
    paths = {table: path for table in TABLES if (path := _find(folder, table))}
    frames, columns = {}, {}
    for table, path in paths.items():
        raw = scan(path)
        columns[table] = raw.collect_schema().names()
        missing = [name for name in REQUIRED[table] if name not in columns[table]]
        if missing:
            raise RecsysError(
                f"{path}: column {missing[0]!r} is missing; it has {', '.join(columns[table])}; rename one, or "
                f"`recsys data import files {folder} --out NEW --column {missing[0]}=THEIRS`"
            )
        frames[table] = typed(raw, table, info).with_row_index(ROW, offset=1)
    return Tables(folder, info, paths, frames, columns)


def scan(path: Path) -> pl.LazyFrame:
    """Return a lazy frame of a .parquet, .csv or .jsonl file; CSV columns stay text.

    Raises:
        RecsysError: the file is empty, not what its name says, or not UTF-8.
    """
    if path.stat().st_size == 0:
        raise RecsysError(f"{path}: the file is empty; write it again")
    try:
        if path.suffix == ".parquet":
            frame = pl.scan_parquet(path)
        else:
            check_utf8(path)
            if path.suffix == ".csv":
                frame = pl.scan_csv(path, infer_schema=False)
            else:
                frame = pl.scan_ndjson(path, infer_schema_length=10_000)
        frame.collect_schema()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise unreadable(path, error) from error
    return frame


def unreadable(path: Path, error: Exception) -> RecsysError:
    """Return the error for a file whose content is not what its name says."""
    reason = (str(error).splitlines() or [repr(error)])[0]
    return RecsysError(f"{path}: cannot be read as {path.suffix[1:]} ({reason}); write the file again")


def check_utf8(path: Path) -> None:
    """Raise RecsysError naming the first line of `path` that is not UTF-8."""
    decoder, line = codecs.getincrementaldecoder("utf-8")(), 1
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            try:
                line += decoder.decode(chunk).count("\n")
            except UnicodeDecodeError as error:
                line += chunk[: error.start].count(b"\n")
                raise RecsysError(
                    f"{path}: line {line} is not UTF-8 (byte {error.object[error.start]:#04x}); convert the file, "
                    f"for example `iconv -f latin1 -t utf-8 {path.name}`"
                ) from error


def typed(frame: pl.LazyFrame, table: str, info: DatasetInfo) -> pl.LazyFrame:
    """Cast the columns of the contract that `frame` has; a value that does not fit becomes null, its text is in `_raw_*`."""
    schema = frame.collect_schema()
    casts: list[pl.Expr] = []
    for name, target in TABLES[table].items():
        if name not in schema:
            continue
        column, kind = pl.col(name), schema[name]
        if name in ("timestamp", "created_at"):
            casts += [_moment(name, kind, info), column.cast(pl.String).alias(f"_raw_{name}")]
        elif isinstance(target, pl.List):
            casts.append(_string_list(name, kind))
        elif target == pl.String():
            casts.append(column.cast(pl.String))
        else:
            casts += [column.cast(target, strict=False), column.cast(pl.String).alias(f"_raw_{name}")]
    return frame.with_columns(casts)


def _moment(name: str, kind: pl.DataType, info: DatasetInfo) -> pl.Expr:
    """Return the column as microseconds since the epoch, or the ordinal as it is."""
    column = pl.col(name)
    if isinstance(kind, pl.Datetime):
        utc = column if kind.time_zone else column.dt.replace_time_zone("UTC")
        return utc.dt.timestamp("us").alias(name)
    if kind == pl.Date():
        return column.cast(pl.Datetime("us")).dt.timestamp("us").alias(name)
    number = column.cast(pl.Float64, strict=False) if kind == pl.String() else column.cast(pl.Float64)
    whole = column.cast(pl.Int64, strict=False)
    if info.timestamp == "ordinal":
        return pl.coalesce(whole, _whole(number)).alias(name)
    size = number.abs()
    micro = (
        pl.when(size >= MICROSECONDS_FROM)
        .then(pl.coalesce(whole, _whole(number)))
        .when(size >= MILLISECONDS_FROM)
        .then(_whole(number * 1_000))
        .otherwise(_whole(number * 1_000_000))
    )
    if kind != pl.String():
        return micro.alias(name)
    zoned = column.str.to_datetime("%+", time_unit="us", time_zone="UTC", strict=False)
    naive = [
        column.str.to_datetime(form, time_unit="us", strict=False).dt.replace_time_zone("UTC")
        for form in ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M")
    ]
    day = column.str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    written = pl.coalesce(zoned, *naive, day).dt.timestamp("us")
    return pl.coalesce(micro, written).alias(name)


def _whole(number: pl.Expr) -> pl.Expr:
    return pl.when(number.is_finite()).then(number).cast(pl.Int64, strict=False)


def _string_list(name: str, kind: pl.DataType) -> pl.Expr:
    """Return the column as a list of strings: lists as they are, text split at `|`."""
    column = pl.col(name)
    if isinstance(kind, pl.List):
        return column.cast(pl.List(pl.String))
    bare = column.cast(pl.String).str.strip_chars("[] ").str.replace_all('"', "", literal=True)
    parts = (
        pl.when(column.cast(pl.String).str.starts_with("[")).then(bare.str.split(",")).otherwise(bare.str.split("|"))
    )
    return parts.list.eval(pl.element().str.strip_chars().filter(pl.element().str.strip_chars() != "")).alias(name)


def _find(folder: Path, table: str) -> Path | None:
    paths = [folder / f"{table}{suffix}" for suffix in SUFFIXES if (folder / f"{table}{suffix}").exists()]
    if len(paths) > 1:
        raise RecsysError(f"{folder}: {paths[0].name} and {paths[1].name} are both there; keep one of them")
    if not paths and table != "users":
        raise RecsysError(
            f"{folder}: {table}.parquet, .csv or .jsonl is missing; "
            f"`recsys data import files {folder} --out NEW` reads other names"
        )
    return paths[0] if paths else None
