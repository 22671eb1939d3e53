"""Coerce JSON values to the catalogue's column types.

In: bodies of items, as the API takes them and the store keeps them. Out: a table in the catalogue's types.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from features.data.markup import plain_items
from recsys.errors import RecsysError

TEXT = (pl.String, pl.Categorical, pl.Enum)


class UnfitError(RecsysError):
    """A value that the column of its name cannot hold."""


def json_types(kind: pl.DataType) -> tuple[type, ...]:
    """Return the Python types of the values, or of the elements of the lists, that a column of `kind` takes."""
    element = kind.inner if isinstance(kind, pl.List) else kind
    if element == pl.Boolean:
        return (bool,)
    return (int, float) if element.is_numeric() else (str,) if element in TEXT else ()


def held(value: Any, kind: pl.DataType) -> Any:
    """Return `value` if a column of `kind` can hold it, else None."""
    if isinstance(value, list) != isinstance(kind, pl.List):
        return None
    types, values = json_types(kind), value if isinstance(value, list) else [value]
    if not all(isinstance(one, types) and (bool in types or not isinstance(one, bool)) for one in values):
        return None
    if int not in types or isinstance(value, list):
        return value
    number = pl.Series([value], dtype=kind, strict=False)[0]
    return number if number == value or kind.is_float() else None


def items_table(bodies: Sequence[Mapping[str, Any]], schema: Mapping[str, pl.DataType]) -> pl.DataFrame:
    """Return items as a table with those columns of `schema` that any of them names, texts plain; what does not fit is null."""
    known = {name: kind for name, kind in schema.items() if any(name in body for body in bodies)}
    columns = [pl.Series(name, [held(body.get(name), kind) for body in bodies], kind) for name, kind in known.items()]
    return plain_items(pl.DataFrame(columns))


def refuse_unfit(bodies: Sequence[Mapping[str, Any]], schema: Mapping[str, pl.DataType]) -> None:
    """Refuse items with a value that its column cannot hold.

    Raises:
        UnfitError: with the first such value.
    """
    for body in bodies:
        for name, value in body.items():
            if name in schema and value is not None and held(value, schema[name]) is None:
                raise UnfitError(
                    f"items: {str(value)[:50]!r} of {body['item_id']!r} for {name!r}, which holds {schema[name]} here"
                )
