"""What the API takes: every value within the documentation, and a ValidationError for any other."""

import json
import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter, ValidationError

from features.data.validate import blank, wrong_id
from serving.api import schemas

BODIES: list[type[BaseModel]] = [
    schemas.RecommendRequest,
    schemas.RankRequest,
    schemas.SearchRequest,
    schemas.EventsRequest,
    schemas.ItemsRequest,
]
PARTS: list[type[BaseModel]] = [schemas.Event, schemas.Item, schemas.Filters, schemas.Range]
NAMES = sorted({name for body in BODIES + PARTS for name in body.model_fields})
FAR = timedelta(hours=23, minutes=59)

text = st.text(max_size=30)
ids = st.from_regex(r"\A[^\x00-\x1f\x7f]{1,20}\Z").filter(str.strip)
zones = st.timedeltas(-FAR, FAR).map(lambda offset: timezone(timedelta(minutes=offset // timedelta(minutes=1))))
moments = st.one_of(
    st.integers(-schemas.MAX_TIME, schemas.MAX_TIME),
    st.datetimes(timezones=st.none() | zones).map(datetime.isoformat),
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES) | text, inner, max_size=4),
    max_leaves=12,
)
events = st.fixed_dictionaries(
    {"user_id": ids, "item_id": ids},
    optional={
        "event_id": ids | st.none(),
        "event_type": st.sampled_from(["impression", "view", "purchase"]),
        "timestamp": moments | st.none(),
        "value": st.floats(allow_nan=False, allow_infinity=False),
        "position": st.integers(1, 100_000),
    },
)
items = st.fixed_dictionaries(
    {"item_id": ids, "title": st.from_regex(r"\A[^\x00]{1,20}\Z").filter(str.strip)},
    optional={
        "tags": st.lists(ids, max_size=3),
        "price": st.floats(0, allow_nan=False, allow_infinity=False),
        "created_at": moments,
        "attributes": st.dictionaries(st.sampled_from(["size", "flag"]), st.booleans() | st.floats(-1e9, 1e9) | ids),
    },
)


@given(anything, st.sampled_from(BODIES))
def test_whatever_is_sent_is_taken_or_a_validation_error(sent: Any, body: type[BaseModel]) -> None:
    """Nothing else is ever raised."""
    try:
        body.model_validate(sent)
    except ValidationError as error:
        assert error.errors(include_input=False)


@given(st.dictionaries(st.sampled_from(NAMES), anything, max_size=6), st.sampled_from(BODIES))
def test_known_names_with_any_values_are_taken_or_a_validation_error(sent: Any, body: type[BaseModel]) -> None:
    """What is taken comes back from its own JSON as the same."""
    try:
        taken = body.model_validate(sent)
    except ValidationError:
        return
    assert body.model_validate(json.loads(taken.model_dump_json())) == taken


@given(
    st.lists(events, min_size=1, max_size=5), st.lists(items, min_size=1, max_size=3, unique_by=lambda i: i["item_id"])
)
def test_what_is_within_the_limits_is_taken_and_comes_back(some: Any, others: Any) -> None:
    """Through JSON and back, nothing lost."""
    for body, sent in ((schemas.EventsRequest, {"events": some}), (schemas.ItemsRequest, {"items": others})):
        taken = body.model_validate(json.loads(json.dumps(sent)))
        assert body.model_validate(json.loads(taken.model_dump_json())) == taken
        for made, one in zip(next(iter(taken))[1], next(iter(sent.values())), strict=True):
            assert {name: getattr(made, name) for name in one if name not in ("timestamp", "created_at")} == {
                name: value for name, value in one.items() if name not in ("timestamp", "created_at")
            }


@given(moments)
def test_a_moment_that_is_taken_is_an_exact_number_within_bounds(sent: str | int) -> None:
    """To the microsecond, also in the years 1 and 9999 and far from Greenwich; without a zone it is UTC."""
    taken: Any = TypeAdapter(schemas.Moment).validate_python(sent)
    time = schemas.microseconds(taken)
    assert time is not None and abs(time) <= schemas.MAX_TIME
    if isinstance(sent, int):
        assert time == sent
    else:
        moment = datetime.fromisoformat(sent)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        assert timedelta(microseconds=time) == moment - datetime(1970, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "wrong", [1.5, 1.7e12, "1702000000", "1.5", "", "now", True, [], 2**60 + 1, -(2**60) - 1, 10**400]
)
def test_a_moment_that_could_be_read_in_two_ways_is_refused(wrong: Any) -> None:
    """A number with a fraction, or in a text, might be seconds, milliseconds or microseconds."""
    with pytest.raises(ValidationError):
        TypeAdapter(schemas.Moment).validate_python(wrong)


@given(st.floats() | st.integers() | st.booleans())
def test_a_number_that_is_taken_is_finite(sent: float) -> None:
    """Also those that are too large for 64 bits."""
    try:
        taken = schemas.Range(min=sent)
    except ValidationError:
        return
    assert taken.min is not None and math.isfinite(taken.min)


@pytest.mark.parametrize("name", ["item_id", "title", "tags", "price", "created_at"])
def test_an_attribute_cannot_stand_for_a_field(name: str) -> None:
    """The field of that name has rules of its own."""
    with pytest.raises(ValidationError, match=f"'{name}', which is a field"):
        schemas.Item(item_id="i", title="t", attributes={name: "x"})


@settings(max_examples=30)
@given(st.integers(-5, 1500), st.integers(-5, 250))
def test_limits_are_those_of_the_documentation(count: int, k: int) -> None:
    """One more is too many."""
    sent = {"history": [f"i{row}" for row in range(count)], "k": k}
    try:
        schemas.RecommendRequest.model_validate(sent)
        taken = True
    except ValidationError:
        taken = False
    assert taken == (count <= schemas.MAX_HISTORY and 1 <= k <= schemas.MAX_K)


@pytest.mark.parametrize("title", ["", "  ", "<br>", "&nbsp;", "<style>p {}</style>"])
def test_a_title_without_anything_to_see_is_refused(title: str) -> None:
    """The check of datasets refuses it, too, so that what is exported can be trained on."""
    with pytest.raises(ValidationError, match="title"):
        schemas.ItemsRequest(items=[schemas.Item(item_id="i", title=title)])


@given(st.text(max_size=260))
def test_an_id_is_taken_by_the_api_where_the_check_of_datasets_takes_it(text: str) -> None:
    """One rule for both."""
    frame = pl.DataFrame({"user_id": [text]})
    refused = frame.select(blank("user_id") | wrong_id("events", "user_id").broken).item()
    try:
        TypeAdapter(schemas.Id).validate_python(text)
        taken = True
    except ValidationError:
        taken = False
    assert taken == (not refused)
