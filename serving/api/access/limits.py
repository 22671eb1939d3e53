"""How much one caller may send, and how many requests may be in progress."""

import asyncio
from collections import Counter
from dataclasses import dataclass

from limits import RateLimitItemPerSecond
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

RETRY_AFTER = {"Retry-After": "1"}
"""Header of answers to requests that may be sent again after a second."""
CLOSE = {"Connection": "close"}
"""Header of answers after which the rest of a body is not read."""


@dataclass(frozen=True)
class Limits:
    """The limits of one process."""

    body_bytes: int = 1 << 20
    """The longest body."""
    body_s: float = 10.0
    """Seconds within which a body must arrive."""
    per_second: int = 1000
    """Requests per second and key, or per address where no key is needed."""
    waiting: int = 64
    """Requests that are in progress, waiting or worked on."""
    waiting_of_one: int = 32
    """The same of one key, so that no key can keep all others out."""
    timeout_ms: int | None = None
    """Milliseconds after which what has not begun is left out of an answer, where its request does not say; None for never."""
    origins: tuple[str, ...] = ()
    """Origins of other sites, such as `https://shop.example`, whose pages may send requests from a browser."""


class RequestLimits:
    """Middleware: limits the requests per second of each caller, and those in progress of all callers."""

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self.app, self.limits = app, limits
        self._rate = RateLimitItemPerSecond(limits.per_second)
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._in_progress: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; those without a caller, which are probes, have no limits.

        Raises:
            HTTPException: 429, the caller sends too many, in a second or at once; 503, too many are in progress.
        """
        if "caller" not in scope:
            await self.app(scope, receive, send)
            return
        if not await self._limiter.hit(self._rate, scope["caller"].name):
            raise HTTPException(429, f"more than {self.limits.per_second} requests per second", RETRY_AFTER)
        if self._in_progress.total() >= self.limits.waiting:
            raise HTTPException(503, f"{self._in_progress.total()} requests are in progress", RETRY_AFTER)
        caller = scope["caller"].name
        if self._in_progress[caller] >= self.limits.waiting_of_one:
            raise HTTPException(429, f"{self._in_progress[caller]} requests of this key are in progress", RETRY_AFTER)
        self._in_progress[caller] += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self._in_progress[caller] -= 1
            self._in_progress += Counter()  # drops callers without any


class BodyLimits:
    """Middleware: limits the size of a body, and the time within which it must arrive.

    The body is read when the application first asks for it, so that a request which is refused for
    another reason is not read at all. The application then receives it in one message.
    """

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self.app, self.limits = app, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        read = False

        async def whole_body() -> Message:
            nonlocal read
            if read:
                return await receive()
            read = True
            body = await self._read(Headers(scope=scope).get("content-length", ""), receive)
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, whole_body, send)

    async def _read(self, announced: str, receive: Receive) -> bytes:
        """Return the whole body, of the `announced` length.

        Raises:
            HTTPException: 413, it is too long; 408, it does not arrive in time.
        """
        limit = self.limits.body_bytes
        too_long = HTTPException(413, f"the body is longer than {limit} bytes; send less at once", CLOSE)
        if announced.isdecimal() and (len(announced) > 18 or int(announced) > limit):
            raise too_long
        body = bytearray()
        try:
            async with asyncio.timeout(self.limits.body_s):
                while True:
                    message = await receive()
                    body += message.get("body", b"")
                    if len(body) > limit:
                        raise too_long
                    if message["type"] == "http.disconnect" or not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError:
            detail = f"the body did not arrive within {self.limits.body_s:g} s"
            raise HTTPException(408, detail, CLOSE) from None
