"""The scope that a route needs, stated with the route: `APIRouter(route_class=WriteRoute)`.

A dependency of FastAPI would be too late, since FastAPI reads the body before it calls any.
"""

from typing import ClassVar

from fastapi import FastAPI
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.api.json_body import JsonRoute


class ReadRoute(JsonRoute):
    """A route for keys with the scope `read`; others are refused with 403 before their body is read."""

    scope: ClassVar[str] = "read"

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request.

        Raises:
            HTTPException: 403, the key lacks the scope.
        """
        scope["caller"].require(self.scope)
        await super().handle(scope, receive, send)


class WriteRoute(ReadRoute):
    """A route for keys with the scope `write`."""

    scope = "write"


class AdminRoute(ReadRoute):
    """A route for keys with the scope `admin`."""

    scope = "admin"


def protect_documentation(app: FastAPI) -> None:
    """Let `/docs`, `/openapi.json` and their like, which are all that `app` has so far, need the scope `read`."""
    for route in app.routes:
        assert isinstance(route, Route | Mount)
        route.app = _for_readers(route.app)


def _for_readers(app: ASGIApp) -> ASGIApp:
    async def checked(scope: Scope, receive: Receive, send: Send) -> None:
        scope["caller"].require("read")
        await app(scope, receive, send)

    return checked
