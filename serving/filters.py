"""Which items of a catalogue a request's filters leave.

In: the items and `Filters`. Out: a mask `[N]`.
"""

from typing import Any

import numpy as np
import polars as pl

from recsys.errors import RecsysError, suggest
from serving.bodies import Filters, Range
from serving.sources import Bools


class FilterError(RecsysError):
    """A filter that the catalogue cannot answer."""


def matching(items: pl.DataFrame, filters: Filters) -> Bools:
    """Return which rows of `items` pass every filter; unknown values pass none.

    Raises:
        FilterError: no such attribute, or a value of another kind than the attribute's.
    """
    wanted: dict[str, Any] = dict(filters.attributes)
    wanted |= {name: getattr(filters, name) for name in ("category", "brand", "price") if getattr(filters, name)}
    unknown = sorted(set(wanted) - set(items.columns))
    if unknown:
        raise FilterError(f"filters.attributes: the items have no {unknown[0]!r}{suggest(unknown[0], items.columns)}")
    mask = np.ones(items.height, bool)
    for name, value in wanted.items():
        mask &= items.select(_passes(name, items.schema[name], value).fill_null(False)).to_series().to_numpy()
    return mask


def _passes(name: str, kind: pl.DataType, wanted: Any) -> pl.Expr:
    column = pl.col(name)
    if isinstance(wanted, Range):
        if not kind.is_numeric():
            raise FilterError(f"filters.attributes.{name}: a range, but the items hold {kind}; send values")
        low = pl.lit(True) if wanted.min is None else column >= wanted.min
        return low & (pl.lit(True) if wanted.max is None else column <= wanted.max) & column.is_not_null()
    values = wanted if isinstance(wanted, list) else [wanted]
    element = kind.inner if isinstance(kind, pl.List) else kind
    fits = bool if element == pl.Boolean else (int, float) if element.is_numeric() else str
    wrong = [value for value in values if not isinstance(value, fits) or (fits is not bool and value is True)]
    if wrong or not (element == pl.Boolean or element == pl.String or element.is_numeric()):
        raise FilterError(f"filters.attributes.{name}: {wrong[:1] or values[:1]} sent, but the items hold {kind}")
    allowed = pl.lit(pl.Series(values, dtype=pl.Float64 if element.is_numeric() else element).implode())
    if isinstance(kind, pl.List):
        return column.list.eval(pl.element().is_in(values)).list.any()
    return (column.cast(pl.Float64) if element.is_numeric() else column).is_in(allowed)
