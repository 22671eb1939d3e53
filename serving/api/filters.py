"""Which items of a catalogue a request's filters leave.

In: the items and `Filters`. Out: a mask `[N]`.
"""

from typing import Any

import numpy as np
import polars as pl

from recsys.arrays import Bools
from recsys.errors import RecsysError, suggest
from serving.api.schemas import Filters, Range
from serving.columns import json_types


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
    values, fits = wanted if isinstance(wanted, list) else [wanted], json_types(kind)
    wrong = [value for value in values if not isinstance(value, fits) or (isinstance(value, bool) and bool not in fits)]
    if wrong:
        raise FilterError(f"filters.attributes.{name}: {wrong[:1]} sent, but the items hold {kind}")
    plain = pl.Float64() if float in fits else pl.Boolean() if bool in fits else pl.String()
    if isinstance(kind, pl.List):
        return column.cast(pl.List(plain)).list.eval(pl.element().is_in(values)).list.any()
    return column.cast(plain).is_in(pl.lit(pl.Series(values, dtype=plain).implode()))
