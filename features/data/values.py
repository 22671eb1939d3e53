"""Read numbers, moments and lists that people wrote as text, by rules that docs/data.md states.

In: a column. Out: an expression that reads it, or what has to be known of the column as a whole before that: what a comma means,
in which unit its times are, what separates its lists. What no rule reads becomes null and is never guessed.
"""

import ast
import csv
import json
from datetime import UTC, datetime
from typing import Any

import polars as pl

NULL_WORDS = ("NULL", "Null", "null", "None", r"\N", "N/A", "n/a", "#N/A", "<NA>")
"""What other programs write into a cell without a value; a number that is one of them is missing."""
NAN_WORDS = ("nan", "NaN", "NAN")
"""The same, but no number that is one of them is taken for missing: it may be the result of a division by 0."""

CURRENCY = (
    r"(?:(?:US|CA|A|C|HK|NZ|R|S)?\p{Sc}|USD|EUR|GBP|CHF|JPY|CNY|INR|RUB|KRW|BRL|CAD|AUD|NZD|SEK|NOK|DKK|PLN|CZK|HUF|TRY|ZAR|MXN"
    r"|kr\.?|zł|Kč|Ft|Fr\.)"
)
SPACE = r"[\s'’]"
"""What may stand between groups of three digits, in Switzerland an apostrophe."""
AMBIGUOUS = r"^[+-]?[1-9]\d{0,2}[.,]\d{3}$"
"""`1,299` is 1299 in some countries and 1.299 in others."""
POINT_GROUPS = r"^[+-]?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d*)?$"
"""`1,299.00`"""
COMMA_GROUPS = r"^[+-]?[1-9]\d{0,2}(?:\.\d{3})+(?:,\d*)?$"
"""`1.299,00`"""
COMMA_PLAIN = r"^[+-]?\d*,\d+$"
"""`62,41`"""
POINT_PLAIN = r"^[+-]?\d*\.\d+$"
NUMBER_TEXT = r"^[+-]?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?$"
"""What is a number beyond doubt; `007` may be a code."""

TRUE, FALSE = ("true", "t", "yes", "y", "1"), ("false", "f", "no", "n", "0")

EARLIEST = int(datetime(1990, 1, 1, tzinfo=UTC).timestamp())
LATEST = int(datetime(2101, 1, 1, tzinfo=UTC).timestamp())
PER_SECOND = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
DIGITS = {"YYYYMMDD": "%Y%m%d", "YYYYMMDDhhmm": "%Y%m%d%H%M", "YYYYMMDDhhmmss": "%Y%m%d%H%M%S"}
"""Dates and times that are written as one number."""
UNITS = {unit: (EARLIEST * factor, LATEST * factor) for unit, factor in PER_SECOND.items()} | {
    unit: (1990 * 10 ** (len(unit) - 4), 2101 * 10 ** (len(unit) - 4)) for unit in DIGITS
}
"""The first number of a unit and the one after its last."""
NAMES = ("name", "title", "label", "value", "text", "tag")
"""Keys of an object in a list that say what it is."""


def bare(text: pl.Expr) -> pl.Expr:
    """Return a text without blanks around it, null for a word that stands for nothing."""
    stripped = text.str.strip_chars()
    return pl.when((stripped != "") & ~stripped.is_in(NULL_WORDS)).then(stripped)


def number(text: pl.Expr, comma: bool) -> pl.Expr:
    """Return a text as a number, null where it is none; `comma` is what `comma_is_decimal` says of its column."""
    digits = _digits(text)
    plain = pl.when(~(pl.lit(comma) & digits.str.contains(AMBIGUOUS))).then(digits.cast(pl.Float64, strict=False))
    grouped = pl.when(digits.str.contains(POINT_GROUPS)).then(digits.str.replace_all(",", "", literal=True))
    turned = pl.when(digits.str.contains(COMMA_PLAIN) | digits.str.contains(COMMA_GROUPS)).then(
        digits.str.replace_all(".", "", literal=True).str.replace(",", ".", literal=True)
    )
    read = [turned, grouped] if comma else [grouped, turned]
    return pl.coalesce(plain, *(one.cast(pl.Float64, strict=False) for one in read))


def comma_is_decimal(text: pl.Expr) -> pl.Expr:
    """Return whether some numbers of a column can only have a decimal comma, and none only a decimal point."""
    digits = _digits(text)
    sure = ~digits.str.contains(AMBIGUOUS)
    comma = digits.str.contains(COMMA_PLAIN) | digits.str.contains(COMMA_GROUPS)
    point = digits.str.contains(POINT_PLAIN) | digits.str.contains(POINT_GROUPS)
    return (comma & sure & ~point).any() & ~(point & sure & ~comma).any()


