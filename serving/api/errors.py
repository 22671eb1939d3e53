"""How errors are answered: always as JSON with a `detail`, under the statuses that the documentation lists."""

from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

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

MAX_PROBLEMS = 20
"""Problems of one body that an answer lists."""

PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.Problem, "description": description}
    for status, description in {
        401: "Missing or invalid API key.",
        403: "The key lacks the required scope, or the host name is not allowed.",
        408: "The request body did not arrive in time.",
        413: "The request body is too long.",
        422: "The request is invalid. `detail` lists each problem and where it is.",
        429: "Too many requests; see Retry-After.",
        503: "Store unavailable or server overloaded; see Retry-After.",
    }.items()
}
"""Documentation of the errors that any route may answer with."""
UNKNOWN_ITEM: dict[int | str, dict[str, Any]] = {
    404: {"model": schemas.Problem, "description": "The catalogue has no such item."}
}
UNKNOWN_LIST: dict[int | str, dict[str, Any]] = {
    404: {"model": schemas.Problem, "description": "The list of which the next page is requested is not kept."}
}
UNKNOWN_SCENARIO: dict[int | str, dict[str, Any]] = {
    404: {"model": schemas.Problem, "description": "There is no such scenario, or no such version of it."}
}
NOT_LOADED: dict[int | str, dict[str, Any]] = {
    409: {"model": schemas.Problem, "description": "The model could not be loaded; the current one stays in use."}
}

Handler = Callable[[Request, Any], Coroutine[Any, Any, Response]]


def problem(status: int, detail: object, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Return the answer that says why a request failed."""
    return JSONResponse({"detail": detail}, status_code=status, headers=headers)


def _answered(status: int, headers: Mapping[str, str] | None = None) -> Handler:
    async def handler(request: Request, error: Exception) -> JSONResponse:
        return problem(status, str(error), headers)

    return handler


async def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
    # FastAPI's own answer repeats what was sent, and fails where that is not text.
    if isinstance(error.body, bytes):
        hint = "Send it as Content-Type: application/json"
        return problem(422, [{"type": "content_type", "loc": ["body"], "msg": hint}])
    return problem(422, [_described(part) for part in error.errors()[:MAX_PROBLEMS]])


def _described(part: dict[str, Any]) -> dict[str, Any]:
    message = f"Not JSON: {part['ctx']['error']}" if part["type"] == "json_invalid" else part["msg"]
    return {"type": part["type"], "loc": part["loc"], "msg": message}


HANDLERS: dict[int | type[Exception], Handler] = {
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
