"""Evaluates a request's filters on the items of a catalogue.

In: the items and `Filters`. Out: a mask `[N]` of the items that pass.
"""

from typing import Any

import numpy as np
import polars as pl

from features.data.markup import TEXT_COLUMNS, plain
from recsys.arrays import Bools
from recsys.errors import RecsysError, suggest
from serving.api.schemas import Filters, Range
from serving.columns import json_types


class FilterError(RecsysError):
    """A filter that cannot be applied to the catalogue."""


def matching(items: pl.DataFrame, filters: Filters) -> Bools:
    """Return a mask `[N]` of the rows of `items` that pass every filter; a missing value passes none.

    Raises:
        FilterError: the items have no such attribute, or its values are of another type.
    """
    conditions: dict[str, Any] = dict(filters.attributes)
    conditions |= {name: getattr(filters, name) for name in ("category", "brand", "price") if getattr(filters, name)}
    unknown = sorted(set(conditions) - set(items.columns))
    if unknown:
        raise FilterError(f"filters.attributes: the items have no {unknown[0]!r}{suggest(unknown[0], items.columns)}")
    mask = np.ones(items.height, bool)
    for name, condition in conditions.items():
        mask &= items.select(_passes(name, items.schema[name], condition).fill_null(False)).to_series().to_numpy()
    return mask


def _passes(name: str, kind: pl.DataType, condition: Any) -> pl.Expr:
    if isinstance(condition, Range):
        return _within(name, kind, condition)
    return _is_one_of(name, kind, condition if isinstance(condition, list) else [condition])


def _within(name: str, kind: pl.DataType, limits: Range) -> pl.Expr:
    if not kind.is_numeric():
        raise FilterError(f"filters.attributes.{name}: a range, but the items hold {kind}; send values")
    column = pl.col(name)
    passes = column.is_not_null()
    if limits.min is not None:
        passes &= column >= limits.min
    if limits.max is not None:
        passes &= column <= limits.max
    return passes


def _is_one_of(name: str, kind: pl.DataType, values: list[Any]) -> pl.Expr:
    """Return whether the column has one of `values`; in a column of lists, whether an element is one of them."""
    types = json_types(kind)
    unfit = [
        value for value in values if not isinstance(value, types) or (isinstance(value, bool) and bool not in types)
    ]
    if unfit:
        raise FilterError(f"filters.attributes.{name}: {unfit[:1]} sent, but the items hold {kind}")
    column = pl.col(name)
    common = pl.Float64() if float in types else pl.Boolean() if bool in types else pl.String()
    if name in TEXT_COLUMNS:  # callers may send a value as their own catalogue has it, with markup
        values = [*values, *plain(pl.Series(values, dtype=pl.String))]
    if isinstance(kind, pl.List):
        return column.cast(pl.List(common)).list.eval(pl.element().is_in(values)).list.any()
    return column.cast(common).is_in(pl.lit(pl.Series(values, dtype=common).implode()))
