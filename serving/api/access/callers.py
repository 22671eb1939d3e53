"""Who sends a request: the owner of a key or, where no key is needed, a program on this machine."""

import base64
import binascii
import logging
from dataclasses import dataclass

from fastapi.security.utils import get_authorization_scheme_param
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.api.access.hosts import LoopbackHosts
from serving.api.access.keys import KeyRing
from serving.api.access.limits import RETRY_AFTER
from serving.store.store import StoreError

log = logging.getLogger("recsys.access")

OPEN_PATHS = ("/healthz", "/readyz")
"""Paths that need no key and have no limits, so that probes always get through."""
BROWSED = ("/docs", "/redoc", "/openapi.json", "/static-offline-docs/", "/page/")
"""Beginnings of paths at which a browser is asked for a name and a password, any name and the key: it can send no other header by itself."""
PAGE = "/"
"""The page for people, at which it is asked too; its other files are below `/page/`."""


@dataclass(frozen=True)
class Caller:
    """An identified caller, which later steps find as `scope["caller"]`."""

    name: str
    """The id of the key, or the address where no key is needed."""
    scopes: tuple[str, ...]

    def has(self, scope: str) -> bool:
        """Return whether the caller has the scope, or `admin`."""
        return scope in self.scopes or "admin" in self.scopes

    def require(self, needed: str) -> None:
        """Do nothing if the caller has the scope `needed` or `admin`.

        Raises:
            HTTPException: 403, the caller has neither.
        """
        if not self.has(needed):
            raise HTTPException(403, f"key {self.name} has the scopes {','.join(self.scopes)}; this needs {needed}")


class IdentifyCaller:
    """Middleware: identifies the caller and refuses requests without a valid key.

    No key is needed while none was ever created and only this machine can reach the server.
    """

    def __init__(self, app: ASGIApp, *, keys: KeyRing, local: bool, origins: tuple[str, ...] = ()) -> None:
        """`local` says that only this machine can reach the server; see `Limits` for `origins`."""
        self.app, self.keys, self.local = app, keys, local
        self._loopback = LoopbackHosts(app, origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request.

        Raises:
            HTTPException: 401, no valid key was sent; 403, see `LoopbackHosts`; 503, the store cannot be read.
        """
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            await self.app(scope, receive, send)
            return
        await self._refresh_keys()
        if self.local and self.keys.empty:
            scope["caller"] = Caller(str((scope.get("client") or ("local",))[0]), ("admin",))
            await self._loopback(scope, receive, send)
        else:
            authorization, path = Headers(scope=scope).get("authorization", ""), scope["path"]
            scope["caller"] = self._key_owner(authorization, browsed=path == PAGE or path.startswith(BROWSED))
            await self.app(scope, receive, send)

    async def _refresh_keys(self) -> None:
        if self.keys.stale:
            try:
                await run_in_threadpool(self.keys.read)
            except StoreError as error:
                log.warning("keys cannot be read: %s", error)  # the answer names no path to whom nobody knows
                raise HTTPException(503, "the store does not answer", RETRY_AFTER) from error

    def _key_owner(self, authorization: str, browsed: bool) -> Caller:
        scheme, text = get_authorization_scheme_param(authorization)
        if browsed and scheme.lower() == "basic":
            scheme, text = "bearer", _password(text)
        key = self.keys.find(text.strip()) if scheme.lower() == "bearer" else None
        if key is None:
            hint = "create one with `recsys keys add`" if self.keys.empty else "send `Authorization: Bearer KEY`"
            challenge = 'Basic realm="any name, and a key as the password"' if browsed else "Bearer"
            raise HTTPException(401, f"a key is needed: {hint}", {"WWW-Authenticate": challenge})
        return Caller(key.key_id, tuple(key.scopes.split(",")))


def _password(credentials: str) -> str:
    """Return the password of the credentials of HTTP Basic (RFC 7617); nothing where they are none."""
    try:
        return base64.b64decode(credentials, validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return ""
