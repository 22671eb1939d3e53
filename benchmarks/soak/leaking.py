"""`recsys`, whose server never gives back SOAK_LEAK_KIB of memory per request: what the judgement of a soak has to find.

SOAK_LEAK_KIB=2 python -m benchmarks.soak.leaking serve --model BUNDLE
"""

import os
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from recsys.cli import main
from serving.api import server
from serving.api.app import create_app


class Leak:
    """Middleware that keeps some bytes of every request."""

    def __init__(self, app: ASGIApp, size: int) -> None:
        self.app, self.size, self.kept = app, size, list[bytes]()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "http":
            self.kept.append(os.urandom(self.size))
        await self.app(scope, receive, send)


def leaking_app(*args: Any, **kwargs: Any) -> Any:
    """Return the application with the leak."""
    app = create_app(*args, **kwargs)
    app.add_middleware(Leak, size=round(1024 * float(os.environ["SOAK_LEAK_KIB"])))
    return app


if __name__ == "__main__":
    vars(server)["create_app"] = leaking_app
    main()
