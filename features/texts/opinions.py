"""Texts with times, of topics and items: what `recsys text monitor` watches.

In: a table with `text` or, where a head has read it already, `label` or `negative`; a time; and `topic`, `item_id` or both. Out: a
row per text and series.
"""

from pathlib import Path

import polars as pl

from features.data import values
from features.data.formats import kind_of, scan
from recsys.errors import RecsysError

TIMES = ("timestamp", "time", "date")
"""Columns that hold the time, the first that there is."""
SERIES = ("topic", "item_id")
"""Columns whose values are watched apart."""
SCORED = ("negative", "label")
"""Columns that say whether a text is negative, the first that there is; without any, a head reads `text`."""
SHOWN = 60


def read_opinions(path: Path) -> pl.DataFrame:
    """Return the table of `path` with `time` in microseconds since 1970.

    Raises:
        RecsysError: it is missing, unreadable or empty, lacks a column, or has a time that cannot be read.
    """
    if not path.is_file() or not kind_of(path):
        raise RecsysError(f"{path}: no table; give a .csv, .tsv, .jsonl or .parquet with texts and their times")
    table = scan(path).collect()
    time = next((name for name in TIMES if name in table.columns), None)
    for names, found in (
        (TIMES, time is not None),
        (SERIES, any(name in table.columns for name in SERIES)),
        (("text", *SCORED), any(name in table.columns for name in ("text", *SCORED))),
    ):
        if not found:
            raise RecsysError(
                f"{path}: no column {' or '.join(names)} among {', '.join(table.columns)}; rename the one that it is"
            )
    if not table.height:
        raise RecsysError(f"{path}: holds no text; give one with a text in each row")
    assert time
    moments = _moments(table[time])
    wrong = moments.is_null()
    if wrong.any():
        row = int(wrong.arg_true()[0])
        raise RecsysError(
            f"{path}: {wrong.sum():,} of {table.height:,} times in {time!r} cannot be read, for example row {row + 1}, "
            f"{str(table[time][row])[:SHOWN]!r}; write them as 2026-01-31 12:00 or in seconds since 1970"
        )
    return table.with_columns(moments.alias("time"))


def _moments(column: pl.Series) -> pl.Series:
    if column.dtype.is_temporal():
        return column.cast(pl.Datetime("us")).dt.timestamp("us")
    texts = column.cast(pl.String).alias("time")
    units = texts.to_frame().select(values.times_by_unit(pl.col("time"))).row(0, named=True)
    unit = max(units, key=lambda name: units[name]) if any(units.values()) else None
    return texts.to_frame().select(values.moment(pl.col("time"), unit)).to_series()


def by_series(table: pl.DataFrame) -> pl.DataFrame:
    """Return a row per text and series: `by`, `name`, `time` and `negative`; a text may have a list of topics, or none."""
    parts = []
    for column in SERIES:
        if column not in table.columns:
            continue
        part = table.select(pl.col(column).alias("name"), "time", "negative")
        part = part.explode("name") if part.schema["name"].is_nested() else part
        parts.append(part.with_columns(pl.col("name").cast(pl.String), pl.lit(column).alias("by")).drop_nulls("name"))
    return pl.concat(parts).select("by", "name", "time", "negative")


def negative_of(table: pl.DataFrame, label: str | None) -> pl.Series:
    """Return whether each text of a table that was read already is negative: by `negative`, true or false or at least a half, or by its `label`.

    Raises:
        RecsysError: no text has the label, or which label is the negative one is not known.
    """
    if SCORED[0] in table.columns:
        column = table["negative"]
        truth = column.to_frame().select(
            pl.coalesce(
                pl.col("negative").cast(pl.Float64, strict=False) >= 0.5,
                pl.col("negative").cast(pl.String).str.to_lowercase() == "true",
            )
        )
        return truth.to_series().fill_null(False)
    labels = table["label"].cast(pl.String)
    return (labels == named_label(labels.unique().drop_nulls().to_list(), label)).fill_null(False)


NEGATIVE, POSITIVE = ("negative", "0"), ("positive", "1")
"""Labels that are the negative or positive one where none is named."""


def named_label(labels: list[str], label: str | None, usual: tuple[str, ...] = NEGATIVE) -> str:
    """Return which of `labels` is the negative one, or the positive one: `label`, or one that is `usual`.

    Raises:
        RecsysError: it is none of them.
    """
    found = next((name for name in ([label] if label else usual) if name in labels), None)
    if found is None:
        raise RecsysError(
            f"--{usual[0]} {label or 'was not given'}: the labels are {', '.join(sorted(labels)[:10])}; name the one of {usual[0]} texts"
        )
    return found
