"""Evaluate conditions on the items of a catalogue.

In: the items, and conditions by column. Out: a mask `[N]` of the items that pass.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from features.data import values
from features.data.markup import TEXT_COLUMNS, plain
from features.data.tables import TIMES
from recsys.arrays import Bools
from recsys.errors import RecsysError, suggest
from serving.columns import json_types

WRITTEN = re.compile(r"\s*([^<>=]+?)\s*(<=|>=|=)\s*(.*?)\s*", re.DOTALL)
"""A condition as text: a column, how it compares, a value."""


class FilterError(RecsysError):
    """A filter that cannot be applied to the catalogue."""


@dataclass(frozen=True)
class Between:
    """A closed interval; None is no limit."""

    low: float | None = None
    high: float | None = None


Value = bool | float | str
Condition = Value | Sequence[Value] | Between
"""The value of a column, several of which it has one, or an interval; of a column of lists, for one of the elements."""


def matching(items: pl.DataFrame, conditions: Mapping[str, Condition], where: str) -> Bools:
    """Return a mask `[N]` of the rows of `items` that pass every condition; a missing value passes none.

    `where` comes before the name of a column in messages.

    Raises:
        FilterError: the items have no such column, or its values are of another type.
    """
    mask = np.ones(items.height, bool)
    for name, condition in conditions.items():
        if name not in items.columns:
            raise FilterError(f"{where}{name}: the items have no {name!r}{suggest(name, items.columns)}")
        passes = _passes(name, items.schema[name], condition, f"{where}{name}")
        mask &= items.select(passes.fill_null(False)).to_series().to_numpy()
    return mask


def why_none(items: pl.DataFrame, conditions: Mapping[str, Condition], where: str) -> list[str]:
    """Return what leaves no item: the conditions that none passes by itself, or all of them together; empty if some pass."""
    alone = [name for name, condition in conditions.items() if not matching(items, {name: condition}, where).any()]
    if alone:
        return [f"{where}{name}: no item passes" for name in alone]
    return [] if matching(items, conditions, where).any() else [f"{where.rstrip('.')}: no item passes all of them"]


def read_conditions(texts: Sequence[str], schema: Mapping[str, pl.DataType], where: str) -> dict[str, Condition]:
    """Return the conditions that are written as `NAME=VALUE`, `NAME>=NUMBER` or `NAME<=NUMBER`.

    Of several values of one column, an item has one. A column of times is compared with a time, such as 2026-01-31.

    Raises:
        FilterError: a text is no condition, or its value is not one of the column's type.
    """
    values_of: dict[str, list[Value]] = {}
    limits_of: dict[str, Between] = {}
    for text in texts:
        match = WRITTEN.fullmatch(text)
        if not match or not match[3]:
            raise FilterError(f"{where}{text}: write NAME=VALUE, NAME>=NUMBER or NAME<=NUMBER")
        name, comparison, written = match.groups()
        if name not in schema:
            raise FilterError(f"{where}{text}: the items have no {name!r}{suggest(name, list(schema))}")
        value = _value(written, name, schema[name], f"{where}{text}")
        if comparison == "=":
            values_of.setdefault(name, []).append(value)
        elif isinstance(value, bool | str):
            raise FilterError(f"{where}{text}: a range, but the items hold {schema[name]}; give values")
        else:
            before = limits_of.get(name, Between())
            limits_of[name] = Between(value, before.high) if comparison == ">=" else Between(before.low, value)
    both = sorted(values_of.keys() & limits_of.keys())
    if both:
        raise FilterError(f"{where}{both[0]}: both a value and a range; keep one")
    return {**values_of, **limits_of}


def _value(written: str, name: str, kind: pl.DataType, where: str) -> Value:
    """Return a text as a value of a column of `kind`."""
    types = json_types(kind)
    value: Value | None = written
    if name in TIMES:
        value = values.moment_of_text(written)
    elif bool in types:
        value = {"true": True, "false": False}.get(written.lower())
    elif float in types:
        try:
            value = float(written)
        except ValueError:
            value = None
    if value is None:
        example = "2026-01-31" if name in TIMES else "true or false" if bool in types else "a number"
        raise FilterError(f"{where}: {written!r} does not fit {name!r}, which holds {kind}; write {example}")
    return value


def _passes(name: str, kind: pl.DataType, condition: Condition, where: str) -> pl.Expr:
    if isinstance(condition, Between):
        return _within(name, kind, condition, where)
    given = [condition] if isinstance(condition, bool | int | float | str) else list(condition)
    return _is_one_of(name, kind, given, where)


def _within(name: str, kind: pl.DataType, limits: Between, where: str) -> pl.Expr:
    if not kind.is_numeric():
        raise FilterError(f"{where}: a range, but the items hold {kind}; give values")
    column = pl.col(name)
    passes = column.is_not_null()
    if limits.low is not None:
        passes &= column >= limits.low
    if limits.high is not None:
        passes &= column <= limits.high
    return passes


def _is_one_of(name: str, kind: pl.DataType, given: list[Any], where: str) -> pl.Expr:
    """Return whether the column has one of the values `given`; in a column of lists, whether an element is one of them."""
    types = json_types(kind)
    unfit = [
        value for value in given if not isinstance(value, types) or (isinstance(value, bool) and bool not in types)
    ]
    if unfit:
        raise FilterError(f"{where}: {unfit[:1]} given, but the items hold {kind}")
    column = pl.col(name)
    common = pl.Float64() if float in types else pl.Boolean() if bool in types else pl.String()
    if name in TEXT_COLUMNS:  # callers may send a value as their own catalogue has it, with markup
        given = [*given, *plain(pl.Series(given, dtype=pl.String))]
    if isinstance(kind, pl.List):
        return column.cast(pl.List(common)).list.eval(pl.element().is_in(given)).list.any()
    return column.cast(common).is_in(pl.lit(pl.Series(given, dtype=common).implode()))
