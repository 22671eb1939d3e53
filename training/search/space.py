"""What a search varies: keys of the configuration, each with the values that it may take.

In: a TOML file, or the name of a ready-made space, and the configuration that the search begins with. Out: a `Space`.

    [ranker]
    leaves = {low = 3, high = 31, log = true}
    [sources]
    lexical = [0, 20, 40]

A space varies the interest model, or what follows it: then the interest model is fitted once for all trials. It always holds the
configuration's own values.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from recsys.config import Config, read_toml, refuse_unknown
from recsys.errors import RecsysError, first_problem

Kind = Literal["ranker", "interest"]
"""What is fitted in a trial."""

SECTIONS: dict[str, Kind] = {
    "interest": "interest",
    "encoder": "interest",
    "taste": "ranker",
    "sources": "ranker",
    "ranker": "ranker",
    "value": "ranker",
    "lists": "ranker",
}
FIXED = {
    "data": "it decides which requests are measured",
    "compute": "it decides where training runs",
    "encoder.name": "trials share what the text encoder reads",
    "encoder.max_tokens": "trials share what the text encoder reads",
    "encoder.precision": "trials share what the text encoder reads",
    "ranker.slice_share": "trials share the interest model that is fitted before it",
    "ranker.context": "trials share the events that are read",
    "ranker.user_attributes": "trials share the events that are read",
}
"""Sections and keys that no search varies, and why."""

OF_KIND: dict[str, tuple[str, ...]] = {
    "lightgbm": ("ranker.leaves", "ranker.trees", "ranker.learning_rate"),
    "torchrec": ("ranker.learning_rate", "ranker.weight_decay", "ranker.hidden", "ranker.dropout"),
}
OF_INTEREST = (
    "interest.learning_rate",
    "interest.weight_decay",
    "interest.dropout",
    "interest.id_dropout",
    "interest.purchase_weight",
    "interest.impression_weight",
    "interest.temperature",
)
SHARES = ("interest.dropout", "interest.id_dropout", "ranker.dropout")
HIGHEST_SHARE = 0.8
FACTOR = 4
"""A ready-made space reaches from a quarter of a key's value to four times it."""


@dataclass(frozen=True)
class Choices:
    """Some values."""

    values: tuple[Any, ...]

    def including(self, value: Any) -> "Choices":
        """Return the same with `value`."""
        return self if value in self.values else Choices((value, *self.values))

    @property
    def examples(self) -> tuple[Any, ...]:
        """Values that are valid where all are."""
        return self.values

    @property
    def labels(self) -> list[str]:
        """The values as texts: a sampler knows no lists."""
        return [json.dumps(value) for value in self.values]


@dataclass(frozen=True)
class Range:
    """All numbers from `low` to `high`."""

    low: float
    high: float
    log: bool = False
    """Whether a step is a factor."""
    whole: bool = False

    def including(self, value: float) -> "Range":
        """Return the same with `value`."""
        return replace(self, low=min(self.low, value), high=max(self.high, value))

    @property
    def examples(self) -> tuple[Any, ...]:
        """Values that are valid where all are."""
        return self.low, self.high


Space = Mapping[str, Choices | Range]
"""By key, as `ranker.leaves`."""


def read_space(name: str, config: Config) -> Space:
    """Return the space `ranker` or `interest` around the values of `config`, or that of the TOML file `name`.

    Raises:
        RecsysError: the file is missing or not TOML, a key is unknown or not to be searched, or a value is wrong.
    """
    if name in ("ranker", "interest"):
        space: Space = {key: _around(key, value) for key, value in _ready_made(name, config).items()}
    else:
        space = _parsed(read_toml(Path(name)), name, config)
    return {key: domain.including(value_of(config, key)) for key, domain in space.items()}


def kind_of(space: Space) -> Kind:
    """Return what a trial fits anew."""
    return SECTIONS[next(iter(space)).partition(".")[0]]


def value_of(config: Config, key: str) -> Any:
    """Return the value of a key, as `ranker.leaves`."""
    section, _, name = key.partition(".")
    return getattr(getattr(config, section), name)


