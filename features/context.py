"""What a request comes with besides a history: its circumstances, and the attributes of its user.

In: the columns of events and users that the configuration names. Out: `Named` values of requests, and `ContextColumns`, which
turn them into the ranker's inputs: numbers, and codes of a vocabulary that is fitted on the training events.

Shapes: R requests, E events.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recsys.arrays import Floats, Ints
from recsys.config import RankerConfig
from recsys.errors import RecsysError, suggest
from recsys.schema import EVENT_COLUMNS

Value = str | float | bool | None
"""None where it is not known."""
Named = Mapping[str, NDArray[np.object_]]
"""Values `[R]` by the name of their feature."""

OF_EVENT, OF_USER = "context_", "user_"
"""What stands before a column's name in that of its feature."""
SESSION = "session_id"
"""The column that gives no code, but the features of sessions."""
LEAST_COUNT = 10
"""Training events, or users, that a text must have for a code of its own; rarer ones share that of unknown texts."""


class ContextError(RecsysError):
    """A name or a value of a context that the model does not know."""


@dataclass(frozen=True)
class ContextColumn:
    """A named column, as the ranker gets it."""

    name: str
    """That of the feature."""
    texts: tuple[str, ...] | None = None
    """The texts with a code of their own, from 1; None for a column of numbers."""
    usual: float = 0.0
    """The number that stands for an unknown one."""

    @cached_property
    def _codes(self) -> dict[Value, int]:
        return {text: code for code, text in enumerate(self.texts or (), start=1)}

    @property
    def holds(self) -> str:
        """What the column holds, in words."""
        return "a number" if self.texts is None else "a text"

    def takes(self, value: Value) -> bool:
        """Return whether `value` is of the column's kind, or unknown."""
        return value is None or isinstance(value, str) != (self.texts is None)

    def numbers(self, named: Named, count: int) -> Floats:
        """Return the numbers `[R, 1]` of `count` requests."""
        values = named.get(self.name, (None,) * count)
        numbers = [self.usual if value is None or isinstance(value, str) else value for value in values]
        return np.array(numbers, np.float32)[:, None]

    def codes(self, named: Named, count: int) -> Ints:
        """Return the codes `[R, 1]` of `count` requests; 0 where unknown."""
        values = named.get(self.name, (None,) * count)
        return np.array([self._codes.get(value, 0) for value in values], np.int64)[:, None]


