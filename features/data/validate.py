"""Validate a dataset: every rule, with counts, examples and a hint.

In: the typed tables of a folder. Out: `Violation`s, or the `Report` of `recsys data check`. A new rule is one
more entry in `rules`. Events are read in one pass for all rules, and never held in memory.
"""

import math
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from features.data.formats import unreadable
from features.data.markup import plain_items
from features.data.tables import ROW, Tables, failed, read_tables
from features.data.values import NAN_WORDS, NULL_WORDS
from features.data.vocabulary import readability
from recsys.config import PACKAGED_ENCODER
from recsys.errors import RecsysError
from recsys.events import DAY_US, LOGGED_TYPES, SPLITS
from recsys.schema import EVENT_COLUMNS, ID_PATTERN, MAX_ID, OPTIONAL

EXAMPLES = 3
LONG_DESCRIPTION = 100_000
"""Characters from which a description is reported; the encoder reads its beginning."""
NAMED = {"items": ("item_id", "title", "brand", "category"), "events": ("user_id", "item_id"), "users": ("user_id",)}
"""Columns in which a word for an empty cell would become a name."""
ON_ITEMS = {"events": "event", "queries": "query"}
"""Tables whose rows are on items, and what a row is called."""
UNREADABLE_SHARE = 0.05
"""Share of items that the encoder cannot read from which another one is named. It has twice the layers of the packaged
one and is trained on English less, and every other item pays for that."""
MULTILINGUAL_ENCODER = "intfloat/multilingual-e5-small"
"""A BERT that reads a hundred languages."""


@dataclass(frozen=True)
class Rule:
    """Rows of `table` for which `broken` holds violate the rule."""

    name: str
    table: str
    needs: tuple[str, ...]
    broken: pl.Expr
    shows: str
    """The column whose values are the examples."""
    hint: str
    severity: str = "error"


@dataclass(frozen=True)
class Violation:
    """A rule that rows of a file violate."""

    rule: str
    file: str
    count: int
    examples: list[str]
    severity: str
    hint: str

    def line(self) -> str:
        """Return the violation as one line: file, rule, count, an example and the hint."""
        rows = "row" if self.count == 1 else "rows"
        return f"{self.file}: {self.rule}: {self.count:,} {rows}, for example {self.examples[0]}; {self.hint}"


def blank(column: str) -> pl.Expr:
    """Return whether a text column is null or only white space."""
    return pl.col(column).is_null() | (pl.col(column).str.strip_chars() == "")


def wrong_id(table: str, column: str) -> Rule:
    """Return the rule that refuses ids which the API could not be asked for."""
    wrong = (pl.col(column).str.len_chars() > MAX_ID) | ~pl.col(column).str.contains(ID_PATTERN)
    hint = (
        "give shorter ids without line breaks and the like, or pass --set data.on_invalid=quarantine to `recsys train`"
    )
    name = f"{column} of more than {MAX_ID} characters, or with control characters"
    return Rule(name, table, (column,), ~blank(column) & wrong, column, hint)


def null_words(table: str, column: str) -> Rule:
    """Return the rule that warns of words which other programs write into empty cells."""
    return Rule(
        f"{column} is a word for an empty cell",
        table,
        (column,),
        pl.col(column).str.strip_chars().is_in(NULL_WORDS + NAN_WORDS),
        column,
        "it counts as a name like others; `recsys data import files FOLDER --out NEW --option 'empty_words=NULL;nan'` empties it",
        "warning",
    )


