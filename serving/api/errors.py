"""How errors are answered: always as problem details (RFC 9457), under the statuses that the documentation lists."""

import json
from collections.abc import Callable, Coroutine, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import Scope

from features.context import ContextError
from recsys.errors import RecsysError
from serving.api import schemas
from serving.api.access.limits import RETRY_AFTER
from serving.api.refusals import BadTimeError, BusyError, UnknownItemError, UnknownListError
from serving.columns import UnfitError
from serving.filters import FilterError
from serving.scenarios.definition import ScenarioError
from serving.scenarios.kept import UnknownScenarioError
from serving.store.store import StoreError

MEDIA_TYPE = "application/problem+json"
MAX_PROBLEMS = 20
"""Problems of one body that an answer lists."""
MAX_NAME = 100
"""Characters of a name that was sent, of which an answer says that something is wrong with it."""


def problem_json(status: int, detail: str, instance: str | None = None, invalid: Sequence[schemas.Invalid] = ()) -> str:
    """Return the problem details as JSON; `instance` is the id of the request."""
    title = HTTPStatus(status).phrase
    about = schemas.Problem(
        type="about:blank", title=title, status=status, detail=detail, instance=instance, errors=list(invalid)
    )
    return about.model_dump_json(exclude_defaults=True)


_REQUEST_ID = "5f0a4a3a1be54e9a8b2f8a3a2a2f1d7c"


def _documented(
    status: int,
    description: str,
    detail: str,
    *,
    headers: Mapping[str, Any] | None = None,
    invalid: Sequence[schemas.Invalid] = (),
) -> dict[int | str, dict[str, Any]]:
    """Return the documentation of a status, with an answer as its example."""
    example = json.loads(problem_json(status, detail, _REQUEST_ID, invalid))
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}, "example": example}}
    return {status: {"description": description, "content": content, "headers": headers or {}}}


_RETRY = {"Retry-After": {"description": "Seconds to wait.", "required": True, "schema": {"type": "integer"}}}
_CHALLENGE = {"WWW-Authenticate": {"description": "What is needed.", "required": True, "schema": {"type": "string"}}}
_TOO_MANY = schemas.Invalid(loc=["body", "k"], msg="Input should be less than or equal to 200", type="less_than_equal")
PROBLEMS = (
    _documented(
        401,
        "Missing or invalid API key.",
        "a key is needed: send `Authorization: Bearer KEY`",
        headers=_CHALLENGE,
    )
    | _documented(
        403,
        "The key lacks the required scope, or the host name is not allowed.",
        "key 1a2b3c4d has the scopes read; this needs write",
    )
    | _documented(408, "The request body did not arrive in time.", "the body did not arrive within 10 s")
    | _documented(413, "The request body is too long.", "the body is longer than 1048576 bytes; send less at once")
    | _documented(
        422,
        "The request is invalid. `errors` lists what is wrong with a body or a parameter, and where.",
        "body.k: Input should be less than or equal to 200",
        invalid=[_TOO_MANY],
    )
    | _documented(429, "Too many requests; see Retry-After.", "more than 1000 requests per second", headers=_RETRY)
    | _documented(
        500,
        "An error of the server; its log has the cause under the id of the request.",
        f"internal error; the log has details under request id {_REQUEST_ID}",
    )
    | _documented(
        503,
        "Store unavailable or server overloaded; see Retry-After.",
        "64 requests are in progress",
        headers=_RETRY,
    )
)
"""Documentation of the errors that any route may answer with."""
UNKNOWN_ITEM = _documented(
    404, "The catalogue has no such item.", "item 'i999999' is not in the catalogue; PUT /v1/items adds items"
)
UNKNOWN_LIST = _documented(
    404,
    "The list of which the next page is requested is not kept.",
    "after: no list 'r-1' is kept; send the request_id of an answer of /v1/recommend, or leave after out",
)
UNKNOWN_SCENARIO = _documented(
    404,
    "There is no such scenario, or no such version of it.",
    "there is no scenario 'hom'; did you mean 'home'? there are: home",
)
NO_ANSWERS = _documented(
    409,
    "The server was started without answers.",
    "this server has no answers; start it with `recsys serve --answers MODEL`",
)
NOT_LOADED = _documented(
    409,
    "The model could not be loaded; the current one stays in use.",
    "/srv/bundles/7: not a bundle (no manifest.json); make one with `recsys train DATASET`",
)

Handler = Callable[[Request, Any], Coroutine[Any, Any, Response]]


def problem(
    scope: Scope,
    status: int,
    detail: str,
    headers: Mapping[str, str] | None = None,
    invalid: Sequence[schemas.Invalid] = (),
) -> Response:
    """Return the answer that says why the request of `scope` failed."""
    body = problem_json(status, detail, scope.get("request_id"), invalid)
    return Response(body, status, headers, media_type=MEDIA_TYPE)


def _answered(status: int, headers: Mapping[str, str] | None = None) -> Handler:
    async def handler(request: Request, error: Exception) -> Response:
        return problem(request.scope, status, str(error), headers)

    return handler


async def _refused(request: Request, refusal: HTTPException) -> Response:
    return problem(request.scope, refusal.status_code, refusal.detail, refusal.headers)


async def _invalid(request: Request, error: RequestValidationError) -> Response:
    # FastAPI's own answer repeats what was sent, and fails where that is not text.
    if isinstance(error.body, bytes):
        hint = "Send it as Content-Type: application/json"
        found = [schemas.Invalid(loc=["body"], msg=hint, type="content_type")]
    else:
        found = [_listed(part) for part in error.errors()]
    first = f"{'.'.join(map(str, found[0].loc))}: {found[0].msg}"
    detail = first if len(found) == 1 else f"{len(found)} problems; the first is {first}"
    return problem(request.scope, 422, detail, invalid=found[:MAX_PROBLEMS])


def _listed(part: dict[str, Any]) -> schemas.Invalid:
    message = f"Not JSON: {part['ctx']['error']}" if part["type"] == "json_invalid" else part["msg"]
    loc = [name[:MAX_NAME] if isinstance(name, str) else name for name in part["loc"]]
    return schemas.Invalid(loc=loc, msg=message.removeprefix("Value error, "), type=part["type"])


HANDLERS: dict[int | type[Exception], Handler] = {
    HTTPException: _refused,
    RequestValidationError: _invalid,
    FilterError: _answered(422),
    BusyError: _answered(503, RETRY_AFTER),
    UnfitError: _answered(422),
    ContextError: _answered(422),
    BadTimeError: _answered(422),
    UnknownItemError: _answered(404),
    UnknownListError: _answered(404),
    ScenarioError: _answered(422),
    UnknownScenarioError: _answered(404),
    StoreError: _answered(503, RETRY_AFTER),
    RecsysError: _answered(409),
}
"""The handler of each error; a subclass that is not listed has that of its base."""