@dataclass(frozen=True)
class ContextColumns:
    """The columns that a ranker knows."""

    columns: tuple[ContextColumn, ...] = ()
    sessions: bool = False
    """Whether it knows sessions."""

    @cached_property
    def texts(self) -> dict[str, ContextColumn]:
        """The columns of texts by name, in the order in which the ranker gets them."""
        return {column.name: column for column in self.columns if column.texts is not None}

    @cached_property
    def numbers(self) -> dict[str, ContextColumn]:
        """The columns of numbers by name, in the order in which the ranker gets them."""
        return {column.name: column for column in self.columns if column.texts is None}

    def named(self, values: Mapping[str, Value], prefix: str, where: str) -> dict[str, Value]:
        """Return `values`, by the names of their columns, by those of their features.

        `where` names them in errors.

        Raises:
            ContextError: the model does not know a name, or a value is of another kind than those of its column.
        """
        self.refuse_other_kinds(values, prefix, where)
        known = self._known(prefix)
        for name in values:
            if name not in known:
                names = f"; it knows {', '.join(known)}" if known else ", or of any other name"
                raise ContextError(f"{where}: the model knows nothing of {name!r}{names}")
        return {prefix + name: value for name, value in values.items()}

    def refuse_other_kinds(self, values: Mapping[str, Value], prefix: str, where: str) -> None:
        """Raise ContextError where a value of a known column is of another kind than the column's."""
        known = self._known(prefix)
        for name, value in values.items():
            if name in known and not known[name].takes(value):
                raise ContextError(f"{where}: {name!r} is {known[name].holds} in this model, not {str(value)[:50]!r}")

    def names(self, prefix: str) -> list[str]:
        """Return the names of the columns whose features begin with `prefix`."""
        return list(self._known(prefix))

    def _known(self, prefix: str) -> dict[str, ContextColumn]:
        return {column.name.removeprefix(prefix): column for column in self.columns if column.name.startswith(prefix)}

    def as_dict(self) -> dict[str, Any]:
        """Return the columns as JSON holds them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> "ContextColumns":
        """Read what `as_dict` returned."""
        columns = [
            ContextColumn(one["name"], None if one["texts"] is None else tuple(one["texts"]), one["usual"])
            for one in saved["columns"]
        ]
        return cls(tuple(columns), saved["sessions"])


@dataclass(frozen=True)
class UserAttributes:
    """The attributes of users."""

    table: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema={"user_id": pl.String}))
    """user_id, and a column per attribute by the name of its feature."""

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {user: row for row, user in enumerate(self.table["user_id"])}

    @cached_property
    def _columns(self) -> dict[str, list[Value]]:
        return {name: self.table[name].to_list() for name in self.table.columns if name != "user_id"}

    def of(self, users: Sequence[str | None]) -> dict[str, NDArray[np.object_]]:
        """Return the attributes of `users`; None where one is not known."""
        rows = [self._rows.get(user or "", -1) for user in users]
        return {name: objects([values[row] if row >= 0 else None for row in rows])
                for name, values in self._columns.items()}  # fmt: skip

    @classmethod
    def read(cls, users: pl.DataFrame | None, config: RankerConfig) -> "UserAttributes":
        """Return those that the configuration names, as far as the table `users` has them."""
        if users is None:
            return cls()
        names = [name for name in config.user_attributes if name in users.columns]
        return cls(users.select("user_id", pl.col(names).name.prefix(OF_USER)))


def objects(values: Sequence[Value]) -> NDArray[np.object_]:
    """Return `values` `[R]` as an array."""
    array = np.empty(len(values), object)
    array[:] = values
    return array


def event_columns(config: RankerConfig, known: Sequence[str]) -> list[str]:
    """Return the columns that the configuration names as circumstances, as far as they are among the `known` ones."""
    return [name for name in config.context if name in known and name != SESSION]


def fit_columns(
    config: RankerConfig, events: Mapping[str, pl.Series], users: Mapping[str, pl.Series]
) -> ContextColumns:
    """Return the columns that the configuration names, fitted on values of training events and of their users."""
    columns = tuple(_fitted(name, series) for name, series in {**events, **users}.items())
    return ContextColumns(columns, SESSION in config.context)


def _fitted(name: str, values: pl.Series) -> ContextColumn:
    if not _is_text(values.dtype):
        numbers = values.cast(pl.Float64).fill_nan(None)
        return ContextColumn(name, None, float(numbers.mean() or 0.0))  # type: ignore[arg-type]
    counted = values.cast(pl.String).drop_nulls().value_counts(name="count")
    frequent = counted.filter(pl.col("count") >= LEAST_COUNT).sort(["count", values.name], descending=[True, False])
    return ContextColumn(name, tuple(frequent[values.name]))


def refuse_unknown_columns(config: RankerConfig, events: pl.Schema, users: pl.Schema | None) -> None:
    """Raise RecsysError where the configuration names context or attributes that are no columns, or hold neither numbers nor texts."""
    usable = [name for name in events.names() if name not in EVENT_COLUMNS or name == SESSION]
    for name in config.context:
        if name in EVENT_COLUMNS and name != SESSION:
            raise RecsysError(f"ranker.context: {name!r} is no circumstance of a request{suggest(name, usable)}")
        if name not in events:
            raise RecsysError(f"ranker.context: the events have no column {name!r}{suggest(name, usable)}")
        _refuse_other_kinds("ranker.context", name, events[name])
    if config.opinion and (config.opinion in EVENT_COLUMNS or config.opinion not in events):
        raise RecsysError(
            f"ranker.opinion: the events have no column {config.opinion!r}{suggest(config.opinion, usable)}; `recsys text score` writes one"
        )
    if config.user_attributes and users is None:
        raise RecsysError("ranker.user_attributes: the dataset has no table of users; add users.csv, or name none")
    of_users = pl.Schema() if users is None else users
    for name in config.user_attributes:
        others = [column for column in of_users if column != "user_id"]
        if name not in others:
            raise RecsysError(f"ranker.user_attributes: the users have no column {name!r}{suggest(name, others)}")
        _refuse_other_kinds("ranker.user_attributes", name, of_users[name])


def _refuse_other_kinds(key: str, name: str, kind: pl.DataType) -> None:
    if not (_is_text(kind) or kind.is_numeric() or kind == pl.Boolean):
        raise RecsysError(f"{key}: the column {name!r} holds {kind}; name a column of texts or numbers")
    if "." in name:
        raise RecsysError(f"{key}: the name {name!r} has a dot; rename the column")


def _is_text(kind: pl.DataType) -> bool:
    return kind in (pl.String, pl.Categorical, pl.Enum)