def _digits(text: pl.Expr) -> pl.Expr:
    """Return a text without signs of currency and without blanks between groups of digits."""
    stripped = bare(text).str.replace(rf"^([+-]?)\s*{CURRENCY}\s*", "$1").str.replace(rf"\s*{CURRENCY}$", "")
    grouped = stripped.str.contains(rf"^[+-]?\d{{1,3}}(?:{SPACE}\d{{3}})+(?:[.,]\d+)?$")
    return pl.when(grouped).then(stripped.str.replace_all(SPACE, "")).otherwise(stripped)


def times_by_unit(column: pl.Expr) -> list[pl.Expr]:
    """Return for each unit how many numbers of a column are times in it, from 1990 to 2100; no number is one in two units."""
    numbers = column.cast(pl.Float64, strict=False)
    return [numbers.is_between(low, high, closed="left").sum().alias(unit) for unit, (low, high) in UNITS.items()]


def moment(text: pl.Expr, unit: str | None) -> pl.Expr:
    """Return a text as microseconds since 1970 (UTC), null where it is no time; numbers are in the `unit` of their column."""
    stripped = bare(text)
    return pl.coalesce(
        moment_of_number(stripped, unit), _written(stripped.str.replace_all(r"^(\d{4})/(\d{1,2})/", "$1-$2-"))
    )


def moment_of_text(text: str) -> int | None:
    """Return a time that a person wrote, such as `2026-01-31`, as microseconds since 1970 (UTC); None where it is no time."""
    moments: pl.Series = pl.select(moment(pl.lit(text), None)).to_series()
    return moments.item()


def moment_of_number(column: pl.Expr, unit: str | None) -> pl.Expr:
    """Return numbers, or texts of digits, as microseconds since 1970; null where that lies before 1990 or after 2100."""
    if unit is None:
        return pl.lit(None, pl.Int64)
    if unit in DIGITS:
        digits = column.cast(pl.Int64, strict=False).cast(pl.String)
        micro = digits.str.to_datetime(DIGITS[unit], time_unit="us", strict=False, exact=True).dt.timestamp("us")
        return pl.when(digits.str.len_bytes() == len(unit)).then(micro)
    per_second = PER_SECOND[unit]
    whole, fraction = column.cast(pl.Int64, strict=False), column.cast(pl.Float64, strict=False)
    scaled = whole // (per_second // 10**6) if per_second > 10**6 else whole * (10**6 // per_second)
    rounded = pl.when(fraction.is_finite()).then(fraction * (10**6 / per_second)).cast(pl.Int64, strict=False)
    micro = pl.when(whole == fraction).then(scaled).otherwise(rounded)
    return pl.when((micro >= EARLIEST * 10**6) & (micro < LATEST * 10**6)).then(micro)


def _written(text: pl.Expr) -> pl.Expr:
    zoned = text.str.to_datetime("%+", time_unit="us", time_zone="UTC", strict=False)
    naive = [
        text.str.to_datetime(form, time_unit="us", strict=False).dt.replace_time_zone("UTC")
        for form in ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M")
    ]
    day = text.str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    return pl.coalesce(zoned, *naive, day).dt.timestamp("us")


def truth(column: pl.Expr, kind: pl.DataType) -> pl.Expr:
    """Return a column of `kind` as true or false, null where it is neither."""
    if kind == pl.Boolean():
        return column
    word = bare(column.cast(pl.String)).str.to_lowercase().str.strip_suffix(".0")
    return pl.when(word.is_in(TRUE)).then(True).when(word.is_in(FALSE)).then(False)


def separator(text: pl.Expr) -> pl.Expr:
    """Return what separates the parts of a column's lists: the first of `|`, `;` and `,` that it has outside of brackets."""
    open_text = text.filter(~text.str.strip_chars().str.starts_with("["))
    found = [pl.when(open_text.str.contains(mark, literal=True).any()).then(pl.lit(mark)) for mark in "|;,"]
    return pl.coalesce(*found, pl.lit("|"))


def list_of(text: str, mark: str) -> list[str]:
    """Return the parts of a text: of a JSON or Python list, or of what `mark` separates, quoted parts as one."""
    text = text.strip()
    if text.startswith("["):
        for parse in (json.loads, ast.literal_eval):
            try:
                return names_in(parse(text))
            except (ValueError, SyntaxError, RecursionError):
                continue
        text, mark = text.strip("[]"), ","
    (parts,) = csv.reader([" ".join(text.splitlines())], delimiter=mark, skipinitialspace=True) if text else ([],)
    return names_in(parts)


def names_in(value: Any) -> list[str]:
    """Return the texts in a value as JSON has it: lists in lists are opened, and of an object its name counts."""
    if isinstance(value, dict):
        value = next((value[key] for key in NAMES if value.get(key)), list(value.values()))
    if isinstance(value, list | tuple | set):
        return [name for part in value for name in names_in(part)]
    text = "" if value is None else str(value).strip()
    return [text] if text else []
