"""Requests and responses of the API: pydantic models, with the limits and examples of its documentation."""

import math
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import polars as pl
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, StringConstraints, model_validator

from features.data.markup import plain
from recsys.events import microseconds as exact_microseconds
from recsys.schema import EVENT_COLUMNS, ITEM_COLUMNS
from serving.fields import MAX_WORTH as MAX_WORTH
from serving.fields import Filters as Filters
from serving.fields import Id as Id
from serving.fields import Number as Number
from serving.fields import Range as Range
from serving.fields import Word as Word
from serving.fields import Worth as Worth
from serving.lookup import PastEvent
from serving.scenarios.definition import Name, Scenario

MAX_CANDIDATES = 1000
MAX_HISTORY = 1000
MAX_K = 200
MAX_EXAMPLES = 100
MAX_ROWS = 10
MAX_ROW = 50
MAX_AUDIENCE = 1000
MAX_EVENTS = 1000
MAX_TIMEOUT_MS = 60_000
MAX_ITEMS = 256
MAX_TIME = 1 << 60
"""Microseconds; differences of two times stay within 64 bits."""


def _unambiguous(moment: object) -> object:
    """Return a time that can be read in one way: ISO, or whole microseconds. Seconds would be a guess."""
    if isinstance(moment, str):
        return datetime.fromisoformat(moment.upper())
    if isinstance(moment, int | datetime | None) and not isinstance(moment, bool):
        return moment
    raise ValueError("must be an ISO time or whole microseconds")


Text = Annotated[str, StringConstraints(max_length=20_000, pattern=r"^[^\x00]*$")]
ActionType = Literal["view", "click", "like", "share", "comment", "cart", "purchase", "dislike", "hide"]
"""Every event type but `impression`."""
Named = Annotated[dict[Word, bool | Number | Word], Field(max_length=50)]
"""Values by the name of a column."""
EventType = Literal["impression", ActionType]
Moment = Annotated[datetime | Annotated[int, Field(ge=-MAX_TIME, le=MAX_TIME)], BeforeValidator(_unambiguous)]
"""ISO time (UTC where it names no zone), or microseconds, or the dataset's ordinal."""


