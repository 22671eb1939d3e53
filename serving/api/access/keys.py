"""API keys. The store keeps only a digest of a key; its text is returned once, when the key is created.

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
CACHED_S = 2.0
"""Seconds for which keys are cached; a revoked key is refused after that time at the latest."""


def create_key(store: Store, name: str, scopes: tuple[str, ...]) -> str:
    """Create a key and return its text, which cannot be read again later."""
    key_id, secret = secrets.token_hex(4), secrets.token_urlsafe(32)
    text = f"rk_{key_id}_{secret}"
    store.add_key(StoredKey(key_id, name, _digest(text), ",".join(sorted(scopes)), time.time_ns() // 1000, None))
    return text


def revoke_key(store: Store, key_id: str) -> None:
    """Revoke a key.

    Raises:
        RecsysError: no key has that id, or it was revoked before.
    """
    if not store.revoke_key(key_id):
        raise RecsysError(f"key {key_id}: no key in use has that id; `recsys keys list` shows them")


def table_of(store: Store) -> Table:
    """Return all keys, without their secrets, as a table to print."""
    table = Table("id", "name", "scopes", "created", "revoked")
    for key in store.every_key():
        times = [_minute(time_us) for time_us in (key.created, key.revoked)]
        table.add_row(key.key_id, key.name, key.scopes, *times)
    return table


class KeyRing:
    """The keys of a store, cached for `CACHED_S` seconds."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._keys: list[StoredKey] = []
        self._read_at = -CACHED_S

    @property
    def stale(self) -> bool:
        """Whether the keys must be read again."""
        return time.monotonic() - self._read_at >= CACHED_S

    def read(self) -> None:
        """Read the keys of the store.

        Raises:
            StoreError: the store cannot be read.
        """
        self._keys, self._read_at = self._store.every_key(), time.monotonic()

    @property
    def empty(self) -> bool:
        """Whether no key was ever created. Revoked keys count: revoking the last key does not open the API."""
        return not self._keys

    def find(self, text: str) -> StoredKey | None:
        """Return the key in use with this text, or None.

        Every key is compared in constant time, so that the time taken reveals nothing about the keys.
        """
        digest = _digest(text)
        match = None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest) and key.revoked is None:
                match = key
        return match


def _minute(time_us: int | None) -> str:
    return "" if time_us is None else datetime.fromtimestamp(time_us / 1e6, UTC).strftime("%Y-%m-%d %H:%M")


def _digest(text: str) -> str:
    # The secret has 256 random bits, which no slow hash could protect any better.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
