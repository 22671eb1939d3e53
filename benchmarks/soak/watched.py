"""`recsys` as a soak runs it: free memory goes back to the system at once, and a leak can be planted.

SOAK_LEAK_KIB=2 python -m benchmarks.soak.watched serve --model BUNDLE

What glibc keeps for later, some 100 MiB after a model was loaded, would hide a small leak for a quarter of an hour: the leak fills it first.
"""

import ctypes
import os
import threading
import time
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from recsys.cli import main
from serving.api import server
from serving.api.app import create_app

TRIM_EVERY_S = 5.0


class Leak:
    """Middleware that keeps some bytes of every request."""

    def __init__(self, app: ASGIApp, size: int) -> None:
        self.app, self.size, self.kept = app, size, list[bytes]()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "http":
            self.kept.append(os.urandom(self.size))
        await self.app(scope, receive, send)


def watched_app(*args: Any, **kwargs: Any) -> Any:
    """Return the application, with a leak where the environment asks for one."""
    app = create_app(*args, **kwargs)
    size = round(1024 * float(os.environ.get("SOAK_LEAK_KIB", 0)))
    if size:
        app.add_middleware(Leak, size=size)
    threading.Thread(target=trim, daemon=True).start()
    return app


def trim() -> None:
    """Give free memory back to the system, again and again."""
    libc = ctypes.CDLL("libc.so.6")
    while True:
        time.sleep(TRIM_EVERY_S)
        libc.malloc_trim(0)


if __name__ == "__main__":
    vars(server)["create_app"] = watched_app
    main()
