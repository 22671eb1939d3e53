"""What a scenario says, and its file.

In: a TOML or JSON file, for example

    diversity = 0.2
    filters = {price = {max = 100}}
    boosts = [{factor = 1.5, where = {category = "skincare"}}]
    pins = [{position = 1, item = "i000042"}]
    promotions = [{share = 0.2, where = {brand = "Nordlys"}}]

Out: a `Scenario`. An unknown key is an error that names the nearest known one.
"""

import json
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, StringConstraints, ValidationError, field_validator, model_validator

from recsys.config import SourcesConfig
from recsys.errors import RecsysError, suggest
from serving.fields import Filters, Id, Number, Part, Worth

LONGEST = 1000
"""The last position that rules name."""
MOST_RULES = 100
"""Boosts, pins or promotions of one scenario."""

NAME_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,63}$"
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
Position = Annotated[int, Field(ge=1, le=LONGEST)]


EXAMPLE: dict[str, Any] = {
    "diversity": 0.2,
    "filters": {"price": {"max": 100}},
    "boosts": [{"factor": 1.5, "where": {"category": "skincare"}}],
    "pins": [{"position": 1, "item": "i000042"}],
    "promotions": [{"share": 0.2, "where": {"brand": "Nordlys"}}],
}
"""What the documentation of the API shows."""


class ScenarioError(RecsysError):
    """A scenario that says something impossible, or is not there."""


class Boost(Part):
    """A factor on the score of the items that pass `where`."""

    factor: Annotated[Number, Field(gt=0, le=1000)]
    """Above 1 lifts, below 1 lowers."""
    where: Filters


class Pin(Part):
    """An item at a position, whatever its score and whoever looks."""

    position: Position
    """From 1; a shorter list does without."""
    item: Id


class Promotion(Part):
    """Positions for an item, or for the items that pass `where`, best first."""

    item: Id | None = None
    within: Position | None = None
    """The last position at which `item` may stand; higher up if its score earns it."""
    where: Filters | None = None
    share: Annotated[Number, Field(gt=0, le=1)] | None = None
    """Of the first n positions, for each n, at least this share rounded down holds items that pass `where`."""

    @model_validator(mode="after")
    def _one_kind(self) -> "Promotion":
        given = {name for name in ("item", "within", "where", "share") if getattr(self, name) is not None}
        if given not in ({"item", "within"}, {"where", "share"}):
            raise ValueError("give item and within, or where and share; for example {item = 'i1', within = 5}")
        return self


class Scenario(Part):
    """How one kind of list is made; what is left out is as the model has it."""

    sources: dict[str, Annotated[int, Field(ge=0, le=2000)]] = Field(default_factory=dict)
    """Items that candidate sources propose, in place of the configuration's `sources`; 0 turns one off."""
    filters: Filters | None = None
    """Only items that pass."""
    boosts: Annotated[tuple[Boost, ...], Field(max_length=MOST_RULES)] = ()
    """An item that several boosts hold for gets the product of their factors."""
    pins: Annotated[tuple[Pin, ...], Field(max_length=MOST_RULES)] = ()
    """Items at fixed positions."""
    promotions: Annotated[tuple[Promotion, ...], Field(max_length=MOST_RULES)] = ()
    """Items that get positions by rule."""
    per_brand: int | None = Field(None, ge=0)
    """Maximum items of one brand; 0 sets no limit. Pins count and are not left out."""
    per_category: int | None = Field(None, ge=0)
    """Maximum items of one category."""
    diversity: Annotated[Number, Field(ge=0, le=1)] | None = None
    """Weight of dissimilarity to the items above."""
    value: Worth | None = None
    """What a click and a purchase are worth."""
    explore: Annotated[Number, Field(ge=0, le=0.5)] | None = None
    """Probability that a position is given to a new item; pins and promoted items are left alone."""
    exclude_seen: bool | None = None
    """Whether items of the history are left out; pins are not."""
    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    @field_validator("sources")
    @classmethod
    def _known_sources(cls, sources: dict[str, int]) -> dict[str, int]:
        known = list(SourcesConfig.model_fields)
        for name in sources:
            if name not in known:
                raise ValueError(f"unknown source {name!r}{suggest(name, known)}")
        return sources

    @model_validator(mode="after")
    def _possible(self) -> "Scenario":
        if len({pin.position for pin in self.pins}) < len(self.pins):
            raise ValueError("pins: two have the same position; keep one of them")
        if len({pin.item for pin in self.pins}) < len(self.pins):
            raise ValueError("pins: two have the same item; keep one of them")
        total = sum(promotion.share or 0 for promotion in self.promotions)
        if total > 1 + 1e-9:
            raise ValueError(f"promotions: their shares add up to {total:g}; together they may have 1 at most")
        return self

    def as_json(self) -> dict[str, Any]:
        """Return what is said, without what is left out."""
        return self.model_dump(mode="json", exclude_defaults=True)


def parse(raw: object, where: str) -> Scenario:
    """Return the scenario that `raw` says; `where` comes first in messages.

    Raises:
        ScenarioError: a key is unknown, or a value is wrong.
    """
    try:
        return Scenario.model_validate(raw)
    except ValidationError as error:
        problem = error.errors()[0]
        keys = ".".join(str(part) for part in problem["loc"])
        reason = problem["msg"].removeprefix("Value error, ")
        raise ScenarioError(f"{where}: {keys}: {reason}" if keys else f"{where}: {reason}") from error


def read_scenario(path: Path) -> Scenario:
    """Read a TOML file, or a JSON file if it ends in `.json`.

    Raises:
        ScenarioError: there is no such file, it is not of its kind, or what it says is wrong.
    """
    loads = json.loads if path.suffix == ".json" else tomllib.loads
    try:
        raw = loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ScenarioError(f"{path}: no such file; docs/scenarios.md has examples") from error
    except (ValueError, OSError) as error:
        kind = "JSON" if path.suffix == ".json" else "TOML"
        raise ScenarioError(f"{path}: not a readable {kind} file ({error})") from error
    return parse(raw, str(path))


def checked_name(name: str) -> str:
    """Return a name that a scenario may have.

    Raises:
        ScenarioError: it may not.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise ScenarioError(
            f"{name!r} is no name of a scenario; write lower-case letters, digits, - and _, as in home-2"
        )
    return name
