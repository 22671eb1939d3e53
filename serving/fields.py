"""Fields that requests and scenarios share: ids, words and numbers, conditions on items, what an event is worth."""

import math
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from recsys.errors import suggest
from recsys.schema import ID_PATTERN, MAX_ID
from serving.filters import Between, Condition

MAX_WORTH = 1e6


def _finite(number: float) -> float:
    if not math.isfinite(number):
        raise ValueError("must be finite")
    return number


Id = Annotated[str, StringConstraints(min_length=1, max_length=MAX_ID, pattern=ID_PATTERN)]
Word = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[^\x00]+$")]
Number = Annotated[float, AfterValidator(_finite)]


class Part(BaseModel):
    """Base of the parts of scenarios and experiments: an unknown key is refused by naming the nearest known one."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _only_known(cls, raw: Any) -> Any:
        unknown = [key for key in raw if key not in cls.model_fields] if isinstance(raw, dict) else []
        if unknown:
            raise ValueError(f"unknown key {unknown[0]!r}{suggest(str(unknown[0]), list(cls.model_fields))}")
        return raw


class Range(Part):
    """A closed interval of numbers."""

    min: Number | None = None
    max: Number | None = None


class Filters(Part):
    """Conditions on the items of a list. All of them must hold; of several values, one."""

    category: Word | Annotated[list[Word], Field(min_length=1, max_length=100)] | None = None
    brand: Word | Annotated[list[Word], Field(min_length=1, max_length=100)] | None = None
    price: Range | None = None
    attributes: Annotated[
        dict[
            Word,
            bool | Number | Word | Annotated[list[bool | Number | Word], Field(min_length=1, max_length=100)] | Range,
        ],
        Field(max_length=20),
    ] = {}
    """Any other column of the items: a value, several values, or a range; of a column of lists, an element."""

    def conditions(self) -> dict[str, Condition]:
        """Return the conditions by column, as `serving.filters` represents them."""
        stated = {name: getattr(self, name) for name in ("category", "brand", "price") if getattr(self, name)}
        return {
            name: Between(value.min, value.max) if isinstance(value, Range) else value
            for name, value in {**self.attributes, **stated}.items()
        }


class Worth(Part):
    """What a click and a purchase are worth in this list, in place of the model's `value.click` and `value.purchase`."""

    click: Annotated[Number, Field(ge=0, le=MAX_WORTH)]
    purchase: Annotated[Number, Field(ge=0, le=MAX_WORTH)]

    @model_validator(mode="after")
    def _not_nothing(self) -> "Worth":
        if not self.click + self.purchase:
            raise ValueError("click and purchase are both 0, which leaves nothing to sort by")
        return self
