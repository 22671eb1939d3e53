"""The base of importers, and what they share: options, the rating rule, readers and the writer.

In: files in some format. Out: `Imported`, lazy frames in the contract's columns, which
`write_dataset` writes as a dataset folder, completely or not at all.
"""

import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from features.data.dataset import QUARANTINE, quarantine_invalid
from features.data.formats import SHOWN, check_utf8, unreadable
from features.data.tables import ROW, TIMES, failed, reading_of, typed
from recsys.atomic import atomic_file, atomic_folder
from recsys.errors import RecsysError, UsageError, first_line, first_problem, suggest
from recsys.schema import TABLES, DatasetInfo

SAMPLE = 3
"""Rows of each table that the report shows."""


class Options(BaseModel):
    """Options of every importer: how ratings become event types."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    rating_event: Literal["view", "click", "like", "comment", "cart", "purchase"] = "like"
    """Event type of a rating of at least `like_from`."""
    like_from: float = Field(4.0, allow_inf_nan=False)
    """Smallest rating that counts as `rating_event`; lower ones become `low_rating_event`."""
    low_rating_event: Literal["view", "click", "like", "comment", "cart", "purchase", "dislike", "hide"] = "view"
    """Event type of a rating below `like_from`: the user did meet the item."""


@dataclass(frozen=True)
class Imported:
    """What an importer read, in the contract's columns."""

    items: pl.LazyFrame
    events: pl.LazyFrame
    users: pl.LazyFrame | None
    info: DatasetInfo
    notes: list[str] = field(default_factory=list)
    """What was left out, changed or decided, one line each."""
    paths: Mapping[str, Path] = field(default_factory=dict)
    """The file of each table, where one file is one table."""
    broken_lines: Mapping[str, Path] = field(default_factory=dict)
    """By the names of files, where their lines are that are no rows, when these are to be left out."""
    queries: pl.LazyFrame | None = None


@dataclass(frozen=True)
class ImportReport:
    """How many rows were written."""

    items: int
    events: int
    users: int
    notes: list[str]
    samples: dict[str, pl.DataFrame]
    """The first rows of each table as they were written."""


class Importer(ABC):
    """Reads one format. A new format is one subclass in `IMPORTERS`."""

    name: ClassVar[str]
    description: ClassVar[str]
    options_model: ClassVar[type[Options]] = Options

    takes_columns: ClassVar[bool] = False
    """Whether the format's columns can be named by the user."""

    def __init__(
        self,
        options: Options | None = None,
        columns: Mapping[str, str] | None = None,
        scratch: Path = Path(),
        keeps_unread: bool = False,
    ) -> None:
        """`columns` maps the contract's column names to those of the source, where it has its own.

        With `keeps_unread`, what is no row, or is not known, is not refused: it goes to the quarantine. `scratch` is a
        folder for what lies between source and dataset.

        Raises:
            UsageError: the format has columns of its own, and none can be named.
        """
        self.options = options or self.options_model()
        self.columns = dict(columns or {})
        self.scratch, self.keeps_unread = scratch, keeps_unread
        if self.columns and not self.takes_columns:
            raise UsageError(f"--column: the columns of {self.name} are known; use it with files or recbole")

    @abstractmethod
    def read(self, src: Path) -> Imported:
        """Read the format from `src`.

        Raises:
            RecsysError: files are missing or not of this format.
        """

    @classmethod
    def parse_options(cls, texts: Mapping[str, str]) -> Options:
        """Return the options that `texts` set.

        Raises:
            RecsysError: an unknown option or a wrong value.
        """
        known = list(cls.options_model.model_fields)
        for key in texts:
            if key not in known:
                raise RecsysError(f"--option {key}: unknown for {cls.name}{suggest(key, known)}")
        try:
            return cls.options_model.model_validate(dict(texts))
        except ValidationError as error:
            raise RecsysError(f"--option {first_problem(error)}") from error

    def event_of_rating(self, rating: pl.Expr) -> pl.Expr:
        """Return the event type of a rating."""
        options = self.options
        liked = pl.when(rating >= options.like_from).then(pl.lit(options.rating_event))
        return liked.otherwise(pl.lit(options.low_rating_event))


