"""Plain files: CSV, TSV, JSONL or Parquet under the usual names, with the usual column names.

In: a folder with items and events (and users). Out: the same in the contract's columns. Columns of
other names are named with `--column ours=theirs`, event types with `--option event_mapping=theirs=ours;...`.
"""

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from features.data import values
from features.data.formats import KINDS, kind_of, scan
from features.importers.base import Imported, Importer, Options, require
from recsys.errors import RecsysError, suggest
from recsys.events import EVENT_TYPES
from recsys.schema import REQUIRED, TABLES, read_info

FILES = {
    "items": ("items", "item", "products", "product", "movies", "books", "news", "articles", "catalog", "catalogue"),
    "events": ("events", "event", "interactions", "ratings", "reviews", "behaviors", "clicks", "orders", "purchases",
               "transactions", "views", "log"),
    "users": ("users", "user", "customers", "members"),
}  # fmt: skip
ALIASES = {
    "user_id": ("userid", "user", "uid", "customer_id", "customerid", "reviewerid", "visitorid", "member_id"),
    "item_id": ("itemid", "item", "iid", "product_id", "productid", "movie_id", "movieid", "book_id", "asin", "sku",
                "isbn", "article_id"),
    "timestamp": ("datetime", "time", "ts", "date", "event_time", "unixreviewtime", "created", "order_date"),
    "event_type": ("event", "action", "type", "eventtype", "behavior", "behaviour", "interaction"),
    "value": ("rating", "score", "stars", "overall", "quantity", "qty"),
    "title": ("name", "item_name", "product_name", "product_title", "movie_title", "book_title", "headline"),
    "description": ("text", "abstract", "body", "summary", "desc", "body_html"),
    "tags": ("genres", "genre", "keywords", "labels"),
    "brand": ("manufacturer", "store", "vendor", "author", "publisher"),
    "category": ("category_name", "main_category", "section", "department", "product_type"),
    "session_id": ("sessionid", "session"),
    "request_id": ("requestid", "impression_id"),
}  # fmt: skip
OWN_ID = ("id",)
"""What a table of items or users may call its own ID."""
QUANTITIES = ("quantity", "qty")
"""Columns of how much was bought."""
EVENT_ALIASES = {
    "addtocart": "cart", "add_to_cart": "cart", "basket": "cart", "transaction": "purchase", "buy": "purchase",
    "order": "purchase", "sale": "purchase", "purchased": "purchase", "pageview": "view", "detail": "view",
    "viewed": "view", "clicked": "click", "pv": "view", "fav": "like", "favorite": "like", "favourite": "like",
    "upvote": "like", "shown": "impression", "show": "impression", "exposure": "impression", "reply": "comment",
    "review": "comment", "repost": "share", "retweet": "share",
}  # fmt: skip


class FilesOptions(Options):
    """How events and cells of the source are read."""

    event_mapping: str = ""
    """Names of the source's event types, as `wishlist=like;checkout=purchase`."""
    empty_words: str = ""
    """Words that stand for an empty cell, separated by `;`, as `NULL;nan`."""
    no_timestamps: bool = False
    """Takes the order of the rows for their times, which are then an order and no clock."""


@dataclass(frozen=True)
class _Table:
    """A file that was found."""

    path: Path
    frame: pl.LazyFrame
    """In the contract's names."""
    names: dict[str, str]
    """The file's names of the contract's columns that have others."""


