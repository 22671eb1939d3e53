"""Plain files: CSV, TSV, JSONL or Parquet under the usual names, with the usual column names.

In: a folder with items and events (and users). Out: the same in the contract's columns. Columns of
other names are named with `--column ours=theirs`, event types with `--option event_mapping=theirs=ours;...`.
"""

from pathlib import Path
from typing import Any

import polars as pl

from features.data.tables import scan, unreadable
from features.importers.base import Imported, Importer, Options, require
from recsys.errors import RecsysError, suggest
from recsys.events import EVENT_TYPES
from recsys.schema import REQUIRED, TABLES, read_info

FILES = {
    "items": ("items", "item", "products", "movies", "news", "articles", "catalog", "catalogue"),
    "events": ("events", "event", "interactions", "ratings", "reviews", "behaviors", "clicks", "log"),
    "users": ("users", "user", "customers"),
}
SUFFIXES = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson")

ALIASES = {
    "user_id": ("userid", "user", "uid", "customer_id", "customerid", "reviewerid"),
    "item_id": ("itemid", "item", "iid", "product_id", "productid", "movie_id", "movieid", "asin", "sku", "article_id"),
    "timestamp": ("datetime", "time", "ts", "date", "event_time", "unixreviewtime", "created"),
    "event_type": ("event", "action", "type", "eventtype", "behavior", "interaction"),
    "value": ("rating", "score", "stars", "overall", "quantity"),
    "title": ("name", "item_name", "product_name", "product_title", "movie_title", "headline"),
    "description": ("text", "abstract", "body", "summary", "desc"),
    "tags": ("genres", "keywords", "labels"),
    "brand": ("manufacturer", "store", "vendor"),
    "category": ("category_name", "main_category", "section", "department"),
    "session_id": ("sessionid", "session"),
    "request_id": ("requestid", "impression_id"),
}
EVENT_ALIASES = {
    "addtocart": "cart", "add_to_cart": "cart", "basket": "cart", "transaction": "purchase", "buy": "purchase",
    "order": "purchase", "sale": "purchase", "purchased": "purchase", "pageview": "view", "detail": "view",
    "viewed": "view", "clicked": "click", "pv": "view", "fav": "like", "favorite": "like", "favourite": "like",
    "upvote": "like", "shown": "impression", "show": "impression", "exposure": "impression", "reply": "comment",
    "review": "comment", "repost": "share", "retweet": "share",
}  # fmt: skip


class FilesOptions(Options):
    """Event types of the source by name: `event_mapping` holds `theirs=ours,...`."""

    event_mapping: str = ""
    """Names of the source's event types, as `wishlist=like;checkout=purchase`."""


class FilesImporter(Importer):
    """Finds tables and columns by their usual names."""

    name = "files"
    description = "CSV, TSV, JSONL or Parquet files of items, events and users"
    options_model = FilesOptions

    def read(self, src: Path) -> Imported:
        items, users = self._table(src, "items"), self._table(src, "users")
        events = self._table(src, "events")
        if items is None or events is None:
            lacking = "items" if items is None else "events"
            there = sorted(path.name for path in src.iterdir())[:8] if src.is_dir() else []
            raise RecsysError(
                f"{src}: no {lacking} file: looked for {', '.join(FILES[lacking])} ending in {', '.join(SUFFIXES)}; "
                f"found {', '.join(there) or 'nothing'}"
            )
        info = read_info(src)
        return Imported(items, self._typed_events(events, src), users, info.model_copy(update={"name": info.name}))

    def _table(self, src: Path, table: str) -> pl.LazyFrame | None:
        candidates = [src / f"{name}{suffix}" for name in FILES[table] for suffix in SUFFIXES]
        paths = [path for path in candidates if path.is_file()]
        if not paths:
            return None
        if len(paths) > 1:
            raise RecsysError(f"{src}: both {paths[0].name} and {paths[1].name} could be the {table}; keep one")
        frame = _scan(paths[0])
        frame = frame.rename(self._names(frame.collect_schema().names(), table, paths[0]))
        require(frame, paths[0], [name for name in REQUIRED[table] if name != "event_type"])
        return frame

    def _names(self, columns: list[str], table: str, path: Path) -> dict[str, str]:
        """Return the new name of each column that needs one."""
        names = {}
        for ours, theirs in self.columns.items():
            if ours in TABLES[table] and theirs in columns:
                names[theirs] = ours
        for ours in TABLES[table]:
            if ours in columns or ours in names.values():
                continue
            usual = [c for c in columns if _flat(c) in {_flat(ours), *map(_flat, ALIASES.get(ours, ()))}]
            if usual and usual[0] not in names:
                names[usual[0]] = ours
        everywhere = {name for body in TABLES.values() for name in body}
        wrong = [ours for ours in self.columns if ours not in everywhere]
        if wrong:
            raise RecsysError(
                f"--column {wrong[0]}: not a column of the contract{suggest(wrong[0], sorted(everywhere))}"
            )
        return names

    def _typed_events(self, events: pl.LazyFrame, src: Path) -> pl.LazyFrame:
        names = events.collect_schema().names()
        if "event_type" not in names:
            if "value" not in names:
                return events.with_columns(event_type=pl.lit("click"))
            return events.with_columns(event_type=self.event_of_rating(pl.col("value").cast(pl.Float64, strict=False)))
        mapping = {name: name for name in EVENT_TYPES} | EVENT_ALIASES | self._mapping()
        theirs = pl.col("event_type").cast(pl.String).str.strip_chars().str.to_lowercase()
        names = events.select(theirs.unique()).collect()["event_type"].drop_nulls().to_list()
        unknown = sorted(name for name in names if name not in mapping)
        if unknown:
            raise RecsysError(
                f"{src}: {len(unknown)} unknown event types, for example {unknown[0]!r}; map them to {', '.join(EVENT_TYPES)} "
                f"with --option event_mapping={unknown[0]}=click"
            )
        return events.with_columns(event_type=theirs.replace_strict(mapping, default=None, return_dtype=pl.String))

    def _mapping(self) -> dict[str, str]:
        options: Any = self.options
        pairs = [part.partition("=") for part in options.event_mapping.split(";") if part.strip()]
        wrong = [ours for _, _, ours in pairs if ours.strip() not in EVENT_TYPES]
        if wrong:
            raise RecsysError(
                f"--option event_mapping: {wrong[0]!r} is no event type{suggest(wrong[0], list(EVENT_TYPES))}"
            )
        return {theirs.strip().lower(): ours.strip() for theirs, _, ours in pairs}


def _scan(path: Path) -> pl.LazyFrame:
    if path.suffix == ".ndjson":
        try:
            return pl.scan_ndjson(path, infer_schema_length=10_000)
        except pl.exceptions.PolarsError as error:
            raise unreadable(path, error) from error
    if path.suffix == ".tsv":
        return pl.scan_csv(path, separator="\t", infer_schema=False)
    return scan(path)


def _flat(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "").replace(" ", "")
