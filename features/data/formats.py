"""Scan a file by what its name says: Parquet, CSV, TSV or JSON lines, plain or as `.gz`; and say why one cannot be read.

In: a path. Out: a lazy frame; columns of CSV and TSV are text. CSV quotes fields as RFC 4180 says, with the separator that its first
line has most of. In TSV a quotation mark is a character like others (`3/4"`), unless it encloses the whole field.
"""

import codecs
import csv
import gzip
import io
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import polars as pl

from recsys.errors import RecsysError

KINDS = {".parquet": "parquet", ".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
SEPARATORS = ",;\t|"
"""Of CSV, the first of equals."""
SHOWN = 60
"""Characters of an example."""
UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def kind_of(path: Path) -> str | None:
    """Return the kind of a file by its name, in small letters or capitals, with or without `.gz`; None for others."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] == ".gz":
        kind = KINDS.get(suffixes[-2]) if len(suffixes) > 1 else None
        return None if kind == "parquet" else kind
    return KINDS.get(suffixes[-1]) if suffixes else None


def scan(path: Path) -> pl.LazyFrame:
    """Return a lazy frame of a file, or of a folder of Parquet files.

    Raises:
        RecsysError: the file is empty, not what its name says, or not UTF-8.
    """
    if path.is_file() and path.stat().st_size == 0:
        raise RecsysError(f"{path}: the file is empty; write it again")
    kind = "parquet" if path.is_dir() else kind_of(path)
    try:
        if kind == "parquet":
            frame = pl.scan_parquet(path / "**/*.parquet" if path.is_dir() else path)
        else:
            check_utf8(path)
            frame = pl.scan_ndjson(path, infer_schema_length=None) if kind == "jsonl" else _scan_delimited(path)
        frame.collect_schema()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise unreadable(path, error) from error
    return frame


def _scan_delimited(path: Path) -> pl.LazyFrame:
    quote = None if kind_of(path) == "tsv" else '"'
    frame = pl.scan_csv(path, separator=separator_of(path), infer_schema=False, quote_char=quote)
    if quote is None:
        frame = frame.rename(lambda name: name.strip('"'))
        return frame.with_columns(_without_quotes(pl.col(name)) for name in frame.collect_schema().names())
    return frame


def _without_quotes(text: pl.Expr) -> pl.Expr:
    """Return a field of TSV without the quotation marks that enclose it, doubled ones as one."""
    inside = text.str.slice(1, text.str.len_chars() - 2)
    alone = inside.str.replace_all('""', "", literal=True).str.contains('"', literal=True)
    enclosed = text.str.starts_with('"') & text.str.ends_with('"') & (text.str.len_chars() > 1) & ~alone
    return pl.when(enclosed).then(inside.str.replace_all('""', '"', literal=True)).otherwise(text)


def separator_of(path: Path) -> str:
    """Return what separates the fields of a CSV or TSV file."""
    if kind_of(path) == "tsv":
        return "\t"
    with _opened(path) as file:
        outside = "".join(file.readline().decode("utf-8-sig").split('"')[::2])
    return max(SEPARATORS, key=lambda mark: (outside.count(mark), -SEPARATORS.index(mark)))


def _opened(path: Path) -> IO[bytes]:
    compressed: Any = gzip.open
    return compressed(path) if path.suffix.lower() == ".gz" else path.open("rb")


def check_utf8(path: Path) -> None:
    """Raise RecsysError naming the first line of `path` that is not UTF-8."""
    decoder, line = codecs.getincrementaldecoder("utf-8")(), 1
    with _opened(path) as file:
        while chunk := file.read(1 << 20):
            if line == 1 and chunk.startswith(UTF16):
                raise RecsysError(
                    f"{path}: the file is UTF-16; convert it, for example `iconv -f utf-16 -t utf-8 {path.name}`"
                )
            try:
                line += decoder.decode(chunk).count("\n")
            except UnicodeDecodeError as error:
                line += chunk[: error.start].count(b"\n")
                raise RecsysError(
                    f"{path}: line {line} is not UTF-8 (byte {error.object[error.start]:#04x}); convert the file, "
                    f"for example `iconv -f latin1 -t utf-8 {path.name}`"
                ) from error


def unreadable(path: Path, error: Exception) -> RecsysError:
    """Return the error for a file whose content is not what its name says, with the first line where that shows."""
    kind = "parquet" if path.is_dir() else kind_of(path)
    with suppress(OSError, EOFError, UnicodeDecodeError, csv.Error):
        found = {"csv": _long_row, "tsv": _long_row, "jsonl": _broken_line}.get(str(kind), lambda _: None)(path)
        if found:
            return RecsysError(f"{path}: {found}")
    reason = (str(error).splitlines() or [repr(error)])[0]
    return RecsysError(f"{path}: cannot be read as {kind} ({reason}); write the file again")


def _long_row(path: Path) -> str | None:
    """Return what is wrong with the first row of a CSV or TSV file that has more fields than the first line."""
    separator, quoted = separator_of(path), kind_of(path) != "tsv"
    rows = csv.reader(_lines(path), delimiter=separator, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE)
    names = next(rows, [])
    for row in rows:
        if len(row) > len(names):
            way_out = (
                f"put fields that hold {separator!r} in quotation marks" if quoted else "remove tabs inside fields"
            )
            text = separator.join(row)[:SHOWN]
            return f"line {rows.line_num} has {len(row)} fields, the first line {len(names)} ({text!r}); {way_out}"
    return None


def _broken_line(path: Path) -> str | None:
    """Return what is wrong with the first line of a JSONL file that is no JSON object."""
    for number, line in enumerate(_lines(path), start=1):
        try:
            fine = not line.strip() or isinstance(json.loads(line, parse_constant=_refuse), dict)
        except ValueError as error:
            return f"line {number} is not JSON ({error}: {line.strip()[:SHOWN]!r}); correct the line"
        if not fine:
            return f"line {number} is no JSON object ({line.strip()[:SHOWN]!r}); write one object a line"
    return None


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is no value of JSON, write null")


def _lines(path: Path) -> Iterator[str]:
    with _opened(path) as file, io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as lines:
        yield from lines