def microseconds(moment: datetime | int | None) -> int | None:
    """Return a moment as a number, None for None."""
    if isinstance(moment, datetime):
        return exact_microseconds(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
    return moment


def examples(*bodies: dict[str, Any]) -> ConfigDict:
    """Return the configuration of a body with examples; unknown keys are refused."""
    return ConfigDict(extra="forbid", json_schema_extra={"examples": list(bodies)})


class Body(BaseModel):
    """Base of every request body."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class Answer(BaseModel):
    """Base of every answer, and of its parts."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class HistoryEvent(Body):
    """One event of a history that the caller sends."""

    item_id: Id
    event_type: ActionType = "click"
    timestamp: Moment | None = None
    """Now by default."""
    session_id: Id | None = None

    def past(self) -> PastEvent:
        """Return the event as `serving.lookup` represents it."""
        return PastEvent(self.item_id, self.event_type, microseconds(self.timestamp), self.session_id)


class Context(Body):
    """Circumstances of a request."""

    time: Moment | None = None
    """When the list will be seen; now by default."""
    session_id: Id | None = None
    """The session in which it will be seen: the events of the history that name it count as its events."""
    attributes: Named = {}
    """Values of the columns that the model knows as context, such as a device; what is left out is unknown."""


class Arrival(float):
    """When a request arrived, as `time.monotonic` tells it. All are equal, since it is no part of what a request says."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Arrival)

    __hash__ = float.__hash__


class ListRequest(Body):
    """Whom the list is for: a user, or a history (oldest event first) that replaces what is known of the user."""

    user_id: Id | None = None
    history: Annotated[list[Id | HistoryEvent], Field(max_length=MAX_HISTORY)] | None = None
    context: Context | None = None
    timeout_ms: int | None = Field(None, ge=1, le=MAX_TIMEOUT_MS)
    """Milliseconds after which what has not begun is left out of the answer (see `degraded`); by default the server's own."""
    _arrived: Arrival = PrivateAttr(default_factory=lambda: Arrival(time.monotonic()))

    def deadline(self, timeout_ms: int | None) -> float:
        """Return when the answer is to be ready, as `time.monotonic` tells it; `timeout_ms` is the server's own."""
        own = self.timeout_ms or timeout_ms
        return math.inf if own is None else self._arrived + own / 1000


class RecommendRequest(ListRequest):
    """A request for a list."""

    query: Annotated[Text, Field(min_length=1, max_length=500)] | None = None
    """A typed sentence; it counts as the latest event of the history."""
    scenario: Name | None = None
    """The kind of list, one of the scenarios that are on; what the request says itself goes before it."""
    k: int = Field(20, ge=1, le=MAX_K)
    filters: Filters | None = None
    exclude_seen: bool | None = None
    """Whether items of the history are left out; by default the model decides."""
    diversity: float | None = Field(None, ge=0, le=1)
    """Weight of dissimilarity to the items above; by default the model's own."""
    value: Worth | None = None
    """What the list is sorted by; by default the model's own."""
    explain: bool = False
    after: Id | None = None
    """The `request_id` of a list: this is its next page, without its items and those of the pages before it."""
    like: Annotated[list[Id], Field(min_length=1, max_length=MAX_EXAMPLES)] | None = None
    """Items that the list should be like: they take the place of the history, and are not in the list."""
    unlike: Annotated[list[Id], Field(max_length=MAX_EXAMPLES)] = []
    """Items that the list should not be like: what is similar to one loses score, and they are not in the list."""
    model_config = examples(
        {"user_id": "u000001", "k": 5},
        {"history": ["i000001", "i000002"], "k": 5, "diversity": 0.3},
        {"user_id": "u000001", "scenario": "home"},
        {"query": "a warm jacket for hiking", "filters": {"price": {"max": 100}}, "explain": True},
        {"like": ["i000001", "i000002"], "unlike": ["i000003"], "k": 5},
    )

    @model_validator(mode="after")
    def _one_past(self) -> "RecommendRequest":
        if self.like is not None and self.history is not None:
            raise ValueError(
                "like and history are both there, and like takes the place of the history; send one of them"
            )
        return self


class ScenarioSwitch(Body):
    """Whether a scenario is on, and in which version."""

    on: bool
    version: int | None = Field(None, ge=1, le=1_000_000)
    """The latest by default."""
    model_config = examples({"on": True}, {"on": True, "version": 2}, {"on": False})

    @model_validator(mode="after")
    def _version_of_what_is_on(self) -> "ScenarioSwitch":
        if not self.on and self.version is not None:
            raise ValueError("version goes with on = true; a scenario that is off has no version on")
        return self


class PreviewRequest(Body):
    """A request for a list by a scenario that need not be on."""

    request: RecommendRequest = RecommendRequest()
    definition: Scenario | None = None
    """A draft; by default a stored version."""
    version: int | None = Field(None, ge=1, le=1_000_000)
    """By default that which is on, else the latest."""
    model_config = examples(
        {"request": {"user_id": "u000001", "k": 5}},
        {"request": {"user_id": "u000001"}, "definition": {"pins": [{"position": 1, "item": "i000001"}]}},
    )

    @model_validator(mode="after")
    def _one_scenario(self) -> "PreviewRequest":
        if self.request.scenario is not None:
            raise ValueError("request.scenario names a scenario, and so does the path; leave it out")
        if self.definition is not None and self.version is not None:
            raise ValueError("definition and version are both given; keep one")
        return self


class RowsRequest(ListRequest):
    """A request for several lists, each for something that the user did lately."""

    rows: int = Field(5, ge=1, le=MAX_ROWS)
    """Lists at most; there are fewer where the user did less."""
    k: int = Field(10, ge=1, le=MAX_ROW)
    """Items per list."""
    filters: Filters | None = None
    exclude_seen: bool | None = None
    """Whether items of the history are left out; by default the model decides."""
    model_config = examples({"user_id": "u000001", "rows": 3, "k": 5})


class AudienceRequest(Body):
    """A request for users who might care for an item."""

    k: int = Field(100, ge=1, le=MAX_AUDIENCE)
    by: Literal["p_click", "p_purchase", "interest"] = "p_click"
    """What they are sorted by."""
    model_config = examples({"k": 10, "by": "p_purchase"})


class RankRequest(ListRequest):
    """A request to rank candidates."""

    candidates: Annotated[list[Id], Field(min_length=1, max_length=MAX_CANDIDATES)]
    explain: bool = False
    model_config = examples({"user_id": "u000001", "candidates": ["i000001", "i000002"]})

    @model_validator(mode="after")
    def _distinct(self) -> "RankRequest":
        if len(set(self.candidates)) < len(self.candidates):
            raise ValueError("candidates has the same id twice; send each once")
        return self


class SearchRequest(Body):
    """A sentence to find items by."""

    query: Annotated[Text, Field(min_length=1, max_length=500)]
    k: int = Field(20, ge=1, le=MAX_K)
    filters: Filters | None = None
    model_config = examples({"query": "noise-cancelling headphones", "k": 5})


class AnswersRequest(Body):
    """A question."""

    question: Annotated[Text, Field(min_length=1, max_length=500)]
    k: int = Field(3, ge=1, le=MAX_K)
    model_config = examples({"question": "How do I return a lamp?", "k": 1})


class Event(Body):
    """What a user did, or an impression."""

    event_id: Id | None = None
    """Set it if you may send the event again: a second event with the same id is ignored."""
    user_id: Id
    item_id: Id
    event_type: EventType = "click"
    timestamp: Moment | None = None
    """Now by default."""
    value: Number | None = None
    session_id: Id | None = None
    request_id: Id | None = None
    """The `request_id` of the list on which the user acted."""
    position: int | None = Field(None, ge=1, le=100_000)
    attributes: Named = {}
    """The circumstances, such as the device: values of further columns of the events, from which the next model learns."""

    @model_validator(mode="after")
    def _only_others(self) -> "Event":
        known = sorted(set(self.attributes) & set(EVENT_COLUMNS))
        if known:
            raise ValueError(f"attributes names {known[0]!r}, which is a field of the event itself")
        return self


class EventsRequest(Body):
    """One event or many; all of them are stored, or none."""

    events: Annotated[list[Event], Field(min_length=1, max_length=MAX_EVENTS)]
    model_config = examples(
        {"events": [{"event_id": "e-1", "user_id": "u000001", "item_id": "i000002", "event_type": "click"}]}
    )


class Item(Body):
    """An item as it is from now on; omitted fields are unknown."""

    item_id: Id
    title: Annotated[Text, Field(min_length=1)]
    description: Text | None = None
    tags: Annotated[list[Word], Field(max_length=100)] | None = None
    brand: Word | None = None
    category: Word | None = None
    price: Annotated[Number, Field(ge=0)] | None = None
    created_at: Moment | None = None
    available: bool | None = None
    """False takes the item out of lists; it stays in histories, and in what models learn from."""
    available_from: Moment | None = None
    """From when on the item may be in lists; at any time by default."""
    available_until: Moment | None = None
    """Until when the item may be in lists; at any time by default."""
    attributes: Annotated[
        dict[Word, bool | Number | Text | Annotated[list[Text], Field(max_length=100)] | None], Field(max_length=100)
    ] = {}
    """Values of the catalogue's other columns; one that it lacks gets the type of its first value."""

    @model_validator(mode="after")
    def _only_others(self) -> "Item":
        known = sorted(set(self.attributes) & set(ITEM_COLUMNS))
        if known:
            raise ValueError(f"attributes names {known[0]!r}, which is a field of the item itself")
        private = [name for name in self.attributes if name.startswith("_")]
        if private:
            raise ValueError(
                f"attributes names {private[0]!r}; a name that begins with _ is no column: leave the _ out"
            )
        return self

    @model_validator(mode="after")
    def _some_time(self) -> "Item":
        start, end = microseconds(self.available_from), microseconds(self.available_until)
        if start is not None and end is not None and end <= start:
            raise ValueError("available_until is not after available_from; send a later time, or leave one of them out")
        return self

    def moments(self) -> dict[str, datetime | int]:
        """Return the times of the item, by their columns."""
        stated = {name: getattr(self, name) for name in ("created_at", "available_from", "available_until")}
        return {name: moment for name, moment in stated.items() if moment is not None}

    def body(self) -> dict[str, Any]:
        """Return the columns of the item, but for its id."""
        times = {name: microseconds(moment) for name, moment in self.moments().items()}
        known = self.model_dump(exclude={"item_id", "attributes", *times}, exclude_none=True)
        return self.attributes | known | times


class ItemsRequest(Body):
    """One item or many; all of them are stored, or none."""

    items: Annotated[list[Item], Field(min_length=1, max_length=MAX_ITEMS)]
    model_config = examples(
        {
            "items": [
                {"item_id": "new-1", "title": "Walnut desk lamp", "brand": "Oak", "category": "lamps", "price": 49.0}
            ]
        }
    )

    @model_validator(mode="after")
    def _distinct(self) -> "ItemsRequest":
        if len({item.item_id for item in self.items}) < len(self.items):
            raise ValueError("items has the same id twice; send each once")
        return self

    @model_validator(mode="after")
    def _with_visible_titles(self) -> "ItemsRequest":
        # All at once: a call of polars for each of 256 titles would hold up every other request for 0.1 s.
        bare = (plain(pl.Series([item.title for item in self.items])).str.strip_chars() == "").arg_true()
        if len(bare):
            raise ValueError(f"items[{bare[0]}].title must have text in it, and not markup alone")
        return self


class UserRequest(Body):
    """What is known of a user from now on."""

    attributes: Named
    """Values of columns of the table of users; those that are left out stay as of the training."""
    model_config = examples({"attributes": {"plan": "family", "age": 41}})

    @model_validator(mode="after")
    def _only_others(self) -> "UserRequest":
        if "user_id" in self.attributes:
            raise ValueError("attributes names 'user_id', which is the user's own id")
        return self


class SimilarItem(Answer):
    """An item similar to another, and the cosine of their vectors."""

    item_id: str
    title: str
    similarity: float


class Contribution(Answer):
    """What a feature adds to the log odds of a click."""

    feature: str
    log_odds: float


class Reasons(Answer):
    """Why an item is where it is."""

    nearest: list[SimilarItem]
    """The items of the history that are most similar to it."""
    features: list[Contribution]
    """The features with the largest effect, of either sign."""


@dataclass(slots=True)
class RankedItem:
    """One position of a list."""

    __pydantic_config__ = ConfigDict(use_attribute_docstrings=True)
    item_id: str
    title: str
    score: float
    """The value of the item, by which the list is sorted."""
    interest: float
    """Cosine of user and item."""
    p_click: float | None
    """Probability of a click on the item when it is shown; that of a candidate where the data had no impressions. None without the ranker."""
    p_purchase: float | None
    """The same of a purchase."""
    explored: bool = False
    """Whether the position was given to a new item in order to learn about it."""
    reasons: Reasons | None = None


class RecommendResponse(Answer):
    """A list, best first, and the ids that the model does not know."""

    request_id: str
    """Send it with the events that follow, so that they are credited to this list."""
    user_id: str | None
    model: str
    experiment: str | None = None
    """The experiment that the user is in."""
    arm: str | None = None
    """The user's arm of it; none where the lists of two arms are interleaved."""
    items: list[RankedItem]
    unknown_items: list[str]
    notes: list[str]
    """What the caller should know, for example that no item passes the filters."""
    degraded: list[str] = []
    """What was left out because it was too late for it: names of sources, `ranker`, `reasons`."""


class ScenarioState(Answer):
    """A scenario, the version that is on (None if none is), and its latest version."""

    name: str
    on: int | None
    latest: int


class ScenariosResponse(Answer):
    """All scenarios."""

    scenarios: list[ScenarioState]


class ScenarioVersion(Answer):
    """A version of a scenario."""

    name: str
    version: int
    on: bool
    at: int
    """When it was stored, in microseconds since 1970."""
    definition: Scenario
    notes: list[str]
    """Rules that no item of the catalogue meets now."""


class DeletedScenario(Answer):
    """How many versions were deleted."""

    name: str
    versions: int


class TrendingItem(Answer):
    """An item with more events lately than its past makes expect."""

    item_id: str
    title: str
    surprise: float
    """How many standard deviations more."""


class TrendingResponse(Answer):
    """What is going on now, the strongest trend first; empty where nothing is."""

    model: str
    items: list[TrendingItem]


class SimilarResponse(Answer):
    """The items most similar to one."""

    item_id: str
    model: str
    items: list[SimilarItem]


class CompanionItem(Answer):
    """An item that users meet together with another, and the share of what follows that other which it is."""

    item_id: str
    title: str
    strength: float


class TogetherResponse(Answer):
    """The items that users most often meet together with one."""

    item_id: str
    model: str
    items: list[CompanionItem]


class Row(Answer):
    """A list for something that the user did."""

    request_id: str
    """Send it with the events that follow, so that they are credited to this list."""
    title: str
    """Such as: Because you liked Walnut desk lamp."""
    item_id: str
    """What the user did it with."""
    event_type: str
    items: list[RankedItem]


class RowsResponse(Answer):
    """Several lists, the one for the latest event first; no item is in two of them."""

    user_id: str | None
    model: str
    rows: list[Row]
    unknown_items: list[str]
    notes: list[str]
    """What the caller should know, for example that no item passes the filters."""
    degraded: list[str] = []
    """What was left out because it was too late for it, as in other lists."""


class InterestedUser(Answer):
    """A user, and how likely the user cares for the item."""

    user_id: str
    interest: float
    """Cosine of user and item."""
    p_click: float
    p_purchase: float
    seen: bool
    """Whether the user had an event on the item before."""


class AudienceResponse(Answer):
    """The users who care most for an item, best first."""

    item_id: str
    model: str
    users: list[InterestedUser]


class FoundAnswer(Answer):
    """An answer, and the question that it is kept with."""

    answer: str
    question: str | None
    score: float
    """Cosine of the question's and the answer's vectors."""


class AnswersResponse(Answer):
    """The best answers to a question, and whether the first is a good one."""

    model: str
    answered: bool
    """False where the base has no good answer."""
    probability: float
    """Of the first being a good answer."""
    answers: list[FoundAnswer]


class EventsResponse(Answer):
    """How many events were stored; duplicates had been stored before under the same id."""

    accepted: int
    duplicates: int
    unknown_items: list[str]
    """Items that the catalogue lacks; their events are stored and count as soon as the items are known."""


class ItemsResponse(Answer):
    """How many items changed, and how many there are now."""

    changed: int
    items: int


class UserResponse(Answer):
    """What is kept of a user's attributes."""

    user_id: str
    attributes: dict[str, Any]
    unused: list[str]
    """Attributes that the model does not know; a later one may."""


class ForgetUserResponse(Answer):
    """How many rows of a user were deleted."""

    user_id: str
    deleted: int


class ModelResponse(Answer):
    """The model that serves now."""

    model: str
    dataset: str
    fit_on: str
    metrics: dict[str, Any]
    items: int
    users: int
    failed: dict[str, str]
    """Newer models that could not be loaded, and why."""


class Health(Answer):
    """The process is up."""

    status: Literal["ok"]


class Readiness(Health):
    """Model and store can answer."""

    failed: list[str]
    """Newer models that could not be loaded; the one before them serves."""


class Invalid(Answer):
    """Something wrong with what was sent."""

    loc: list[str | int]
    """Where it is: `body`, `path` or `query`, then names of fields and positions in lists, from 0."""
    msg: str
    type: str
    """A word for its kind, such as `greater_than_equal`."""


class Problem(Answer):
    """Why a request was refused or failed: problem details (RFC 9457)."""

    type: str
    """Always `about:blank`: the status says what kind of problem it is."""
    title: str
    """The status in words."""
    status: int
    detail: str
    """What is wrong with this request, for people."""
    instance: str | None = None
    """The id of the request, as in the header `X-Request-ID` and in the server's log."""
    errors: list[Invalid] = []
    """What is wrong with the body or a parameter, the first 20; nothing where the problem is another."""
