"""Host names under which the API may be reached without a key."""

from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""Names and addresses by which this machine reaches itself."""

HOSTS = ("localhost", "127.0.0.1", "[::1]")
"""The same as they stand in a `Host` header."""


class LoopbackHosts:
    """Middleware: refuses requests whose `Host` header does not name this machine.

    The web page of another site could make its own name point to this machine and read the answers
    (DNS rebinding).

    Starlette's middleware decides. Its own refusal is 400 in plain text; this API documents 403 with
    a JSON `detail`, as for every other request that is not allowed.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request.

        Raises:
            HTTPException: 403, another host is named, or none.
        """

        async def trusted(scope: Scope, receive: Receive, _: Send) -> None:
            await self.app(scope, receive, send)

        async def refused(_: Message) -> None:
            raise HTTPException(
                403, f"without keys only the hosts {', '.join(LOOPBACK)} are served; `recsys keys add` creates a key"
            )

        await TrustedHostMiddleware(trusted, HOSTS, www_redirect=False)(scope, receive, refused)