def rules(tables: Tables) -> list[Rule]:
    """Return the rules that apply to `tables`."""
    quarantine = "correct the rows, or pass --set data.on_invalid=quarantine to `recsys train`"
    tomorrow = int(time.time() * 1e6) + DAY_US
    moment, number = pl.col("timestamp"), pl.col("value")
    every = [
        Rule("empty item_id", "items", ("item_id",), blank("item_id"), ROW, quarantine),
        Rule("duplicate item_id", "items", ("item_id",), ~pl.col("item_id").is_first_distinct(), "item_id", quarantine),
        Rule("empty title", "items", ("title",), blank("title"), "item_id", quarantine),
        Rule("price is not a number of 0 or more", "items", ("price",), failed("price") | pl.col("price").is_nan()
             | pl.col("price").is_infinite() | (pl.col("price") < 0), "_raw_price", quarantine),
        *(Rule(f"unparsable {name}", "items", (name,), failed(name), f"_raw_{name}", quarantine)
          for name in ("created_at", "available_from", "available_until")),
        Rule("available_until is not after available_from", "items", ("available_from", "available_until"),
             pl.col("available_until") <= pl.col("available_from"), "_raw_available_until", quarantine),
        Rule("available is neither true nor false", "items", ("available",), failed("available"), "_raw_available", quarantine),
        Rule("description over 100,000 characters", "items", ("description",),
             pl.col("description").str.len_bytes() > LONG_DESCRIPTION, "item_id",
             "only the first encoder.max_tokens tokens are read", "warning"),
        Rule("empty user_id", "events", ("user_id",), blank("user_id"), ROW, quarantine),
        Rule("empty query", "queries", ("query",), blank("query"), ROW, quarantine),
        *(Rule(f"{what} on unknown item", table, ("item_id",), ~pl.col("_known_item"), "item_id",
               "add the items to the items table, or " + quarantine) for table, what in ON_ITEMS.items()),
        Rule("unknown event_type", "events", ("event_type",), ~pl.col("event_type").is_in(LOGGED_TYPES).fill_null(False),
             "event_type", f"use one of {', '.join(LOGGED_TYPES)}, or " + quarantine),
        *(Rule("unparsable timestamp", table, ("timestamp",), moment.is_null(), "_raw_timestamp",
               "use ISO datetimes, or one unit since 1970 for all numbers (after 1989), or " + quarantine)
          for table in ON_ITEMS),
        Rule("value is not a finite number", "events", ("value",),
             failed("value") | number.is_nan() | number.is_infinite(), "_raw_value", quarantine),
        Rule("position is not a whole number from 1", "events", ("position",),
             failed("position") | (pl.col("position") < 1), "_raw_position", quarantine),
        *(wrong_id(table, name) for table, name in (("items", "item_id"), ("events", "user_id"), ("users", "user_id"), ("queries", "user_id"))),
        Rule("empty user_id", "users", ("user_id",), blank("user_id"), ROW, quarantine),
        Rule("duplicate user_id", "users", ("user_id",), ~pl.col("user_id").is_first_distinct(), "user_id", quarantine),
    ]  # fmt: skip
    every += [null_words(table, name) for table, names in NAMED.items() for name in names]
    columns = [name for name in EVENT_COLUMNS if name in tables.columns["events"]]
    every.append(Rule("event equal to an earlier one in every column", "events", (),
                      ~pl.struct(columns).hash().is_first_distinct(), ROW,
                      "each counts; `recsys data import files FOLDER --out NEW --duplicates drop` keeps one", "warning"))  # fmt: skip
    if tables.info.timestamp == "utc":
        for table in ON_ITEMS:
            every += [
                Rule("timestamp in the future", table, ("timestamp",), moment > tomorrow, "_raw_timestamp",
                     'check the unit, set "timestamp": "ordinal" in dataset.json, or ' + quarantine),
                Rule("timestamp before 1970", table, ("timestamp",), moment < 0, "_raw_timestamp", quarantine),
            ]  # fmt: skip
    if tables.info.split == "column":
        every.append(Rule("unknown split", "events", ("split",), ~pl.col("split").is_in(SPLITS).fill_null(False),
                          "split", f"use one of {', '.join(SPLITS)}, or " + quarantine))  # fmt: skip
    return [
        rule for rule in every if rule.table in tables.columns and set(rule.needs) <= set(tables.columns[rule.table])
    ]