class FilesImporter(Importer):
    """Finds tables and columns by their usual names."""

    name = "files"
    description = "CSV, TSV, JSONL or Parquet files of items, events and users"
    options_model = FilesOptions
    options: FilesOptions
    takes_columns = True

    def read(self, src: Path) -> Imported:
        paths = {table: path for table in TABLES if (path := _find(src, table))}
        for table in ("items", "events"):
            if table not in paths:
                there = sorted(path.name for path in src.iterdir())[:8] if src.is_dir() else []
                raise RecsysError(
                    f"{src}: no {table} file: looked for {', '.join(FILES[table])} ending in {', '.join(KINDS)} or .gz; "
                    f"found {', '.join(there) or 'nothing'}"
                )
        scanned = {table: scan(path) for table, path in paths.items()}
        self._check_columns({table: frame.collect_schema().names() for table, frame in scanned.items()})
        tables = {table: self._table(table, paths[table], frame) for table, frame in scanned.items()}
        events, notes = self._typed_events(tables["events"])
        info = read_info(src)
        if self.options.no_timestamps:
            info = info.model_copy(update={"timestamp": "ordinal"})
            notes.append(
                "times: the order of the rows; splits follow it, and no feature of age, hour or window is computed"
            )
        users = tables["users"].frame if "users" in tables else None
        return Imported(
            tables["items"].frame, events, users, info, [*map(_mapping_line, tables.values()), *notes], paths
        )

    def _check_columns(self, columns: dict[str, list[str]]) -> None:
        """Raise RecsysError where `--column` names a column that is not ours, or one that no file has."""
        for key, theirs in self.columns.items():
            table, _, ours = key.rpartition(".")
            tables = [table] if table else list(TABLES)
            known = {name for one in tables for name in TABLES.get(one, {})}
            if ours not in known:
                raise RecsysError(f"--column {key}: not a column of the contract{suggest(ours, sorted(known))}")
            there = [name for one in tables if ours in TABLES[one] for name in columns.get(one, [])]
            if theirs not in there:
                raise RecsysError(f"--column {key}={theirs}: no file has a column {theirs!r}{suggest(theirs, there)}")

    def _table(self, table: str, path: Path, frame: pl.LazyFrame) -> _Table:
        names = self._names(frame.collect_schema().names(), table)
        frame = frame.rename({theirs: ours for ours, theirs in names.items()})
        words = [word for word in self.options.empty_words.split(";") if word]
        if words:
            text = pl.col(pl.String)
            frame = frame.with_columns(pl.when(~text.str.strip_chars().is_in(words)).then(text))
        if table == "events" and self.options.no_timestamps:
            frame = frame.drop("timestamp", strict=False).with_row_index("timestamp")
        require(frame, path, [name for name in REQUIRED[table] if name != "event_type"])
        return _Table(path, frame, names)

    def _names(self, columns: list[str], table: str) -> dict[str, str]:
        """Return the file's name of each of the contract's columns that has another there."""
        names = {}
        for key, theirs in self.columns.items():
            only, _, ours = key.rpartition(".")
            if ours in TABLES[table] and theirs in columns and only in ("", table):
                names[ours] = theirs
        for ours in TABLES[table]:
            if ours in columns or ours in names:
                continue
            aliases = [ours, *ALIASES.get(ours, ())]
            if ours == {"items": "item_id", "users": "user_id"}.get(table):
                aliases += OWN_ID
            usual = {_flat(name) for name in aliases}
            free = [name for name in columns if _flat(name) in usual and name not in names.values()]
            if free:
                names[ours] = free[0]
        return {ours: theirs for ours, theirs in names.items() if ours != theirs}

    def _typed_events(self, table: _Table) -> tuple[pl.LazyFrame, list[str]]:
        """Return the events with types of ours, and what was decided about them."""
        events = table.frame
        schema = events.collect_schema()
        if "event_type" not in schema:
            return self._guessed_types(table)
        mapping = {name: name for name in EVENT_TYPES} | EVENT_ALIASES | self._mapping()
        theirs = pl.col("event_type").cast(pl.String).str.strip_chars().str.to_lowercase()
        names = events.select(theirs.unique()).collect()["event_type"].drop_nulls().to_list()
        unknown = sorted(name for name in names if name not in mapping)
        if unknown:
            raise RecsysError(
                f"{table.path}: {len(unknown)} unknown event types, for example {unknown[0]!r}; map them to "
                f"{', '.join(EVENT_TYPES)} with --option event_mapping={unknown[0]}=click"
            )
        renamed = [f"{name} is {mapping[name]}" for name in sorted(names) if mapping[name] != name]
        notes = [f"event types: {', '.join(renamed)}"] if renamed else []
        return events.with_columns(
            event_type=theirs.replace_strict(mapping, default=None, return_dtype=pl.String)
        ), notes

    def _guessed_types(self, table: _Table) -> tuple[pl.LazyFrame, list[str]]:
        """Return the events with types that their values tell: quantities, thumbs or stars."""
        events, options = table.frame, self.options
        if "value" not in events.collect_schema():
            note = "event types: the file has none, so every event is a click; name their column with --column event_type=THEIRS"
            return events.with_columns(event_type=pl.lit("click")), [note]
        value = _value(events)
        low, high, empty = (
            events.select(value.min(), value.max().alias("high"), value.null_count().alias("n")).collect().row(0)
        )
        column = table.names.get("value", "value")
        met = f"{column} is {low:g} to {high:g}" if low is not None else f"{column} is empty"
        met += f", {empty:,} empty or unread" if empty else ""
        if _flat(column) in QUANTITIES:
            return events.with_columns(event_type=pl.lit("purchase")), [
                f"event types: {met}: every event is a purchase"
            ]
        if low is not None and low >= -1 and high <= 1 and "like_from" not in options.model_fields_set:
            kind = pl.when(value > 0).then(pl.lit(options.rating_event)).otherwise(pl.lit(options.low_rating_event))
            note = f"event types: {met}: above 0 is {options.rating_event}, else {options.low_rating_event}"
            return events.with_columns(event_type=kind), [note]
        note = (
            f"event types: {met}: {options.like_from:g} or more is {options.rating_event}, else {options.low_rating_event}; "
            "change it with --option like_from=NUMBER"
        )
        return events.with_columns(event_type=self.event_of_rating(value)), [note]

    def _mapping(self) -> dict[str, str]:
        pairs = [part.partition("=") for part in self.options.event_mapping.split(";") if part.strip()]
        wrong = [ours for _, _, ours in pairs if ours.strip() not in EVENT_TYPES]
        if wrong:
            raise RecsysError(
                f"--option event_mapping: {wrong[0]!r} is no event type{suggest(wrong[0], list(EVENT_TYPES))}"
            )
        return {theirs.strip().lower(): ours.strip() for theirs, _, ours in pairs}


def _find(src: Path, table: str) -> Path | None:
    """Return the file, or the folder of Parquet files, with one of the usual names of a table."""
    there = sorted(src.iterdir()) if src.is_dir() else []
    paths = [path for path in there if path.name.lower().split(".")[0] in FILES[table] and _is_table(path)]
    if len(paths) > 1:
        raise RecsysError(f"{src}: both {paths[0].name} and {paths[1].name} could be the {table}; keep one")
    return paths[0] if paths else None


def _is_table(path: Path) -> bool:
    return any(path.rglob("*.parquet")) if path.is_dir() else kind_of(path) is not None


def _value(events: pl.LazyFrame) -> pl.Expr:
    """Return the column `value` as numbers, texts read by the rules of tables."""
    value = pl.col("value")
    if events.collect_schema()["value"] != pl.String():
        return value.cast(pl.Float64, strict=False)
    return values.number(value, bool(events.select(values.comma_is_decimal(value)).collect().item()))


def _mapping_line(table: _Table) -> str:
    """Return which column of a file is which of ours."""
    pairs = ", ".join(f"{theirs} is {ours}" for ours, theirs in table.names.items())
    return f"{table.path.name}: {pairs or 'every column has our name'}"


def _flat(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "").replace(" ", "")
