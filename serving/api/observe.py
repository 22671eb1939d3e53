"""What is recorded of each request: an id, a line of the access log, and its time in the metrics."""

import json
import logging
import re
import time
import traceback
import uuid
from datetime import UTC, datetime
from typing import Any

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.api.errors import problem
from serving.api.metrics import Metrics

log = logging.getLogger("recsys.access")

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""Request ids that are taken over from callers."""


class ObserveRequests:
    """Middleware: records each request, and answers errors that no other part of the application does.

    Every answer has the header `X-Request-ID`: the one that was sent, or a new one. An unexpected error
    is answered with 500, which names the request id; the traceback stands in the log only.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start = time.perf_counter()
        request_id = scope["request_id"] = _request_id(scope)
        status, trace = 0, ""

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except HTTPException as refusal:
            answer = problem(scope, refusal.status_code, refusal.detail, refusal.headers)
            await answer(scope, receive, send_with_id)
        except Exception:
            trace = traceback.format_exc()
            if not status:
                answer = problem(scope, 500, f"internal error; the log has details under request id {request_id}")
                await answer(scope, receive, send_with_id)
        finally:
            self._record(scope, request_id, status, time.perf_counter() - start, trace)

    def _record(self, scope: Scope, request_id: str, status: int, seconds: float, trace: str) -> None:
        route = getattr(scope.get("route"), "path", "none")
        self.metrics.seconds.labels(route, str(status)).observe(seconds)
        line: dict[str, Any] = {"request_id": request_id}
        line |= {"key": scope["caller"].name} if "caller" in scope else {}
        line |= {"error": trace} if trace else {}
        line |= {"method": scope["method"], "route": route, "status": status, "ms": round(1000 * seconds, 2)}
        log.log(logging.ERROR if trace else logging.INFO, json.dumps(line), extra={"fields": line})


class JsonLines(logging.Formatter):
    """Formats every record as a JSON object on one line: time (UTC), level, logger, and its fields or message."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"time": moment, "level": record.levelname.lower(), "logger": record.name}
        line |= getattr(record, "fields", {"message": record.getMessage()})
        line |= {"error": self.formatException(record.exc_info)} if record.exc_info else {}
        return json.dumps(line, ensure_ascii=False)


def _request_id(scope: Scope) -> str:
    sent = Headers(scope=scope).get("x-request-id", "")
    return sent if REQUEST_ID.fullmatch(sent) else uuid.uuid4().hex
