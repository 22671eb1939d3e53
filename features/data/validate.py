"""Validate a dataset: every rule, with counts, examples and a hint.

In: the typed tables of a folder. Out: `Report`. A new rule is one more entry in `RULES`.
"""

import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console
from rich.table import Table

from features.data.tables import ROW, Tables, read_tables, unreadable
from recsys.errors import RecsysError
from recsys.events import DAY_US, EVENT_TYPES, SPLITS

EXAMPLES = 3
LONG_DESCRIPTION = 100_000
"""Characters from which a description is reported; the encoder reads its beginning."""


@dataclass(frozen=True)
class Rule:
    """Rows of `table` for which `broken` holds violate the rule."""

    name: str
    table: str
    needs: tuple[str, ...]
    broken: pl.Expr
    shows: str
    """The column whose value makes the example."""
    way_out: str
    severity: str = "error"


@dataclass(frozen=True)
class Violation:
    """A rule that rows of a file break."""

    rule: str
    file: str
    count: int
    examples: list[str]
    severity: str
    way_out: str

    def line(self) -> str:
        """Return the violation as one line."""
        rows = "row" if self.count == 1 else "rows"
        return f"{self.file}: {self.rule}: {self.count:,} {rows}, for example {self.examples[0]}; {self.way_out}"


def blank(column: str) -> pl.Expr:
    """Return whether a text column is null or only white space."""
    return pl.col(column).is_null() | (pl.col(column).str.strip_chars() == "")


def failed(column: str) -> pl.Expr:
    """Return whether a value did not fit its column's type."""
    return pl.col(column).is_null() & pl.col(f"_raw_{column}").is_not_null()


