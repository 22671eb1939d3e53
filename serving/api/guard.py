"""What stands before the application: keys, limits, request ids, one JSON log line and the metrics.

An ASGI middleware. A request is refused before its body is read where its key, its rate or its
length already say so.
"""

import asyncio
import json
import logging
import re
import time
import traceback
import uuid
from dataclasses import dataclass
from typing import Any

from limits import RateLimitItemPerSecond
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.api.keys import KeyRing, allows
from serving.api.metrics import Metrics
from serving.store.store import StoreError

access = logging.getLogger("recsys.access")

OPEN_PATHS = ("/healthz", "/readyz")
NEEDED = (
    ("POST", re.compile(r"/v1/model/"), "admin"),
    ("POST", re.compile(r"/v1/events$"), "write"),
    ("PUT", re.compile(r"/v1/"), "write"),
    ("DELETE", re.compile(r"/v1/"), "write"),
)
"""Scopes beyond `read`, by method and start of the path."""

LOOPBACK = ("localhost", "127.0.0.1", "::1")
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
RETRY_S = 1


@dataclass(frozen=True)
class Limits:
    """What one client may ask for."""

    body_bytes: int = 1 << 20
    body_s: float = 10.0
    """Time in which a body must have come."""
    per_second: int = 1000
    """Requests of one key, or of one address where there are no keys."""
    waiting: int = 64
    """Requests that are worked on or wait at once."""


class RefusedError(Exception):
    """An answer that the application never sees."""

    def __init__(self, status: int, detail: str, **headers: str) -> None:
        self.status, self.detail, self.headers = status, detail, headers


class Guard:
    """Lets requests through to `app` that are allowed to."""

    def __init__(self, app: ASGIApp, keys: KeyRing, metrics: Metrics, limits: Limits, local: bool) -> None:
        """`local` says that only this machine can reach the server: then, without keys, none is needed."""
        self.app, self.keys, self.metrics, self.limits, self.local = app, keys, metrics, limits, local
        self._rate = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._most = RateLimitItemPerSecond(limits.per_second)
        self._inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = time.perf_counter()
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        sent_id = headers.get("x-request-id", "")
        told: dict[str, Any] = {"request_id": sent_id if REQUEST_ID.fullmatch(sent_id) else uuid.uuid4().hex}
        status = 0

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", told["request_id"].encode())]
            await send(message)

        try:
            await self._admitted(scope, receive, noting, headers, told)
        except RefusedError as refusal:
            await _answer(noting, refusal)
        except StoreError as error:
            await _answer(noting, RefusedError(503, str(error), **{"retry-after": str(RETRY_S)}))
        except Exception:
            told["error"] = traceback.format_exc()
            if not status:
                await _answer(noting, RefusedError(500, f"internal error; the log has more at {told['request_id']}"))
        finally:
            seconds = time.perf_counter() - begun
            route = getattr(scope.get("route"), "path", "none")
            self.metrics.seconds.labels(route, str(status)).observe(seconds)
            line = {"method": scope["method"], "route": route, "status": status, "ms": round(1000 * seconds, 2)}
            access.log(logging.ERROR if "error" in told else logging.INFO, json.dumps(told | line))

    async def _admitted(
        self, scope: Scope, receive: Receive, send: Send, headers: dict[str, str], told: dict[str, Any]
    ) -> None:
        if scope["path"] in OPEN_PATHS:
            await self.app(scope, receive, send)
            return
        client = await self._identified(scope, headers)
        told["key"] = client
        if not await self._rate.hit(self._most, client):
            raise RefusedError(
                429, f"more than {self.limits.per_second} requests a second", **{"retry-after": str(RETRY_S)}
            )
        if self._inside >= self.limits.waiting:
            raise RefusedError(503, f"{self._inside} requests are being answered", **{"retry-after": str(RETRY_S)})
        self._inside += 1
        try:
            body = await self._read(headers, receive)
            await self.app(scope, _replaying(body, receive), send)
        finally:
            self._inside -= 1

    async def _identified(self, scope: Scope, headers: dict[str, str]) -> str:
        """Return the id of the key, or the address where no key is needed.

        Raises:
            RefusedError: the request has no key, a wrong one, or one without the scope.
        """
        scheme, _, text = headers.get("authorization", "").partition(" ")
        if self.keys.stale:
            await run_in_threadpool(self.keys.read)
        found = self.keys.find(text.strip())
        if self.keys.empty and self.local:
            host = headers.get("host", "").rsplit(":", 1)[0].strip("[]")
            if host not in LOOPBACK:
                # A page of another site, whose name was made to point here, must not read the answers.
                raise RefusedError(
                    403, f"without keys only {', '.join(LOOPBACK)} are answered; `recsys keys add` makes one"
                )
            return str((scope.get("client") or ("local",))[0])
        if found is None or scheme.lower() != "bearer":
            hint = "make one with `recsys keys add`" if self.keys.empty else "send `Authorization: Bearer KEY`"
            raise RefusedError(401, f"a key is needed: {hint}", **{"www-authenticate": "Bearer"})
        needed = _needed(scope["method"], scope["path"])
        if not allows(found, needed):
            raise RefusedError(403, f"key {found.key_id} has the scopes {found.scopes}; this needs {needed}")
        return found.key_id

    async def _read(self, headers: dict[str, str], receive: Receive) -> bytes:
        """Return the whole body.

        Raises:
            RefusedError: it is too long, or does not come in time.
        """
        most, length = self.limits.body_bytes, headers.get("content-length", "")
        too_long = RefusedError(413, f"the body is longer than {most} bytes; send less at once", connection="close")
        if length.isdecimal() and (len(length) > 18 or int(length) > most):
            raise too_long
        body = bytearray()
        try:
            async with asyncio.timeout(self.limits.body_s):
                while True:
                    message = await receive()
                    body += message.get("body", b"")
                    if len(body) > most:
                        raise too_long
                    if message["type"] == "http.disconnect" or not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError:
            late = f"the body did not come within {self.limits.body_s:g} s"
            raise RefusedError(408, late, connection="close") from None


def _needed(method: str, path: str) -> str:
    return next((scope for verb, start, scope in NEEDED if verb == method and start.match(path)), "read")


def _replaying(body: bytes, receive: Receive) -> Receive:
    """Return a channel that first gives `body`."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


async def _answer(send: Send, refusal: RefusedError) -> None:
    body = json.dumps({"detail": refusal.detail}).encode()
    fixed = {"content-type": "application/json", "content-length": str(len(body))}
    headers = [(name.encode(), value.encode()) for name, value in (fixed | refusal.headers).items()]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
