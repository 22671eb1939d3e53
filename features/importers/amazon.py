"""Amazon Reviews 2018 and 2023: a reviews file and a meta file, JSON lines, plain or `.gz`.

In: a folder with both files (the meta file has `meta` in its name). Out: reviews as events
(`purchase` by default, since who reviews has bought), `value` = stars.
"""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import polars as pl
from pydantic import Field

from features.data.formats import SHOWN
from features.data.markup import plain_items
from features.data.values import names_in, number
from features.importers.base import Imported, Importer, Options
from recsys.errors import RecsysError
from recsys.schema import DatasetInfo

SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz")
CHUNK = 100_000
"""Lines that become one frame."""

EventName = Literal["view", "click", "like", "comment", "cart", "purchase"]


class AmazonOptions(Options):
    """By default every review is a purchase, whatever its stars."""

    rating_event: EventName = "purchase"
    low_rating_event: EventName = "purchase"
    like_from: float = Field(4.0, allow_inf_nan=False)


class AmazonImporter(Importer):
    """Fields differ by year and by line (price as text, lists or text); each line is read alone."""

    name = "amazon"
    description = "Amazon Reviews 2018 or 2023, a folder with a reviews and a meta file (.jsonl, .gz)"
    options_model = AmazonOptions

    def read(self, src: Path) -> Imported:
        files = [path for path in sorted(src.iterdir()) if path.name.endswith(SUFFIXES)] if src.is_dir() else []
        meta = [path for path in files if "meta" in path.name.lower()]
        reviews = [path for path in files if path not in meta]
        if len(meta) != 1 or len(reviews) != 1:
            raise RecsysError(
                f"{src}: need one reviews file and one file with 'meta' in its name, ending in {', '.join(SUFFIXES)}; "
                f"found {', '.join(path.name for path in files) or 'none'}"
            )
        items = plain_items(_frame(meta[0], _item, ITEM_SCHEMA)).unique("item_id", keep="first", maintain_order=True)
        titled = items.filter(pl.col("title").str.strip_chars() != "")
        ratings = _frame(reviews[0], _review, REVIEW_SCHEMA)
        events = ratings.join(titled.select("item_id"), on="item_id", how="semi", maintain_order="left")
        notes = [*_unread_prices(items)]
        titled = titled.with_columns(price=_price(pl.col("price")))
        if titled.height < items.height:
            notes.append(f"items without a title, left out: {items.height - titled.height:,}")
        if events.height < ratings.height:
            lost = ratings.join(titled.select("item_id"), on="item_id", how="anti")
            notes.append(
                f"reviews of items that the meta file lacks, left out: {lost.height:,}, for example {lost['item_id'][0]}"
            )
        typed_events = events.lazy().with_columns(event_type=self.event_of_rating(pl.col("value")))
        info = DatasetInfo(name=src.resolve().name, source="Amazon Reviews (McAuley group)", licence="research use")
        return Imported(titled.lazy(), typed_events, None, info, notes)


ITEM_SCHEMA = {
    "item_id": pl.String,
    "title": pl.String,
    "description": pl.String,
    "tags": pl.List(pl.String),
    "brand": pl.String,
    "category": pl.String,
    "price": pl.String,
}
REVIEW_SCHEMA = {"user_id": pl.String, "item_id": pl.String, "timestamp": pl.Int64, "value": pl.Float64}


def _item(line: dict[str, Any]) -> dict[str, Any]:
    categories = [_clean(name) for name in names_in(line.get("categories") or line.get("category"))]
    main = _clean(line.get("main_category") or line.get("main_cat") or (categories[0] if categories else ""))
    description = [*_list(line.get("description")), *_list(line.get("features") or line.get("feature"))]
    return {
        "item_id": line.get("parent_asin") or line.get("asin"),
        "title": _clean(line.get("title") or ""),
        "description": " ".join(_clean(part) for part in description),
        "tags": [name for name in categories if name and name != main],
        "brand": _clean(line.get("store") or line.get("brand") or ""),
        "category": main,
        "price": None if line.get("price") is None else str(line["price"]),
    }


def _review(line: dict[str, Any]) -> dict[str, Any]:
    seconds = line.get("unixReviewTime")
    return {
        "user_id": line.get("user_id") or line.get("reviewerID"),
        "item_id": line.get("parent_asin") or line.get("asin"),
        "timestamp": int(seconds) if seconds is not None else int(line["timestamp"]),
        "value": float(line.get("rating", line.get("overall", "nan"))),
    }


def _frame(path: Path, row: Any, schema: dict[str, Any]) -> pl.DataFrame:
    chunks, rows = [pl.DataFrame(schema=schema)], []
    for row_number, line in enumerate(_lines(path), start=1):
        try:
            rows.append(row(json.loads(line)))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RecsysError(f"{path}: line {row_number} is not a record of Amazon Reviews ({error!r})") from error
        if len(rows) == CHUNK:
            chunks.append(pl.DataFrame(rows, schema=schema))
            rows = []
    return pl.concat([*chunks, pl.DataFrame(rows, schema=schema)])


def _lines(path: Path) -> Iterator[str]:
    opener: Any = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8") as file:
            yield from (line for line in file if line.strip())
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise RecsysError(f"{path}: cannot be read ({error}); fetch the file again") from error


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value] if value else []


def _clean(text: Any) -> str:
    return " ".join(str(text).split())


def _price(text: pl.Expr) -> pl.Expr:
    """Return the price in a text, of `from` one and of a range the first; null where the text is something else."""
    first = text.str.strip_chars().str.replace(r"(?i)^from\s+", "").str.replace(r"\s+[-–]\s+\S+$", "")
    return number(first, comma=False)


def _unread_prices(items: pl.DataFrame) -> list[str]:
    """Return a note on the prices that are none, such as the style sheets in the data of 2018."""
    stated = items.filter(pl.col("price").str.strip_chars() != "")
    unread = stated.filter(_price(pl.col("price")).is_null())
    if not unread.height:
        return []
    item, text = unread.select("item_id", pl.col("price").str.slice(0, SHOWN)).row(0)
    return [
        f"prices that are no number, left empty: {unread.height:,} of {stated.height:,}, for example {item} ({text!r})"
    ]
