"""From where the API may be reached without a key: from programs on this machine, not from web pages and proxies."""

from ipaddress import ip_address

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""Names and addresses by which this machine reaches itself."""

HOSTS = ("localhost", "127.0.0.1", "[::1]")
"""The same as they stand in a `Host` header."""


FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")
"""Headers of proxies, behind which others than this machine may stand."""
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


class LoopbackHosts:
    """Middleware: refuses requests that do not come from a program on this machine.

    The web page of another site could make its own name point to this machine and read the answers
    (DNS rebinding), so the `Host` header has to name this machine. It could also send a request without
    reading the answer, so what changes anything must not come from a page of another origin.

    Starlette's middleware decides. Its own refusal is 400 in plain text; this API documents 403 with
    problem details, as for every other request that is not allowed.
    """

    def __init__(self, app: ASGIApp, origins: tuple[str, ...] = ()) -> None:
        """Pages of the sites `origins` may change something, too."""
        self.app, self.origins = app, origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request.

        Raises:
            HTTPException: 403, another host is named, or none; another machine, a proxy or a web page sent it.
        """
        headers = Headers(scope=scope)
        if not _is_loopback(scope.get("client")) or any(name in headers for name in FORWARDED):
            raise HTTPException(
                403,
                "without keys only programs on this machine are served, and no proxies; `recsys keys add` creates a key",
            )
        if scope["method"] not in SAFE_METHODS and _is_of_a_foreign_page(headers, self.origins):
            raise HTTPException(403, "a web page of another origin sent this; `recsys keys add` creates a key")

        async def trusted(scope: Scope, receive: Receive, _: Send) -> None:
            await self.app(scope, receive, send)

        async def refused(_: Message) -> None:
            raise HTTPException(
                403, f"without keys only the hosts {', '.join(LOOPBACK)} are served; `recsys keys add` creates a key"
            )

        await TrustedHostMiddleware(trusted, HOSTS, www_redirect=False)(scope, receive, refused)


def _is_loopback(client: tuple[str, int] | None) -> bool:
    """Return whether the peer is on this machine; a Unix socket has no address."""
    return client is None or ip_address(client[0]).is_loopback


def _is_of_a_foreign_page(headers: Headers, allowed: tuple[str, ...]) -> bool:
    """Return whether a browser sent the request for a page of another origin; programs send neither header."""
    origin = headers.get("origin")
    if origin in allowed:
        return False
    same = origin is None or origin.partition("://")[2] == headers.get("host")
    return not same or headers.get("sec-fetch-site", "none") not in ("same-origin", "none")
