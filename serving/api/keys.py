"""API keys: who may do what. Only a digest is kept; the secret is shown once, when it is made.

A key reads `rk_ID_SECRET` and has scopes: `read` (lists, search, model), `write` (events, items,
deletions), `admin` (everything).
"""

import hashlib
import hmac
import secrets
import time
from datetime import UTC, datetime

from rich.table import Table

from recsys.errors import RecsysError
from serving.store.store import Store, StoredKey

SCOPES = ("read", "write", "admin")
KNOWN_FOR_S = 2.0
"""How long keys are remembered; a revoked one is refused after that at the latest."""


def create_key(store: Store, name: str, scopes: tuple[str, ...]) -> str:
    """Make a key and return it, for the only time."""
    key_id, secret = secrets.token_hex(4), secrets.token_urlsafe(32)
    text = f"rk_{key_id}_{secret}"
    store.add_key(StoredKey(key_id, name, _digest(text), ",".join(sorted(scopes)), time.time_ns() // 1000, None))
    return text


def revoke_key(store: Store, key_id: str) -> None:
    """Revoke a key.

    Raises:
        RecsysError: there is none of that id, or it was revoked before.
    """
    if not store.revoke_key(key_id):
        raise RecsysError(f"key {key_id}: none of that id is in use; `recsys keys list` shows them")


def table_of(store: Store) -> Table:
    """Return all keys as a table for people."""
    table = Table("id", "name", "scopes", "made", "revoked")
    for key in store.every_key():
        moments = [_day(moment) for moment in (key.created, key.revoked)]
        table.add_row(key.key_id, key.name, key.scopes, *moments)
    return table


class KeyRing:
    """The keys of a store, as they were when they were last read."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._keys: list[StoredKey] = []
        self._read_at = -KNOWN_FOR_S

    @property
    def stale(self) -> bool:
        """Whether the keys must be read again."""
        return time.monotonic() - self._read_at >= KNOWN_FOR_S

    def read(self) -> None:
        """Read the keys of the store."""
        self._keys, self._read_at = self._store.every_key(), time.monotonic()

    @property
    def empty(self) -> bool:
        """Whether no key was ever made: one that is revoked keeps the door shut."""
        return not self._keys

    def find(self, text: str) -> StoredKey | None:
        """Return the key in use that `text` is; every key is compared, in a time that says nothing of it."""
        digest = _digest(text)
        found = None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest) and key.revoked is None:
                found = key
        return found


def allows(key: StoredKey, scope: str) -> bool:
    """Return whether `key` has the scope."""
    return scope in key.scopes.split(",") or "admin" in key.scopes.split(",")


def _day(moment: int | None) -> str:
    return "" if moment is None else datetime.fromtimestamp(moment / 1e6, UTC).strftime("%Y-%m-%d %H:%M")


def _digest(text: str) -> str:
    # The secret has 256 random bits, so that a slow hash would guard against nothing.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
