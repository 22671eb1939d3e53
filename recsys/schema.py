"""The data contract: tables, columns, event types and `dataset.json`.

A dataset is a folder with `items`, `events` and optionally `users` and `queries`, each as `.parquet`, `.csv` or
`.jsonl`, and an optional `dataset.json` (`DatasetInfo`).
"""

import json
from pathlib import Path
from typing import Literal

import polars as pl
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from recsys.errors import RecsysError, first_problem, suggest
from recsys.events import DEFAULT_EVENT_WEIGHTS, EVENT_TYPES

ITEM_COLUMNS: dict[str, pl.DataType] = {
    "item_id": pl.String(),
    "title": pl.String(),
    "description": pl.String(),
    "tags": pl.List(pl.String()),
    "brand": pl.String(),
    "category": pl.String(),
    "price": pl.Float64(),
    "created_at": pl.Int64(),
    "available": pl.Boolean(),
    "available_from": pl.Int64(),
    "available_until": pl.Int64(),
}
EVENT_COLUMNS: dict[str, pl.DataType] = {
    "user_id": pl.String(),
    "item_id": pl.String(),
    "event_type": pl.String(),
    "timestamp": pl.Int64(),
    "value": pl.Float64(),
    "session_id": pl.String(),
    "request_id": pl.String(),
    "position": pl.Int32(),
    "split": pl.String(),
}
USER_COLUMNS: dict[str, pl.DataType] = {"user_id": pl.String()}
QUERY_COLUMNS: dict[str, pl.DataType] = {
    "query": pl.String(),
    "item_id": pl.String(),
    "timestamp": pl.Int64(),
    "user_id": pl.String(),
}
"""What was typed, and an item that was chosen from what it found."""

MAX_ID = 256
"""Characters of an id of a user or an item."""
ID_PATTERN = r"^[^\x00-\x1f\x7f]*[^\s\x00-\x1f\x7f][^\x00-\x1f\x7f]*$"
"""An id has no control characters, and something to see in it."""

TABLES = {"items": ITEM_COLUMNS, "events": EVENT_COLUMNS, "users": USER_COLUMNS, "queries": QUERY_COLUMNS}
OPTIONAL = ("users", "queries")
"""Tables that a dataset may lack."""
REQUIRED = {
    "items": ("item_id", "title"),
    "events": ("user_id", "item_id", "event_type", "timestamp"),
    "users": ("user_id",),
    "queries": ("query", "item_id", "timestamp"),
}


class DatasetInfo(BaseModel):
    """`dataset.json`: what the tables do not say themselves. Every key is optional."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: str = ""
    """Name in reports; the folder's name by default."""
    source: str = ""
    """Where the data come from."""
    licence: str = ""
    """The terms under which they may be used."""
    event_weights: dict[str, float] = Field(default_factory=lambda: dict(DEFAULT_EVENT_WEIGHTS))
    """How much an event of each type counts as supervision; missing types keep their default."""
    split: Literal["time", "leave-last", "column"] = "time"
    """How events are divided into train, valid and test; `column` reads the column `split`."""
    items_as_of: AwareDatetime | None = None
    """When the items were as the table has them, such as `2026-01-31T06:00:00Z`; by default when its file was written."""
    timestamp: Literal["utc", "ordinal"] = "utc"
    """`ordinal` orders events without being a clock: then no age, window or hour is computed."""


def read_info(folder: Path) -> DatasetInfo:
    """Read `dataset.json` of `folder`, or return the defaults where there is none.

    Raises:
        RecsysError: the file is not JSON, or has an unknown key or a value of the wrong kind.
    """
    path = folder / "dataset.json"
    if not path.exists():
        return DatasetInfo(name=folder.resolve().name)
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        unknown = sorted(set(raw) - set(DatasetInfo.model_fields)) if isinstance(raw, dict) else []
        if unknown:
            hint = suggest(unknown[0], list(DatasetInfo.model_fields))
            raise RecsysError(f"{path}: unknown key {unknown[0]!r}{hint}")
        info = DatasetInfo.model_validate(raw)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise RecsysError(f"{path}: not valid JSON ({error})") from error
    except ValidationError as error:
        raise RecsysError(f"{path}: {first_problem(error)}") from error
    wrong = sorted(set(info.event_weights) - set(EVENT_TYPES))
    if wrong:
        raise RecsysError(f"{path}: event_weights: unknown type {wrong[0]!r}{suggest(wrong[0], list(EVENT_TYPES))}")
    return info.model_copy(
        update={
            "name": info.name or folder.resolve().name,
            "event_weights": DEFAULT_EVENT_WEIGHTS | info.event_weights,
        }
    )
