"""Strict JSON bodies: text that two parsers could read differently is refused.

In: the bytes of a request. Out: their value, or `json.JSONDecodeError`, which the API answers with 422.
"""

import json
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

from fastapi import Request, Response
from fastapi.routing import APIRoute


class JsonRoute(APIRoute):
    """A route that reads every body, under the limits of its size and time, and parses it strictly."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler of FastAPI, which is called with a `JsonRequest`."""
        handle = super().get_route_handler()

        async def handle_json(request: Request) -> Response:
            request = JsonRequest(request.scope, request.receive)
            await request.body()  # also where the route takes none: the limits hold for all
            return await handle(request)

        return handle_json


class JsonRequest(Request):
    """A request whose body is parsed by `parse`."""

    async def json(self) -> Any:
        """Return the value of the body."""
        return parse(await self.body())


def parse(body: bytes) -> Any:
    """Return the value of a JSON text.

    Raises:
        json.JSONDecodeError: it is not UTF-8, not JSON, nested too deeply, or repeats a name within an object.
    """
    try:
        return json.loads(body.decode("utf-8-sig"), object_pairs_hook=_unique_names, parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise json.JSONDecodeError("not UTF-8", "", error.start) from error
    except RecursionError as error:
        raise json.JSONDecodeError("nested too deeply", "", 0) from error
    except json.JSONDecodeError:
        raise
    except ValueError as error:  # from the hooks below, and for integers with thousands of digits
        raise json.JSONDecodeError(str(error).partition(";")[0], "", 0) from error


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        repeated = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"{repeated[:50]!r} stands twice in one object")
    return values


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number of JSON")
