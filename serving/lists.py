"""The files of batch lists: their columns, and Parquet, CSV or JSON lines of them.

In: a `Ranking` of some users, a part; then the parts of all users. Out: a table with a row per position; then the files
that a job leaves behind, one where there are few rows.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from features.histories import Histories
from recsys.atomic import atomic_file
from serving.reasons import nearest_items, strongest_features
from serving.recommender import Ranking
from serving.retrieval.retriever import Retriever

Format = Literal["parquet", "csv", "jsonl"]
Extra = Literal["title", "model", "written_at"]

ONE_FILE_ROWS = 1_000_000
"""Up to so many rows are one file, whatever parts they were made in."""

SCHEMA = {
    "user_id": pl.String(),
    "rank": pl.Int32(),
    "item_id": pl.String(),
    "score": pl.Float32(),
    "interest": pl.Float32(),
    "p_click": pl.Float32(),
    "p_purchase": pl.Float32(),
}
REASONS = {
    "nearest": pl.List(pl.String()),
    "features": pl.List(pl.Struct({"feature": pl.String(), "log_odds": pl.Float32()})),
}
EXTRAS: dict[str, pl.DataType] = {"title": pl.String(), "model": pl.String(), "written_at": pl.Datetime("us", "UTC")}

MEANING = {
    "user_id": "whom the list is for",
    "rank": "position in the list, from 1",
    "item_id": "the item at this position",
    "score": "value of the item as a candidate, which the list is sorted by; it compares items of one list only",
    "interest": "interest score: cosine of the vectors of user and item",
    "p_click": "probability of a click on the item once it is shown",
    "p_purchase": "probability of a purchase of the item once it is shown",
    "nearest": "items of the user's history that are nearest to the item, the nearest first",
    "features": "ranking features that counted most, and what each added to the log odds of a click",
    "title": "title of the item, as the dataset has it",
    "model": "the model that made the list",
    "written_at": "when the lists were written, UTC",
}
"""What each column holds; files and report carry it with them."""


@dataclass(frozen=True)
class FileOptions:
    """How the files of lists look."""

    format: Format = "parquet"
    extras: tuple[Extra, ...] = ()
    """Columns beyond those of the lists."""


def lists_table(users: Sequence[str | None], ranking: Ranking, ids: np.ndarray) -> pl.DataFrame:
    """Return a row per position of the lists of `users`; `ids` `[N]` names the items."""
    present = ranking.items >= 0
    rows, positions = np.nonzero(present)
    return pl.DataFrame(
        {
            "user_id": pl.Series(np.array(users, dtype=object)[rows], dtype=pl.String),
            "rank": positions + 1,
            "item_id": pl.Series(ids[ranking.items[present]], dtype=pl.String),
            "score": ranking.score[present],
            "interest": ranking.interest[present],
            "p_click": ranking.p_click[present],
            "p_purchase": ranking.p_purchase[present],
        },
        schema_overrides=SCHEMA,
    )


def reasons_table(retriever: Retriever, histories: Histories, ranking: Ranking, ids: np.ndarray) -> pl.DataFrame:
    """Return the reasons for each row of `lists_table` of an explained ranking."""
    if ranking.contributions is None:
        raise ValueError("the ranking was not explained")
    nearest, features, names = [], [], retriever.feature_names
    for row, position in zip(*np.nonzero(ranking.items >= 0), strict=True):
        item = ranking.items[row, position]
        nearest.append([ids[past] for past, _ in nearest_items(retriever, histories.items[row], item)])
        strongest = strongest_features(names, ranking.contributions[row, position])
        features.append([{"feature": name, "log_odds": log_odds} for name, log_odds in strongest])
    return pl.DataFrame({"nearest": nearest, "features": features}, schema=REASONS)


def write_files(parts: Sequence[Path], out: Path, options: FileOptions, model: str, catalogue: pl.DataFrame) -> None:
    """Write the lists in the Parquet files `parts` into the folder `out`: as one file where they are few rows, else one of each."""
    if not parts:
        return
    rows = pl.scan_parquet(list(parts)).select(pl.len()).collect().item()
    groups = [list(parts)] if rows <= ONE_FILE_ROWS else [[part] for part in parts]
    titles, now = catalogue.select("item_id", "title"), datetime.now(UTC)
    for number, group in enumerate(groups):
        lists = pl.read_parquet(group)
        if "title" in options.extras:
            lists = lists.join(titles, on="item_id", how="left", maintain_order="left")
        constants = {"model": model, "written_at": now}
        added = [pl.lit(value, EXTRAS[name]).alias(name) for name, value in constants.items() if name in options.extras]
        with atomic_file(out / f"part-{number:05d}.{options.format}") as temporary:
            WRITERS[options.format](lists.with_columns(added), temporary)


def meanings(columns: Sequence[str]) -> dict[str, str]:
    """Return what each of `columns` holds."""
    return {name: MEANING[name] for name in columns}


def _write_parquet(lists: pl.DataFrame, path: Path) -> None:
    lists.write_parquet(path, metadata={"columns": json.dumps(meanings(lists.columns))})


def _write_csv(lists: pl.DataFrame, path: Path) -> None:
    """Write CSV; ids of `nearest` are separated by `|`, `features` are JSON."""
    texts: dict[str, pl.Expr] = {
        "nearest": pl.col("nearest").list.join("|"),
        "features": pl.format("[{}]", pl.col("features").list.eval(pl.element().struct.json_encode()).list.join(",")),
    }
    lists.with_columns(texts[name].alias(name) for name in texts if name in lists.columns).write_csv(path)


WRITERS: dict[str, Callable[[Any, Path], None]] = {
    "parquet": _write_parquet,
    "csv": _write_csv,
    "jsonl": lambda lists, path: lists.write_ndjson(path),
}
