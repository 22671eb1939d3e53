"""The form of the page: the query of `GET /`, and the requests of the API that it stands for."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from recsys.config import Config, ValueConfig
from recsys.errors import RecsysError, first_problem
from serving.api import schemas
from serving.filters import Between, Condition, read_conditions
from serving.scenarios.definition import Name

WHERE = "conditions: "
"""What messages about the conditions begin with."""
LONGEST = 50
"""The longest list that the page shows."""


class FormError(RecsysError):
    """A field that cannot be what it is."""


class PageForm(BaseModel):
    """What was filled in; fields that were left empty are absent."""

    model_config = ConfigDict(frozen=True)

    user: schemas.Id | None = None
    text: Annotated[schemas.Text, Field(min_length=1, max_length=500)] | None = None
    """A typed sentence."""
    item: schemas.Id | None = None
    """An item whose neighbours are listed, instead of a list for somebody."""
    mode: Literal["recommend", "search"] = "recommend"
    """Whether the sentence is the user's latest interest, or what is searched for."""
    scenario: Name | None = None
    """The kind of list."""
    k: Annotated[int, Field(ge=1, le=LONGEST)] = 12
    diversity: Annotated[float, Field(ge=0, le=1)] | None = None
    purchases: Annotated[int, Field(ge=0, le=100)] | None = None
    """The share of a purchase in the worth of a click and a purchase, in percent."""
    category: schemas.Word | None = None
    price_min: schemas.Number | None = None
    price_max: schemas.Number | None = None
    conditions: Annotated[str, Field(max_length=1000)] | None = None
    """Further conditions on items, separated by semicolons, each as `recsys recommend --where` reads it."""
    models: Literal["both", "serving"] = "both"
    """Whether the compared model is shown too, where there is one."""

    @classmethod
    def read(cls, query: Mapping[str, str]) -> tuple[Self, str]:
        """Return the form of a query, and what is wrong with it, if anything is; a wrong field is left out."""
        given = {name: value for name, value in query.items() if value.strip()}
        try:
            return cls.model_validate(given), ""
        except ValidationError as error:
            wrong = {problem["loc"][0] for problem in error.errors()}
            return cls.model_validate({name: given[name] for name in given.keys() - wrong}), first_problem(error)

    @property
    def searches(self) -> bool:
        """Whether the list is what the sentence finds."""
        return self.mode == "search" and self.text is not None

    def without_defaults(self, config: Config) -> Self:
        """Return the form without what the model of `config` does by itself, so that each model does as its own says."""
        own = {"diversity": round(config.lists.diversity, 2), "purchases": percent_of_purchases(config.value)}
        return self.model_copy(update={name: None for name, value in own.items() if getattr(self, name) == value})

    def recommend_request(self, items: pl.DataFrame, value: ValueConfig) -> schemas.RecommendRequest:
        """Return the request for a list of `items` from a model of this `value`."""
        return schemas.RecommendRequest(
            user_id=self.user,
            query=self.text,
            scenario=self.scenario,
            k=self.k,
            filters=self._filters(items),
            diversity=self.diversity,
            value=self._worth(value),
            explain=True,
        )

    def search_request(self, items: pl.DataFrame) -> schemas.SearchRequest:
        """Return the request for the `items` that match the sentence."""
        return schemas.SearchRequest(query=self.text or "", k=self.k, filters=self._filters(items))

    def _worth(self, own: ValueConfig) -> schemas.Worth | None:
        if self.purchases is None:
            return None
        both = min(own.click + own.purchase or 1.0, schemas.MAX_WORTH)
        return schemas.Worth(click=both * (100 - self.purchases) / 100, purchase=both * self.purchases / 100)

    def _filters(self, items: pl.DataFrame) -> schemas.Filters | None:
        texts = [text.strip() for text in re.split(r"[;\n]", self.conditions or "") if text.strip()]
        texts += [f"category={self.category}"] if self.category else []
        texts += [f"price>={self.price_min}"] if self.price_min is not None else []
        texts += [f"price<={self.price_max}"] if self.price_max is not None else []
        conditions = read_conditions(texts, items.schema, WHERE)
        try:
            return (
                schemas.Filters(attributes={name: _sent(each) for name, each in conditions.items()}) if texts else None
            )
        except ValidationError as error:
            raise FormError(f"{WHERE}{first_problem(error)}") from error


def percent_of_purchases(value: ValueConfig) -> int:
    """Return what `purchases` is for a model of this `value`."""
    return round(100 * value.purchase / (value.click + value.purchase or 1.0))


def _sent(condition: Condition) -> Any:
    """Return a condition as a request states it."""
    return schemas.Range(min=condition.low, max=condition.high) if isinstance(condition, Between) else condition
