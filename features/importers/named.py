"""Tables whose columns have usual names, or names that the user gives: what files and databases have in common.

In: a frame for each table. Out: the same in the contract's columns, or every problem at once.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from features.data import values
from features.importers.base import Imported, Importer, Options
from features.importers.names import ALIASES, EVENT_ALIASES, OWN_ID, QUANTITIES, flat
from recsys.errors import Problems, RecsysError, suggest
from recsys.events import LOGGED_TYPES
from recsys.schema import OPTIONAL, REQUIRED, TABLES, DatasetInfo


class NamedOptions(Options):
    """How events and cells of the source are read."""

    event_mapping: str = ""
    """Names of the source's event types, as `wishlist=like;checkout=purchase`."""
    empty_words: str = ""
    """Words that stand for an empty cell, separated by `;`, as `NULL;nan`."""
    no_timestamps: bool = False
    """Takes the order of the rows for their times, which are then an order and no clock."""


@dataclass(frozen=True)
class Source:
    """A table as it was found."""

    name: str
    """What messages call it: the path of a file, for example."""
    frame: pl.LazyFrame


@dataclass(frozen=True)
class NamedTable:
    """A table in the contract's names."""

    source: str
    frame: pl.LazyFrame
    names: dict[str, str]
    """The source's names of the contract's columns that have others."""

    @property
    def mapping(self) -> str:
        """Which column of the source is which of ours."""
        pairs = ", ".join(f"{theirs} is {ours}" for ours, theirs in self.names.items())
        return f"{Path(self.source).name}: {pairs or 'every column has our name'}"