def labelled(space: Space, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of the keys of `space` with labels in place of choices."""
    return {
        key: json.dumps(parameters[key]) if isinstance(domain, Choices) else parameters[key]
        for key, domain in space.items()
    }


def unlabelled(space: Space, labels: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `labelled` was made of; lists in place of tuples."""
    return {
        key: json.loads(labels[key]) if isinstance(domain, Choices) else labels[key] for key, domain in space.items()
    }


def with_values(config: Config, parameters: Mapping[str, Any]) -> Config:
    """Return `config` with other values of some keys.

    Raises:
        RecsysError: a value is wrong.
    """
    raw = config.model_dump()
    for key, value in parameters.items():
        section, _, name = key.partition(".")
        raw[section][name] = value
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        raise RecsysError(first_problem(error)) from error


def _ready_made(name: str, config: Config) -> dict[str, Any]:
    """Return the keys that a ready-made space varies, with their values; what is turned off stays off."""
    quotas = tuple(f"sources.{source}" for source, quota in config.sources if quota)
    keys = OF_INTEREST if name == "interest" else (*OF_KIND[config.ranker.kind], *quotas)
    return {key: value for key in keys if (value := value_of(config, key))}


def _around(key: str, value: float) -> Range:
    if key in SHARES:
        return Range(0.0, min(2 * value, HIGHEST_SHARE))
    if isinstance(value, int):
        return Range(max(min(2, value), value // FACTOR), value * FACTOR, log=True, whole=True)
    return Range(value / FACTOR, value * FACTOR, log=True)


def _parsed(raw: dict[str, Any], where: str, config: Config) -> Space:
    refuse_unknown(raw, where)
    space = {
        f"{section}.{key}": _domain(f"{where}: {section}.{key}", value, value_of(config, f"{section}.{key}"))
        for section, body in raw.items()
        for key, value in body.items()
    }
    if not space:
        raise RecsysError(f"{where}: no keys; write for example [ranker] and leaves = [7, 15] below it")
    _refuse_fixed(space, where)
    for key, domain in space.items():
        for value in domain.examples:
            try:
                with_values(config, {key: value})
            except RecsysError as error:
                raise RecsysError(f"{where}: {error}") from error
    return space


def _domain(where: str, raw: Any, value: Any) -> Choices | Range:
    """Return what `raw` says for a key whose value is now `value`."""
    if isinstance(raw, list) and raw:
        return Choices(tuple(tuple(choice) if isinstance(choice, list) else choice for choice in raw))
    if not isinstance(raw, dict) or not {"low", "high"} <= raw.keys() <= {"low", "high", "log"}:
        raise RecsysError(f"{where}: write [value, value, …] or {{low = …, high = …, log = true}} (got {raw!r})")
    low, high, log = raw["low"], raw["high"], raw.get("log", False)
    kind = int if isinstance(value, int) else float
    if isinstance(value, bool | str | tuple) or not all(_is_a(kind, bound) for bound in (low, high)):
        raise RecsysError(f"{where}: not a range of {kind.__name__} numbers (got {raw!r}); write [value, value, …]")
    if not isinstance(log, bool) or not low < high or (log and low <= 0):
        raise RecsysError(f"{where}: low must be below high, and above 0 where log is true (got {raw!r})")
    return Range(low, high, log, whole=kind is int)


def _is_a(kind: type, value: Any) -> bool:
    return isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)


def _refuse_fixed(space: Space, where: str) -> None:
    for key in space:
        for name in (key, key.partition(".")[0]):
            if name in FIXED:
                raise RecsysError(f"{where}: {key} is not searched, since {FIXED[name]}; set it with --set")
    kinds = {SECTIONS[key.partition(".")[0]]: key for key in space}
    if len(kinds) > 1:
        raise RecsysError(
            f"{where}: {kinds['interest']} is of the interest model and {kinds['ranker']} of what follows it; "
            "search one after the other, the second with --config of the first one's result"
        )
