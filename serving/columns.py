"""Coerce JSON values to the catalogue's column types.

In: bodies of items, as the API takes them and the store keeps them. Out: a table in the catalogue's types.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from features.data.markup import plain_items
from recsys.errors import RecsysError

TEXT = (pl.String, pl.Categorical, pl.Enum)


MAX_COLUMNS = 500
"""Columns up to which a catalogue gets one for an attribute that it lacks."""


class UnfitError(RecsysError):
    """A value that the column of its name cannot hold, or one column too many."""


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


def kind_of(value: Any) -> pl.DataType | None:
    """Return the type of a column for a JSON value; None where it has no value."""
    if isinstance(value, list):
        return pl.List(pl.String())
    if isinstance(value, bool):
        return pl.Boolean()
    return None if value is None else pl.String() if isinstance(value, str) else pl.Float64()


def with_attributes(schema: Mapping[str, pl.DataType], bodies: Sequence[Mapping[str, Any]]) -> dict[str, pl.DataType]:
    """Return `schema` with a column for every further attribute of the items, in the type of its first value.

    There are at most `MAX_COLUMNS`; attributes beyond them have none, nor have those whose names begin with `_`.
    """
    kinds = dict(schema)
    for body in bodies:
        for name, value in body.items():
            kind = kind_of(value)
            if name not in kinds and kind and not name.startswith("_") and len(kinds) < MAX_COLUMNS:
                kinds[name] = kind
    return kinds


def items_table(bodies: Sequence[Mapping[str, Any]], schema: Mapping[str, pl.DataType]) -> pl.DataFrame:
    """Return items as a table with those columns of `schema` that any of them names, texts plain; what does not fit is null."""
    known = {name: kind for name, kind in schema.items() if any(name in body for body in bodies)}
    columns = [pl.Series(name, [held(body.get(name), kind) for body in bodies], kind) for name, kind in known.items()]
    return plain_items(pl.DataFrame(columns))


def refuse_unfit(bodies: Sequence[Mapping[str, Any]], schema: Mapping[str, pl.DataType]) -> None:
    """Refuse items with a value that its column cannot hold; attributes without a column get one (see `with_attributes`).

    Raises:
        UnfitError: with the first such value, or the first attribute for which there is no column left.
    """
    kinds = with_attributes(schema, bodies)
    for body in bodies:
        for name, value in body.items():
            if value is None:
                continue
            if name not in kinds:
                raise UnfitError(
                    f"items: {name!r} of {body['item_id']!r} would be more than {MAX_COLUMNS} columns; "
                    "use the attributes that there are, or put it into tags"
                )
            if held(value, kinds[name]) is None:
                raise UnfitError(
                    f"items: {str(value)[:50]!r} of {body['item_id']!r} for {name!r}, which holds {kinds[name]} here; "
                    "send values of one type, or another attribute"
                )