@dataclass(frozen=True)
class Report:
    """What `recsys data check` says."""

    folder: str
    counts: dict[str, Any]
    violations: list[Violation]

    @property
    def ok(self) -> bool:
        """Whether no rule of severity error is violated."""
        return not any(violation.severity == "error" for violation in self.violations)

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return asdict(self) | {"ok": self.ok}

    def render(self, console: Console) -> None:
        """Print counts and violations as tables."""
        counts = Table(title=self.folder, show_header=False)
        for name, value in self.counts.items():
            counts.add_row(name, f"{value:,}" if isinstance(value, int) else escape(str(value)))
        console.print(counts)
        if not self.violations:
            console.print("[green]every rule holds[/]")
            return
        for violation in self.violations:
            colour = "red" if violation.severity == "error" else "yellow"
            rows = "row" if violation.count == 1 else "rows"
            line = f"{violation.file}: {violation.rule}: {violation.count:,} {rows}"
            console.print(f"[{colour}]{violation.severity}[/] {escape(line)}", soft_wrap=True)
            console.print(f"  for example {', '.join(violation.examples)}", markup=False, soft_wrap=True)
        for hint in dict.fromkeys(violation.hint for violation in self.violations):
            rules = ", ".join(violation.rule for violation in self.violations if violation.hint == hint)
            console.print(f"{rules}:\n  {hint}", markup=False, soft_wrap=True)


def check(folder: Path, encoder: str = PACKAGED_ENCODER) -> Report:
    """Validate the dataset in `folder`, whose texts `encoder` is to read.

    Raises:
        RecsysError: a table cannot be read at all, or is empty.
    """
    tables = prepare(read_tables(folder))
    violated = violations(tables)
    read, unread = judge_texts(tables.frames["items"].collect(), encoder, tables.paths["items"].name)
    return Report(str(folder), _counts(tables) | {f"texts for {encoder}": read}, violated + unread)


def judge_texts(items: pl.DataFrame, encoder: str, file: str) -> tuple[str, list[Violation]]:
    """Return in a line what `encoder` can read of `items`, and a warning where that is too little of what is in `file`."""
    try:
        result = readability(items, encoder)
    except RecsysError as error:
        return f"not checked: {error}", []
    seen = f"of {result.items:,} items"
    count, share = len(result.unreadable), len(result.unreadable) / result.items
    line = f"{result.unread_share:.1%} of tokens unknown or spelled, {share:.1%} {seen} unreadable"
    rule = f"texts that {encoder} cannot read ({seen})"
    hint = f"train with a multilingual encoder: --set encoder.name={MULTILINGUAL_ENCODER}"
    warning = Violation(rule, file, count, result.unreadable[:EXAMPLES], "warning", hint)
    return line, [warning] if share >= UNREADABLE_SHARE else []


def prepare(tables: Tables) -> Tables:
    """Return the tables with all but the events in memory, items of plain text, and a column `_known_item` in events and queries.

    Raises:
        RecsysError: a table that is read cannot be.
    """
    small = {table: collect(tables, table, tables.frames[table]) for table in tables.frames if table != "events"}
    small["items"] = plain_items(small["items"])
    frames = tables.frames | {table: frame.lazy() for table, frame in small.items()}
    return with_known_items(replace(tables, frames=frames), small["items"]["item_id"])


def with_known_items(tables: Tables, item_ids: pl.Series) -> Tables:
    """Return the tables, events and queries with a column `_known_item`: whether their item is among `item_ids`."""
    known = pl.LazyFrame({"item_id": item_ids.unique()}).with_columns(_known_item=True)
    frames = {
        table: tables.frames[table]
        .drop("_known_item", strict=False)
        .join(known, on="item_id", how="left", maintain_order="left")
        .with_columns(pl.col("_known_item").fill_null(False))
        for table in ON_ITEMS
        if table in tables.frames
    }
    return replace(tables, frames=tables.frames | frames)


def violations(tables: Tables) -> list[Violation]:
    """Return every violated rule; tables that violate one are read again, for examples.

    Raises:
        RecsysError: the dataset is empty or has a single user, or an event weight is not a finite number.
    """
    _refuse_wrong_info(tables)
    violated = []
    for table, frame in tables.frames.items():
        own = [rule for rule in rules(tables) if rule.table == table]
        broken = [rule.broken.sum().alias(str(index)) for index, rule in enumerate(own)]
        users = [pl.col("user_id").n_unique().alias("users")] if table == "events" else []
        counts = collect(tables, table, frame.select(pl.len().alias("rows"), *users, *broken)).row(0, named=True)
        _refuse_unusable(tables, table, counts)
        for index, rule in enumerate(own):
            if count := int(counts[str(index)] or 0):
                rows = collect(
                    tables, table, frame.filter(rule.broken).select(pl.col({ROW, rule.shows})).head(EXAMPLES)
                )
                examples = [_example(row, rule.shows) for row in rows.iter_rows(named=True)]
                file = tables.paths[table].name
                violated.append(Violation(rule.name, file, count, examples, rule.severity, rule.hint))
    return violated