class NamedTablesImporter(Importer):
    """Finds columns by their usual names."""

    options_model = NamedOptions
    options: NamedOptions
    takes_columns = True

    def imported(self, sources: Mapping[str, Source], info: DatasetInfo, problems: Problems) -> Imported:
        """Return the tables in the contract's columns; `problems` are those met before.

        Raises:
            RecsysError: with all problems.
        """
        left_out = {"queries"} & set(sources) if self.options.no_timestamps else set()
        sources = {table: source for table, source in sources.items() if table not in left_out}
        columns = {table: source.frame.collect_schema().names() for table, source in sources.items()}
        self._check_columns(columns, problems)
        tables = {}
        for table, source in sources.items():
            with problems.noted():
                tables[table] = self._table(table, source)
        notes: list[str] = []
        events = pl.LazyFrame()
        if "events" in tables:
            with problems.noted():
                events, notes = self._typed_events(tables["events"])
        problems.raise_any()
        if self.options.no_timestamps:
            info = info.model_copy(update={"timestamp": "ordinal"})
            notes.append(
                "times: the order of the rows; splits follow it, and no feature of age, hour or window is computed"
            )
        notes += [f"{table}: left out, since the rows of two tables have no common order" for table in left_out]
        users, queries = (tables[table].frame if table in tables else None for table in OPTIONAL)
        mappings = [table.mapping for table in tables.values()]
        return Imported(tables["items"].frame, events, users, info, [*mappings, *notes], queries=queries)

    def _check_columns(self, columns: Mapping[str, list[str]], problems: Problems) -> None:
        """Note where `--column` names a column that is not ours, or one that no table has."""
        for key, theirs in self.columns.items():
            table, _, ours = key.rpartition(".")
            tables = [table] if table else list(TABLES)
            known = {name for one in tables for name in TABLES.get(one, {})}
            there = [name for one in tables if ours in TABLES.get(one, {}) for name in columns.get(one, [])]
            with problems.noted():
                if ours not in known:
                    raise RecsysError(f"--column {key}: not a column of the contract{suggest(ours, sorted(known))}")
                if theirs not in there:
                    raise RecsysError(
                        f"--column {key}={theirs}: no table has a column {theirs!r}{suggest(theirs, there)}"
                    )

    def _table(self, table: str, source: Source) -> NamedTable:
        columns = source.frame.collect_schema().names()
        names = self._names(columns, table)
        frame = source.frame.rename({theirs: ours for ours, theirs in names.items()})
        words = [word for word in self.options.empty_words.split(";") if word]
        if words:
            text = pl.col(pl.String)
            frame = frame.with_columns(pl.when(~text.str.strip_chars().is_in(words)).then(text))
        if table == "events" and self.options.no_timestamps:
            frame = frame.drop("timestamp", strict=False).with_row_index("timestamp")
        there = frame.collect_schema().names()
        missing = [name for name in REQUIRED[table] if name not in there and name != "event_type"]
        if missing:
            hint = " ".join(f"--column {name}=THEIRS" for name in missing)
            wanted = (
                f"column {missing[0]!r} is" if len(missing) == 1 else f"columns {', '.join(map(repr, missing))} are"
            )
            hint = "its first line must name the columns" if _are_values(columns) else f"name with {hint}"
            raise RecsysError(f"{source.name}: {wanted} missing; it has {', '.join(columns)}; {hint}")
        return NamedTable(source.name, frame, names)

    def _names(self, columns: list[str], table: str) -> dict[str, str]:
        """Return the source's name of each of the contract's columns that has another there."""
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
            usual = {flat(name) for name in aliases}
            free = [name for name in columns if flat(name) in usual and name not in names.values()]
            if free:
                names[ours] = free[0]
        return {ours: theirs for ours, theirs in names.items() if ours != theirs}

    def _typed_events(self, table: NamedTable) -> tuple[pl.LazyFrame, list[str]]:
        """Return the events with types of ours, and what was decided about them."""
        events = table.frame
        schema = events.collect_schema()
        if "event_type" not in schema:
            return self._guessed_types(table)
        mapping = {name: name for name in LOGGED_TYPES} | EVENT_ALIASES | self._mapping()
        theirs = pl.col("event_type").cast(pl.String).str.strip_chars().str.to_lowercase()
        names = events.select(theirs.unique()).collect()["event_type"].drop_nulls().to_list()
        unknown = sorted(name for name in names if name not in mapping)
        if unknown and not self.keeps_unread:
            raise RecsysError(
                f"{table.source}: {len(unknown)} unknown event types, for example {unknown[0]!r}; map them to "
                f"{', '.join(LOGGED_TYPES)} with --option event_mapping={unknown[0]}=click"
            )
        renamed = [f"{name} is {mapping[name]}" for name in sorted(names) if mapping.get(name, name) != name]
        notes = [f"event types: {', '.join(renamed)}"] if renamed else []
        return events.with_columns(
            event_type=theirs.replace_strict(mapping, default=theirs, return_dtype=pl.String)
        ), notes

    def _guessed_types(self, table: NamedTable) -> tuple[pl.LazyFrame, list[str]]:
        """Return the events with types that their values tell: quantities, thumbs or stars."""
        events, options = table.frame, self.options
        if "value" not in events.collect_schema():
            note = "event types: there are none, so every event is a click; name their column with --column event_type=THEIRS"
            return events.with_columns(event_type=pl.lit("click")), [note]
        value = _value(events)
        low, high, empty = (
            events.select(value.min(), value.max().alias("high"), value.null_count().alias("n")).collect().row(0)
        )
        column = table.names.get("value", "value")
        met = f"{column} is {low:g} to {high:g}" if low is not None else f"{column} is empty"
        met += f", {empty:,} empty or unread" if empty else ""
        if flat(column) in QUANTITIES:
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
        wrong = [ours for _, _, ours in pairs if ours.strip() not in LOGGED_TYPES]
        if wrong:
            raise RecsysError(
                f"--option event_mapping: {wrong[0]!r} is no event type{suggest(wrong[0], list(LOGGED_TYPES))}"
            )
        return {theirs.strip().lower(): ours.strip() for theirs, _, ours in pairs}


def _are_values(names: list[str]) -> bool:
    """Return whether the names of columns look like a row of values: a number is among them, and none that is known."""
    known = {flat(alias) for ours in ALIASES for alias in (ours, *ALIASES[ours])}
    return any(name.replace(".", "").isdigit() for name in names) and not known & {flat(name) for name in names}


def _value(events: pl.LazyFrame) -> pl.Expr:
    """Return the column `value` as numbers, texts read by the rules of tables."""
    value = pl.col("value")
    if events.collect_schema()["value"] != pl.String():
        return value.cast(pl.Float64, strict=False)
    return values.number(value, bool(events.select(values.comma_is_decimal(value)).collect().item()))