def scan_text(path: Path, separator: str, columns: list[str] | None = None, latin1: bool = False) -> pl.LazyFrame:
    """Return the text columns of a delimited file; `columns` names them where it has no header.

    Quotes are kept as they are: these formats do not escape. With `latin1` a file that is not UTF-8 is read as Latin-1.

    Raises:
        RecsysError: the file is empty or not UTF-8, or a line has more fields than there are columns.
    """
    source: Any = path
    if latin1:
        source = _as_utf8(path.read_bytes())
    else:
        check_utf8(path)
    if len(separator) > 1:
        text = source if latin1 else path.read_bytes()
        source, separator = text.replace(separator.encode(), b"\x1f"), "\x1f"
    try:
        frame = pl.scan_csv(
            source,
            separator=separator,
            has_header=columns is None,
            new_columns=columns,
            infer_schema=False,
            quote_char=None,
            truncate_ragged_lines=True,  # so that the lines themselves can be told, below
        )
        _refuse_long_lines(path, source, separator, len(frame.collect_schema()))
    except pl.exceptions.PolarsError as error:
        raise unreadable(path, error) from error
    return frame


def _refuse_long_lines(path: Path, source: Any, separator: str, columns: int) -> None:
    """Raise RecsysError where a line of the file has more fields than there are columns."""
    lines = pl.scan_csv(
        source, separator="\x1e", has_header=False, new_columns=["line"], infer_schema=False, quote_char=None
    )
    fields = pl.col("line").str.count_matches(separator, literal=True) + 1
    long = lines.with_columns(fields=fields).with_row_index("number", offset=1).filter(pl.col("fields") > columns)
    count, number, has, line = (
        long.select(pl.len(), pl.col("number").first(), pl.col("fields").first().alias("has"), pl.col("line").first())
        .collect()
        .row(0)
    )
    if count:
        raise RecsysError(
            f"{path}: {count:,} lines have more fields than the {columns} of this format, for example line {number} with "
            f"{has} ({line[:SHOWN]!r}); remove separators inside fields"
        )


def _as_utf8(text: bytes) -> bytes:
    try:
        text.decode()
    except UnicodeDecodeError:
        return text.decode("latin-1").encode()
    return text


def find_file(src: Path, names: list[str], what: str) -> Path:
    """Return the first of `names` in `src`.

    Raises:
        RecsysError: none is there; the message lists what is.
    """
    for name in names:
        if (src / name).is_file():
            return src / name
    there = sorted(path.name for path in src.iterdir())[:8] if src.is_dir() else []
    raise RecsysError(f"{src}: no {what}: looked for {', '.join(names)}, found {', '.join(there) or 'nothing'}")


def require(frame: pl.LazyFrame, path: Path, columns: list[str]) -> None:
    """Raise RecsysError where `frame`, read from `path`, lacks one of `columns`."""
    names = frame.collect_schema().names()
    missing = [name for name in columns if name not in names]
    if missing:
        raise RecsysError(
            f"{path}: column {missing[0]!r} is missing; it has {', '.join(names)}; "
            f"name it with --column {missing[0]}=THEIRS"
        )


def without_duplicates(imported: Imported) -> Imported:
    """Return what was imported with one of the events that are equal in every column, and a note on how many there were."""
    try:
        events = imported.events.collect()
    except pl.exceptions.PolarsError as error:
        raise unreadable(imported.paths["events"], error) if "events" in imported.paths else error from error
    distinct = events.unique(maintain_order=True)
    note = (
        f"events that are equal to an earlier one, left out: {events.height - distinct.height:,} of {events.height:,}"
    )
    return replace(imported, events=distinct.lazy(), notes=[*imported.notes, note])


def write_dataset(imported: Imported, out: Path, quarantine: bool = False) -> ImportReport:
    """Write the dataset folder `out`, completely or not at all; with `quarantine`, invalid rows are in a folder of their own.

    Raises:
        RecsysError: `out` is not empty, or the source cannot be read to its end.
    """
    notes = list(imported.notes)
    frames = {table: getattr(imported, table) for table in TABLES}
    with atomic_folder(out) as folder:
        for table, frame in frames.items():
            if frame is None:
                continue
            try:
                notes += _write_table(frame, table, imported.info, folder / f"{table}.parquet")
            except pl.exceptions.PolarsError as error:
                if table in imported.paths:
                    raise unreadable(imported.paths[table], error) from error
                reason = first_line(error)
                raise RecsysError(f"import into {out} stopped: {reason}; nothing was written") from error
        info = imported.info.model_dump(exclude_defaults=True)
        (folder / "dataset.json").write_text(json.dumps(info, indent=1) + "\n", encoding="utf-8")
        if quarantine:
            notes += _keep_broken_lines(imported.broken_lines, folder / QUARANTINE) + _leave_out_invalid(folder, out)
        written = {table: pl.scan_parquet(folder / f"{table}.parquet") for table in frames if frames[table] is not None}
        counts = {table: int(frame.select(pl.len()).collect().item()) for table, frame in written.items()}
        samples = {table: frame.head(SAMPLE).collect() for table, frame in written.items()}
    return ImportReport(counts["items"], counts["events"], counts.get("users", 0), notes, samples)