def _refuse_wrong_info(tables: Tables) -> None:
    folder, weights = tables.folder, tables.info.event_weights
    wrong = [f"{name}={weight}" for name, weight in weights.items() if not (math.isfinite(weight) and weight >= 0)]
    if wrong:
        raise RecsysError(
            f"{folder / 'dataset.json'}: event_weights must be finite and 0 or more: {len(wrong)} are not, "
            f"for example {wrong[0]}; correct or remove the key"
        )
    if tables.info.split == "column" and "split" not in tables.columns["events"]:
        raise RecsysError(
            f"{tables.paths['events']}: column 'split' is missing, which dataset.json asks for; "
            'add it, or set "split": "time"'
        )


def _refuse_unusable(tables: Tables, table: str, counts: dict[str, int]) -> None:
    path = tables.paths[table]
    if table not in OPTIONAL and not counts["rows"]:
        raise RecsysError(f"{path}: empty: 0 rows; a dataset needs items and events")
    if table == "events" and counts["users"] < 2:
        user = collect(tables, table, tables.frames[table].select("user_id").head(1)).item()
        raise RecsysError(
            f"{path}: a single user ({counts['users']}: {user}); "
            "taste is learned by comparing users: add events of others"
        )


def _counts(tables: Tables) -> dict[str, Any]:
    described = tables.frames["items"].select(rows=pl.len(), blank=_blank_descriptions(tables))
    acted = tables.frames["events"].select(
        rows=pl.len(),
        types=pl.col("event_type").value_counts(sort=True).implode(),
        users=pl.col("user_id").n_unique(),
        items=pl.col("item_id").n_unique(),
        first=pl.col("timestamp").min(),
        last=pl.col("timestamp").max(),
    )
    items = collect(tables, "items", described).row(0, named=True)
    events = collect(tables, "events", acted).row(0, named=True)
    counts: dict[str, Any] = {"name": tables.info.name, "items": items["rows"], "events": events["rows"]}
    for table in OPTIONAL:
        if table in tables.frames:
            counts[table] = collect(tables, table, tables.frames[table].select(pl.len())).item()
    counts["event types"] = ", ".join(f"{one['event_type']} {one['count']:,}" for one in events["types"])
    counts["users with events"], counts["items with events"] = events["users"], events["items"]
    span = pl.Series([events["first"], events["last"]], dtype=pl.Int64)
    if tables.info.timestamp == "utc":
        span = span.cast(pl.Datetime("us")).dt.strftime("%Y-%m-%d %H:%M")
    counts["first and last event"] = " to ".join(str(value) for value in span)
    for table, reading in tables.readings.items():
        counts |= {f"{table} read by": "; ".join(lines) for lines in [reading.lines()] if lines}
    if items["blank"] is not None:
        counts["items without description"] = f"{items['blank']:.1%}"
    return counts


def _blank_descriptions(tables: Tables) -> pl.Expr:
    return blank("description").mean() if "description" in tables.columns["items"] else pl.lit(None)


def collect(tables: Tables, table: str, frame: pl.LazyFrame) -> pl.DataFrame:
    """Return `frame`, made from a table of the folder, in memory.

    Raises:
        RecsysError: the table's file cannot be read.
    """
    try:
        return frame.collect(engine="streaming")
    except (pl.exceptions.PolarsError, OSError) as error:
        raise unreadable(tables.paths[table], error) from error


def _example(row: dict[str, Any], shows: str) -> str:
    value = row[shows]
    text = "" if shows == ROW else f" ({str(value)[:60]!r})"
    return f"row {row[ROW]}{text}"
