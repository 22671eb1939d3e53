"""Scan a file by what its name says: Parquet, CSV, TSV, `.dat` or JSON lines, plain or as `.gz`; and say why one cannot be read.

In: a path. Out: a lazy frame; columns of CSV and TSV are text. CSV quotes fields as RFC 4180 says, with the separator that its first
line has most of. In TSV a quotation mark is a character like others (`3/4"`), unless it encloses the whole field. `.dat` is
TSV where its first line has tabs or `::`, else CSV.
"""

import codecs
import csv
import gzip
import io
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, cast

import polars as pl

from recsys.errors import RecsysError, first_line

KINDS = {".parquet": "parquet", ".csv": "csv", ".tsv": "tsv", ".dat": "dat", ".jsonl": "jsonl", ".ndjson": "jsonl"}
SEPARATORS = ",;\t|"
"""Of CSV, the first of equals."""
COLONS = "::"
"""What `.dat` may have instead of a tab."""
UNIT = "\x1f"
"""The separator that stands for `::` where one character is needed."""
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
    mark, source = separator_of(path), cast(Any, path)
    if mark == COLONS:
        with _opened(path) as file:
            source, mark = file.read().replace(COLONS.encode(), UNIT.encode()), UNIT
    quoted = _is_quoted(path)
    frame = pl.scan_csv(source, separator=mark, infer_schema=False, quote_char='"' if quoted else None)
    if not quoted:
        frame = frame.rename(lambda name: name.strip('"'))
        return frame.with_columns(_without_quotes(pl.col(name)) for name in frame.collect_schema().names())
    return frame


def _is_quoted(path: Path) -> bool:
    """Return whether quotation marks enclose fields that hold the separator."""
    kind = kind_of(path)
    return kind == "csv" or (kind == "dat" and separator_of(path) not in ("\t", COLONS))


def _without_quotes(text: pl.Expr) -> pl.Expr:
    """Return a field of TSV without the quotation marks that enclose it, doubled ones as one."""
    inside = text.str.slice(1, text.str.len_chars() - 2)
    alone = inside.str.replace_all('""', "", literal=True).str.contains('"', literal=True)
    enclosed = text.str.starts_with('"') & text.str.ends_with('"') & (text.str.len_chars() > 1) & ~alone
    return pl.when(enclosed).then(inside.str.replace_all('""', '"', literal=True)).otherwise(text)


def separator_of(path: Path) -> str:
    """Return what separates the fields of a CSV, TSV or `.dat` file."""
    if kind_of(path) == "tsv":
        return "\t"
    with _opened(path) as file:
        outside = "".join(file.readline().decode("utf-8-sig").split('"')[::2])
    if kind_of(path) == "dat" and COLONS in outside:
        return COLONS
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
    find = {"parquet": lambda _: None, "jsonl": _broken_line}.get(str(kind), _long_row)
    with suppress(OSError, EOFError, UnicodeDecodeError, csv.Error):
        found = find(path)
        if found:
            return RecsysError(f"{path}: {found}")
    reason = first_line(error)
    return RecsysError(f"{path}: cannot be read as {kind} ({reason}); write the file again")


def without_broken_lines(path: Path, folder: Path) -> tuple[Path, Path]:
    """Return a file in `folder` with the rows of `path`, and one with its lines that are no rows; Parquet stays as it is.

    Raises:
        RecsysError: the file is not UTF-8.
    """
    kind = "parquet" if path.is_dir() else kind_of(path)
    name = path.name.partition(".")[0]
    clean, broken = folder / f"{name}.{'jsonl' if kind == 'jsonl' else 'csv'}", folder / f"{name}.broken"
    if kind == "parquet":
        return path, broken
    check_utf8(path)
    with clean.open("w", encoding="utf-8", newline="") as good, broken.open("w", encoding="utf-8") as bad:
        if kind == "jsonl":
            for line in _lines(path):
                (bad if _json_problem(line) else good).write(line)
        else:
            mark, rows = separator_of(path), _rows(path)
            _, names = next(rows, (0, []))
            writer = csv.writer(good)
            writer.writerow(names)
            for _, row in rows:
                if len(row) > len(names):
                    bad.write(mark.join(row).replace("\n", " ") + "\n")
                else:
                    writer.writerow(row)
    if not broken.stat().st_size:
        broken.unlink()
    return clean, broken


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of a CSV, TSV or `.dat` file with the number of the line on which each ends."""
    mark, lines = separator_of(path), _lines(path)
    if mark == COLONS:
        mark, lines = UNIT, (line.replace(COLONS, UNIT) for line in lines)
    rows = csv.reader(lines, delimiter=mark, quoting=csv.QUOTE_MINIMAL if _is_quoted(path) else csv.QUOTE_NONE)
    for row in rows:
        yield rows.line_num, row


def _long_row(path: Path) -> str | None:
    """Return what is wrong with the first row of a CSV, TSV or `.dat` file that has more fields than the first line."""
    separator, rows = separator_of(path), _rows(path)
    _, names = next(rows, (0, []))
    for line, row in rows:
        if len(row) > len(names):
            mark = "tabs" if separator == "\t" else repr(separator)
            quoted = f"put fields that hold {mark} in quotation marks"
            hint = quoted if _is_quoted(path) else f"remove {mark} inside fields"
            text = separator.join(row)[:SHOWN]
            return f"line {line} has {len(row)} fields, the first line {len(names)} ({text!r}); {hint}"
    return None


def _broken_line(path: Path) -> str | None:
    """Return what is wrong with the first line of a JSONL file that is no JSON object."""
    found = ((number, line, _json_problem(line)) for number, line in enumerate(_lines(path), start=1))
    return next(
        (
            f"line {number} {problem[0]} ({line.strip()[:SHOWN]!r}); {problem[1]}"
            for number, line, problem in found
            if problem
        ),
        None,
    )


def _json_problem(line: str) -> tuple[str, str] | None:
    """Return what is wrong with a line that is no JSON object, and what to do."""
    if not line.strip():
        return None
    try:
        value = json.loads(line, parse_constant=_refuse)
    except ValueError as error:
        return f"is not JSON: {error}", "correct the line"
    return None if isinstance(value, dict) else ("is no JSON object", "write one object a line")


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is no value of JSON, write null")


def _lines(path: Path) -> Iterator[str]:
    with _opened(path) as file, io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as lines:
        yield from lines