def rules(tables: Tables) -> list[Rule]:
    """Return the rules that apply to `tables`."""
    quarantine = "mend the rows, or pass --set data.on_invalid=quarantine to `recsys train`"
    tomorrow = int(time.time() * 1e6) + DAY_US
    moment, number = pl.col("timestamp"), pl.col("value")
    found = [
        Rule("empty item_id", "items", ("item_id",), blank("item_id"), ROW, quarantine),
        Rule("duplicate item_id", "items", ("item_id",), ~pl.col("item_id").is_first_distinct(), "item_id", quarantine),
        Rule("empty title", "items", ("title",), blank("title"), "item_id", quarantine),
        Rule("price is not a number of 0 or more", "items", ("price",), failed("price") | pl.col("price").is_nan()
             | pl.col("price").is_infinite() | (pl.col("price") < 0), "_raw_price", quarantine),
        Rule("unparsable created_at", "items", ("created_at",), failed("created_at"), "_raw_created_at", quarantine),
        Rule("description over 100,000 characters", "items", ("description",),
             pl.col("description").str.len_bytes() > LONG_DESCRIPTION, "item_id",
             "only the first encoder.max_tokens tokens are read", "warning"),
        Rule("empty user_id", "events", ("user_id",), blank("user_id"), ROW, quarantine),
        Rule("event on unknown item", "events", ("item_id",), ~pl.col("_known_item"), "item_id",
             "add the items to the items table, or " + quarantine),
        Rule("unknown event_type", "events", ("event_type",), ~pl.col("event_type").is_in(EVENT_TYPES).fill_null(False),
             "event_type", f"use one of {', '.join(EVENT_TYPES)}, or " + quarantine),
        Rule("unparsable timestamp", "events", ("timestamp",), moment.is_null(), "_raw_timestamp",
             "use ISO datetimes or seconds since 1970, or " + quarantine),
        Rule("value is not a finite number", "events", ("value",),
             failed("value") | number.is_nan() | number.is_infinite(), "_raw_value", quarantine),
        Rule("position is not a whole number from 1", "events", ("position",),
             failed("position") | (pl.col("position") < 1), "_raw_position", quarantine),
        Rule("empty user_id", "users", ("user_id",), blank("user_id"), ROW, quarantine),
        Rule("duplicate user_id", "users", ("user_id",), ~pl.col("user_id").is_first_distinct(), "user_id", quarantine),
    ]  # fmt: skip
    if tables.info.timestamp == "utc":
        found.append(Rule("timestamp in the future", "events", ("timestamp",), moment > tomorrow, "_raw_timestamp",
                          'check the unit, set "timestamp": "ordinal" in dataset.json, or ' + quarantine))  # fmt: skip
        found.append(Rule("timestamp before 1970", "events", ("timestamp",), moment < 0, "_raw_timestamp", quarantine))
    if tables.info.split == "column":
        found.append(Rule("unknown split", "events", ("split",), ~pl.col("split").is_in(SPLITS).fill_null(False),
                          "split", f"use one of {', '.join(SPLITS)}, or " + quarantine))  # fmt: skip
    return [
        rule for rule in found if rule.table in tables.columns and set(rule.needs) <= set(tables.columns[rule.table])
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
            counts.add_row(name, f"{value:,}" if isinstance(value, int) else str(value))
        console.print(counts)
        if not self.violations:
            console.print("[green]every rule holds[/]")
            return
        table = Table(title="violated rules")
        for column in ("", "file", "rule", "rows", "examples", "way out"):
            table.add_column(column, overflow="fold")
        for violation in self.violations:
            colour = "red" if violation.severity == "error" else "yellow"
            examples = ", ".join(violation.examples)
            row = (violation.file, violation.rule, f"{violation.count:,}", examples, violation.way_out)
            table.add_row(f"[{colour}]{violation.severity}[/]", *row)
        console.print(table)


def check(folder: Path) -> Report:
    """Validate the dataset in `folder`.

    Raises:
        RecsysError: a table cannot be read at all, or holds nothing.
    """
    tables = read_tables(folder)
    frames = with_known_items(tables)
    return Report(str(folder), _counts(tables, frames), violations(tables, frames))


def with_known_items(tables: Tables) -> dict[str, pl.LazyFrame]:
    """Return the frames, events with a column `_known_item`."""
    known = tables.frames["items"].select("item_id", pl.lit(True).alias("_known_item")).unique("item_id")
    events = tables.frames["events"].join(known, on="item_id", how="left", maintain_order="left")
    return tables.frames | {"events": events.with_columns(pl.col("_known_item").fill_null(False))}


def violations(tables: Tables, frames: dict[str, pl.LazyFrame]) -> list[Violation]:
    """Return every violated rule; one pass over each table counts, broken rules look for examples.

    Raises:
        RecsysError: the dataset is empty, has a single user, or NaN weights.
    """
    _refuse_unusable(tables, frames)
    found = []
    for table, frame in frames.items():
        own = [rule for rule in rules(tables) if rule.table == table]
        counts = _collect(tables, table, frame.select(rule.broken.sum().alias(str(at)) for at, rule in enumerate(own)))
        for at, rule in enumerate(own):
            count = int(counts[str(at)][0] or 0)
            if count:
                examples = _collect(
                    tables, table, frame.filter(rule.broken).select(pl.col({ROW, rule.shows})).head(EXAMPLES)
                )
                shown = [_example(row, rule.shows) for row in examples.iter_rows(named=True)]
                file = tables.paths[table].name
                found.append(Violation(rule.name, file, count, shown, rule.severity, rule.way_out))
    return found


def _refuse_unusable(tables: Tables, frames: dict[str, pl.LazyFrame]) -> None:
    folder, weights = tables.folder, tables.info.event_weights
    wrong = [f"{name}={weight}" for name, weight in weights.items() if not (math.isfinite(weight) and weight >= 0)]
    if wrong:
        raise RecsysError(
            f"{folder / 'dataset.json'}: event_weights must be finite and 0 or more: {len(wrong)} are not, "
            f"for example {wrong[0]}; mend or remove the key"
        )
    if tables.info.split == "column" and "split" not in tables.columns["events"]:
        raise RecsysError(
            f"{tables.paths['events']}: column 'split' is missing, which dataset.json asks for; "
            'add it, or set "split": "time"'
        )
    for table in ("items", "events"):
        if not _collect(tables, table, frames[table].select(pl.len())).item():
            raise RecsysError(f"{tables.paths[table]}: empty: 0 rows; a dataset needs items and events")
    users = _collect(tables, "events", frames["events"].select(pl.col("user_id").n_unique())).item()
    if users < 2:
        example = _collect(tables, "events", frames["events"].select("user_id").head(1)).item()
        raise RecsysError(
            f"{tables.paths['events']}: a single user ({users}: {example}); "
            "taste is learned by comparing users: add events of others"
        )


def _counts(tables: Tables, frames: dict[str, pl.LazyFrame]) -> dict[str, Any]:
    counts: dict[str, Any] = {"name": tables.info.name}
    for table in frames:
        counts[table] = _collect(tables, table, frames[table].select(pl.len())).item()
    events = frames["events"]
    by_type = _collect(tables, "events", events.group_by("event_type").len().sort("len", descending=True))
    counts["event types"] = ", ".join(f"{name} {count:,}" for name, count in by_type.iter_rows())
    acted = _collect(tables, "events", events.select(pl.col("user_id").n_unique(), pl.col("item_id").n_unique()))
    counts["users with events"], counts["items with events"] = acted.row(0)
    span = _collect(tables, "events", events.select(pl.col("timestamp").min(), pl.col("timestamp").max().alias("to")))
    if tables.info.timestamp == "utc":
        span = span.with_columns(pl.all().cast(pl.Datetime("us")).dt.strftime("%Y-%m-%d %H:%M"))
    counts["first and last event"] = " to ".join(str(value) for value in span.row(0))
    if "description" in tables.columns["items"]:
        share = _collect(tables, "items", frames["items"].select(blank("description").mean())).item()
        counts["items without description"] = f"{share:.1%}"
    return counts


def _collect(tables: Tables, table: str, frame: pl.LazyFrame) -> pl.DataFrame:
    try:
        return frame.collect(engine="streaming")
    except (pl.exceptions.PolarsError, OSError) as error:
        raise unreadable(tables.paths[table], error) from error


def _example(row: dict[str, Any], shows: str) -> str:
    value = row[shows]
    text = "" if shows == ROW else f" ({str(value)[:60]!r})"
    return f"row {row[ROW]}{text}"
