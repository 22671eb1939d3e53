"""The HTTP API: `recsys serve --model models:/recsys@champion`.

In: JSON requests with a user id or a history. Out: ranked items. `GET /docs` shows it all.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Literal

import numpy as np
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, model_validator

from features.histories import Histories
from recsys import __version__
from serving.loading import Bundle
from serving.lookup import Lookup, PastEvent
from serving.recommender import Ranking

MAX_CANDIDATES = 1000
MAX_HISTORY = 1000
MAX_BODY_BYTES = 1 << 20
MAX_TIME = 1 << 60
"""Microseconds; differences of two times stay within 64 bits."""

Id = Annotated[str, Field(min_length=1, max_length=256)]
ActionType = Literal["view", "click", "like", "share", "comment", "cart", "purchase"]
"""Every event type but `impression`."""


class Body(BaseModel):
    """Base of every request body: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid")


class Event(Body):
    """One event of a history that the caller sends."""

    item_id: Id
    event_type: ActionType = "click"
    timestamp: datetime | Annotated[int, Field(ge=-MAX_TIME, le=MAX_TIME)] | None = None
    """ISO time (UTC where it names no zone), or the dataset's ordinal; now by default."""


class Who(Body):
    """For whom: a user that the model knows, or a history (oldest event first), or nobody."""

    user_id: Id | None = None
    history: Annotated[list[Id | Event], Field(max_length=MAX_HISTORY)] | None = None


class RecommendBody(Who):
    """A request for a list."""

    k: int = Field(20, ge=1, le=200)
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"user_id": "u000001", "k": 5}, {"history": ["i000001", "i000002"], "k": 5}]},
    )


class RankBody(Who):
    """A request to put candidates in order."""

    candidates: Annotated[list[Id], Field(min_length=1, max_length=MAX_CANDIDATES)]
    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"user_id": "u000001", "candidates": ["i000001", "i000002"]}]}
    )

    @model_validator(mode="after")
    def _distinct(self) -> "RankBody":
        if len(set(self.candidates)) < len(self.candidates):
            raise ValueError("candidates has the same id twice; send each once")
        return self


class RankedItem(BaseModel):
    """One place of a list."""

    item_id: str
    title: str
    score: float
    interest: float
    p_click: float
    p_purchase: float


class Answer(BaseModel):
    """A list, best first, and the ids that the model does not know."""

    user_id: str | None
    model: str
    items: list[RankedItem]
    unknown_items: list[str]


class Health(BaseModel):
    """That the process answers, and with what."""

    status: Literal["ok"]
    model: str
    items: int
    users: int


def wall_clock() -> int:
    """Return the microseconds since the epoch."""
    return int(datetime.now(UTC).timestamp() * 1e6)


def create_app(bundle: Bundle, model: str, clock: Callable[[], int] = wall_clock) -> FastAPI:
    """Return the application that answers from `bundle`; `model` is the name it reports.

    `clock` is asked for the moment of each request where the dataset has a clock.
    """
    app = FastAPI(
        title="recsys",
        version=__version__,
        description="Personalised recommendations from item texts.",
        max_body_size=MAX_BODY_BYTES,
    )
    lookup = Lookup(bundle)
    titles = bundle.recommender.items["title"].to_list()
    # The first ranking of a process is slow; users should not meet it.
    bundle.recommender.recommend(lookup.histories([(None, [lookup.ids[0]])]), k=1)

    @app.exception_handler(RequestValidationError)
    def refuse(request: Request, error: RequestValidationError) -> JSONResponse:
        # The default answer repeats what was sent, and fails where that is not text.
        detail = [{key: part[key] for key in ("type", "loc", "msg")} for part in error.errors()]
        return JSONResponse({"detail": detail}, status_code=422)

    @app.get("/healthz")
    def healthz() -> Health:
        """Say that the process is up."""
        return Health(status="ok", model=model, items=len(lookup.ids), users=len(lookup.users))

    @app.post("/v1/recommend")
    def recommend(body: RecommendBody) -> Answer:
        """Return the k best items for a user, a history, or (with neither) anyone."""
        histories, unknown = _histories(lookup, body, clock)
        return _answer(lookup, titles, model, body, lookup.recommender.recommend(histories, body.k), unknown)

    @app.post("/v1/rank")
    def rank(body: RankBody) -> Answer:
        """Return the candidates in order of value; those that the model lacks are listed apart."""
        histories, unknown = _histories(lookup, body, clock)
        rows = [lookup.rows[item] for item in body.candidates if item in lookup.rows]
        unknown += [item for item in body.candidates if item not in lookup.rows]
        if not rows:
            return Answer(user_id=body.user_id, model=model, items=[], unknown_items=unknown)
        ranking = lookup.recommender.rank(histories, np.array([rows], np.int64))
        return _answer(lookup, titles, model, body, ranking, unknown)

    return app


def _histories(lookup: Lookup, body: Who, clock: Callable[[], int]) -> tuple[Histories, list[str]]:
    history = None if body.history is None else [_past(event) for event in body.history]
    now = clock() if lookup.recommender.has_clock else None
    return lookup.histories([(body.user_id, history)], now), lookup.unknown(history or [])


def _past(event: str | Event) -> PastEvent:
    if isinstance(event, str):
        return PastEvent(event)
    time = event.timestamp
    if isinstance(time, datetime):
        time = int((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1e6)
    return PastEvent(event.item_id, event.event_type, time)


def _answer(lookup: Lookup, titles: list[str], model: str, body: Who, ranking: Ranking, unknown: list[str]) -> Answer:
    columns = (ranking.items[0], ranking.score[0], ranking.interest[0], ranking.p_click[0], ranking.p_purchase[0])
    items = [
        RankedItem(
            item_id=lookup.ids[item],
            title=titles[item],
            score=score,
            interest=interest,
            p_click=click,
            p_purchase=purchase,
        )
        for item, score, interest, click, purchase in zip(*(column.tolist() for column in columns), strict=True)
        if item >= 0
    ]
    return Answer(user_id=body.user_id, model=model, items=items, unknown_items=unknown)
