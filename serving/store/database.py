"""Connections to the store's database: an SQLite file, or PostgreSQL.

In: a URL such as `sqlite:///shop.db` or `postgresql://user@host/shop`. Out: an SQLAlchemy engine whose
transactions are on disk once they are committed.
"""

import os
import re
import sqlite3
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.engine.url import URL, make_url

from recsys.errors import RecsysError

DEFAULT_STORE = "sqlite:///.recsys/store.db"
BUSY_TIMEOUT_S = 5
"""Seconds to wait for a connection, a lock or a statement."""
RETRY_S = 0.01
OWNER_ONLY = 0o600
"""Mode of an SQLite file; its log has the same."""


class StoreError(RecsysError):
    """The store cannot carry out the call now; the same call may succeed later."""


def parse_url(text: str) -> URL:
    """Return the URL with its driver; create the folder of an SQLite file.

    Raises:
        StoreError: it is not a URL, or names neither an SQLite file nor a PostgreSQL database.
    """
    try:
        url = make_url(text)
    except (sa.exc.ArgumentError, ValueError) as error:  # the latter of a port that is no number
        raise StoreError(
            f"--store {_masked(text)}: not a URL; try {DEFAULT_STORE} or postgresql://user@host/name"
        ) from error
    if url.get_backend_name() == "postgresql":
        return url.set(drivername="postgresql+psycopg")
    if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:":
        raise StoreError(f"--store {_masked(text)}: neither an SQLite file nor PostgreSQL; try {DEFAULT_STORE}")
    path = Path(url.database).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError, OSError):  # what is wrong with an existing file, the first connection says
        os.close(os.open(path, os.O_CREAT | os.O_EXCL, mode=OWNER_ONLY))
    return url


def identity(url: URL) -> tuple[int, int] | None:
    """Return device and inode of an SQLite file, None of PostgreSQL.

    Raises:
        StoreError: the file is gone.
    """
    if url.get_backend_name() != "sqlite" or not url.database:
        return None
    try:
        status = os.stat(url.database)
    except OSError as error:
        raise StoreError(f"{describe(url)}: {error.strerror}; put it back and start again") from error
    return status.st_dev, status.st_ino


def describe(url: URL) -> str:
    """Return how messages name the store, without its password."""
    return f"store {url.render_as_string(hide_password=True)}"


def create_engine(url: URL) -> Engine:
    """Return an engine for a URL from `parse_url`; it connects on first use."""
    if url.get_backend_name() == "postgresql":
        limits = {"connect_timeout": BUSY_TIMEOUT_S, "options": f"-c statement_timeout={BUSY_TIMEOUT_S}s"}
        return sa.create_engine(url, pool_pre_ping=True, pool_timeout=BUSY_TIMEOUT_S, connect_args=limits)
    engine = sa.create_engine(url, pool_timeout=BUSY_TIMEOUT_S, connect_args={"timeout": BUSY_TIMEOUT_S})
    sa.event.listen(engine, "connect", _configure_sqlite)
    sa.event.listen(engine, "begin", _begin_immediate)
    return engine


def _configure_sqlite(connection: sqlite3.Connection, record: Any) -> None:
    connection.isolation_level = None  # _begin_immediate opens transactions, not the driver
    _enable_wal(connection)
    connection.execute("PRAGMA synchronous=FULL")


def _enable_wal(connection: sqlite3.Connection) -> None:
    # SQLite does not wait for the lock if two processes switch a new file to WAL at the same time.
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not busy or time.monotonic() > deadline:
                raise
        time.sleep(RETRY_S)


def _begin_immediate(connection: Connection) -> None:
    if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
        # A transaction that reads before it writes would fail if another one wrote in between.
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _masked(text: str) -> str:
    """Return what was given as a URL, without a password."""
    return re.sub(r"(?<=:)[^:@/]+(?=@)", "***", text)