def _keep_broken_lines(broken: Mapping[str, Path], quarantine: Path) -> list[str]:
    """Move the lines that are no rows to the folder `quarantine`; return how many there were."""
    notes = []
    for name, path in broken.items():
        if path.exists():
            quarantine.mkdir(exist_ok=True)
            count = path.read_text(encoding="utf-8").count("\n")
            shutil.move(path, quarantine / f"{name}.txt")
            notes.append(f"{name}: {count:,} lines are no rows, kept in {QUARANTINE}/{name}.txt")
    return notes


def _leave_out_invalid(folder: Path, out: Path) -> list[str]:
    """Move the rows of the dataset in `folder`, which will be `out`, that violate a rule to its quarantine; return how many there were."""
    notes = []
    try:
        quarantined = quarantine_invalid(folder)
    except RecsysError as error:  # it names the folder as it is called before it is complete
        raise RecsysError(str(error).replace(str(folder), str(out))) from error
    for table, rejected in quarantined.items():
        path = folder / f"{table}.parquet"
        kept = (
            pl.read_parquet(path)
            .with_row_index(ROW, offset=1)
            .join(rejected, on=ROW, how="anti", maintain_order="left")
        )
        with atomic_file(path) as temporary:
            kept.drop(ROW, "^_raw_.*$").write_parquet(temporary)
        rules = rejected["rule"].value_counts(sort=True).iter_rows()
        why = ", ".join(f"{rule} {count:,}" for rule, count in rules)
        notes.append(
            f"{table}: {rejected.height:,} of {rejected.height + kept.height:,} rows left out, "
            f"kept in {QUARANTINE}/{table}.parquet: {why}"
        )
    return notes


def _write_table(frame: pl.LazyFrame, table: str, info: DatasetInfo, path: Path) -> list[str]:
    """Write a table in the contract's types; return what should be known of its values.

    The text of what cannot be read stays in a column `_raw_*`, for `recsys data check` to show it.
    """
    reading = reading_of(frame, table, info, path)
    ready = typed(frame, table, reading, info)
    schema = ready.collect_schema()
    read = [name for name in TABLES[table] if f"_raw_{name}" in schema]
    unread = [_unread(ready, name) for name in read]
    moments = [] if info.timestamp == "ordinal" else [name for name in read if name in TIMES]
    lost = [name for name, (count, _, _) in zip(read, unread, strict=True) if count]
    kept = [pl.col(name) for name in schema if not name.startswith("_raw_")]
    texts = [pl.when(pl.col(name).is_null()).then(f"_raw_{name}").alias(f"_raw_{name}") for name in lost]
    times = [pl.col(name).cast(pl.Datetime("us", "UTC")) for name in moments]
    ready.select(*kept, *texts).with_columns(times).sink_parquet(path)
    rows = int(pl.scan_parquet(path).select(pl.len()).collect().item())
    notes = [
        f"{table}: {name}: {count:,} of {rows:,} cannot be read, for example row {row + 1} ({text!r}); kept as text"
        for name, (count, row, text) in zip(read, unread, strict=True)
        if count
    ]
    return [f"{table}: {line}" for line in reading.lines()] + notes


def _unread(ready: pl.LazyFrame, name: str) -> tuple[int, int, str]:
    """Return how many cells of a column could not be read, and row (from 0) and text of the first."""
    unread = failed(name)
    first = pl.col(f"_raw_{name}").filter(unread).first()
    count, row, text = ready.select(unread.sum(), unread.arg_max().alias("row"), first.alias("text")).collect().row(0)
    return int(count), int(row or 0), str(text)
