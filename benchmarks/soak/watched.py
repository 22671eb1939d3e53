"""`recsys` as a soak runs it: what is allocated is written down, free memory goes back to the system, and a leak can be planted.

SOAK_IN_USE=in-use.csv SOAK_LEAK_KIB=2 python -m benchmarks.soak.watched serve --model BUNDLE

What glibc keeps for later, some 60 MiB after models were loaded, hides a small leak for many minutes: it fills that first. So what
was allocated and not freed is asked of glibc itself. Python's small objects and polars have allocators of their own.
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

NOTE_EVERY_S = 2.0
FIELDS = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")


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
    threading.Thread(target=note_use, args=(os.environ["SOAK_IN_USE"],), daemon=True).start()
    return app


class Mallinfo(ctypes.Structure):
    """What glibc's `mallinfo2` returns."""

    _fields_ = [(name, ctypes.c_size_t) for name in FIELDS]


def note_use(path: str) -> None:
    """Give free memory back to the system, and write the time and the MiB that are in use, again and again."""
    libc = ctypes.CDLL("libc.so.6")
    libc.mallinfo2.restype = Mallinfo
    with open(path, "w", buffering=1) as noted:
        while True:
            time.sleep(NOTE_EVERY_S)
            libc.malloc_trim(0)
            now = libc.mallinfo2()
            noted.write(f"{time.time():.3f},{(now.uordblks + now.hblkhd) / 2**20:.3f}\n")


if __name__ == "__main__":
    vars(server)["create_app"] = watched_app
    main()
