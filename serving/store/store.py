"""What must not be lost: events, changed items, answered lists, keys. SQLite, or PostgreSQL by URL.

In: a URL such as `sqlite:///shop.db` or `postgresql://user@host/shop`. What `add_events` and the
other writing calls acknowledge is on disk. Times are microseconds since the epoch, or ordinals.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.engine.url import URL, make_url

from recsys.errors import RecsysError

VERSION = 1
DEFAULT_STORE = "sqlite:///.recsys/store.db"
BUSY_TIMEOUT_S = 5
INSERTED_AT_ONCE = 1000
PAGE = 10_000
"""Rows that an export reads at once."""

Number = sa.BigInteger().with_variant(sa.Integer, "sqlite")

tables = sa.MetaData()
about = sa.Table("about", tables, sa.Column("version", sa.Integer, primary_key=True))
events = sa.Table(
    "events",
    tables,
    sa.Column("number", Number, primary_key=True, autoincrement=True),
    sa.Column("event_id", sa.Text, nullable=False, unique=True),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("item_id", sa.Text, nullable=False),
    sa.Column("event_type", sa.Text, nullable=False),
    sa.Column("timestamp", sa.BigInteger, nullable=False),
    sa.Column("value", sa.Float),
    sa.Column("session_id", sa.Text),
    sa.Column("request_id", sa.Text),
    sa.Column("position", sa.Integer),
    sa.Index("events_of_user", "user_id", "timestamp", "number"),
)
items = sa.Table(
    "item_changes",
    tables,
    sa.Column("number", Number, primary_key=True, autoincrement=True),
    sa.Column("item_id", sa.Text, nullable=False, index=True),
    sa.Column("body", sa.JSON(none_as_null=True)),
    sqlite_autoincrement=True,  # a number is never given twice, also when its row is gone
)
lists = sa.Table(
    "lists",
    tables,
    sa.Column("request_id", sa.Text, primary_key=True),
    sa.Column("user_id", sa.Text, index=True),
    sa.Column("timestamp", sa.BigInteger, nullable=False, index=True),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("items", sa.JSON, nullable=False),
    sa.Column("scores", sa.JSON, nullable=False),
    sa.Column("propensities", sa.JSON, nullable=False),
)
forgotten = sa.Table("forgotten", tables, sa.Column("user_id", sa.Text, primary_key=True))
keys = sa.Table(
    "keys",
    tables,
    sa.Column("key_id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("scopes", sa.Text, nullable=False),
    sa.Column("created", sa.BigInteger, nullable=False),
    sa.Column("revoked", sa.BigInteger),
)


class StoreError(RecsysError):
    """The store cannot do it now; the same call may succeed later."""


@dataclass(frozen=True)
class StoredEvent:
    """One event; a second one of the same `event_id` is the same event."""

    event_id: str
    user_id: str
    item_id: str
    event_type: str
    timestamp: int
    value: float | None = None
    session_id: str | None = None
    request_id: str | None = None
    position: int | None = None


@dataclass(frozen=True)
class ItemChange:
    """An item as it is since the change `number`; without a body it was deleted."""

    number: int
    item_id: str
    body: dict[str, Any] | None


@dataclass(frozen=True)
class ImpressionList:
    """A list that was answered; `propensities` are the probabilities of its explored places, null elsewhere."""

    request_id: str
    user_id: str | None
    timestamp: int
    model: str
    items: list[str]
    scores: list[float]
    propensities: list[float | None]


@dataclass(frozen=True)
class StoredKey:
    """An API key without its secret."""

    key_id: str
    name: str
    digest: str
    scopes: str
    created: int
    revoked: int | None


class Store:
    """A database of events, item changes, lists and keys. Every call is a transaction of its own."""

    def __init__(self, url: str) -> None:
        """Open the database and make its tables where they are missing.

        Raises:
            StoreError: it cannot be opened, or another version of this program made it.
        """
        self.url = _checked(url)
        self._engine = _engine(self.url)
        # Reads see what is committed and take no lock.
        self._reader = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        insert = postgresql.insert if self.url.get_backend_name() == "postgresql" else sqlite.insert
        self._add_event = insert(events).on_conflict_do_nothing(index_elements=["event_id"])
        self._add_list = insert(lists).on_conflict_do_nothing(index_elements=["request_id"])
        self._add_forgotten = insert(forgotten).on_conflict_do_nothing(index_elements=["user_id"])
        self._prepare()

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    def ping(self) -> None:
        """Raise StoreError where the store does not answer."""
        with self._reading() as connection:
            connection.execute(sa.select(1))

    def add_events(self, added: Sequence[StoredEvent]) -> int:
        """Keep `added` and return how many of them are new."""
        with self._writing() as connection:
            count = 0
            for start in range(0, len(added), INSERTED_AT_ONCE):
                rows = [asdict(event) for event in added[start : start + INSERTED_AT_ONCE]]
                count += len(connection.execute(self._add_event.values(rows).returning(events.c.number)).all())
            return count

    def history(self, user_id: str, length: int) -> list[StoredEvent]:
        """Return the user's latest `length` events but impressions, oldest first."""
        query = (
            sa.select(*_columns(events))
            .where(events.c.user_id == user_id, events.c.event_type != "impression")
            .order_by(events.c.timestamp.desc(), events.c.number.desc())
            .limit(length)
        )
        with self._reading() as connection:
            return [StoredEvent(*row) for row in reversed(connection.execute(query).all())]

    def every_event(self) -> Iterator[StoredEvent]:
        """Yield all events in the order in which they came."""
        for row in self._pages(events, events.c.number):
            yield StoredEvent(*row[1:])

    def change_items(self, changes: Sequence[tuple[str, dict[str, Any] | None]]) -> int:
        """Keep the new bodies of items, None for a deleted one; return the number of the last change."""
        with self._writing() as connection:
            if self.url.get_backend_name() == "postgresql":
                # Numbers must become visible in their order, or a reader would miss the lower one.
                connection.execute(sa.text("LOCK TABLE item_changes IN SHARE ROW EXCLUSIVE MODE"))
            number = 0
            for item_id, body in changes:
                connection.execute(items.delete().where(items.c.item_id == item_id))
                found = connection.execute(items.insert(), {"item_id": item_id, "body": body})
                number = int(found.inserted_primary_key[0])  # type: ignore[index]
            return number

    def item_changes(self, after: int = 0) -> list[ItemChange]:
        """Return what changed later than the change `after`, each item once."""
        with self._reading() as connection:
            rows = connection.execute(sa.select(items).where(items.c.number > after).order_by(items.c.number))
            return [ItemChange(*row) for row in rows]

    def add_lists(self, shown: Sequence[ImpressionList]) -> None:
        """Keep answered lists."""
        if shown:
            with self._writing() as connection:
                connection.execute(self._add_list, [vars(one) for one in shown])

    def every_list(self) -> Iterator[ImpressionList]:
        """Yield all lists."""
        for row in self._pages(lists, lists.c.request_id):
            yield ImpressionList(*row)

    def forget_user(self, user_id: str) -> int:
        """Delete the user's events and lists, and have models ignore what they know; return the rows deleted."""
        with self._writing() as connection:
            gone = [connection.execute(table.delete().where(table.c.user_id == user_id)) for table in (events, lists)]
            connection.execute(self._add_forgotten, {"user_id": user_id})
            return sum(result.rowcount for result in gone)

    def is_forgotten(self, user_id: str) -> bool:
        """Return whether the user's earlier data were deleted."""
        with self._reading() as connection:
            query = sa.select(forgotten.c.user_id).where(forgotten.c.user_id == user_id)
            return connection.execute(query).first() is not None

    def forgotten_users(self) -> list[str]:
        """Return all users whose data were deleted."""
        with self._reading() as connection:
            return list(connection.execute(sa.select(forgotten.c.user_id)).scalars())

    def prune(self, before: int) -> tuple[int, int]:
        """Delete events and lists older than the time `before`; return how many of each."""
        with self._writing() as connection:
            gone = [connection.execute(table.delete().where(table.c.timestamp < before)) for table in (events, lists)]
            return gone[0].rowcount, gone[1].rowcount

    def add_key(self, key: StoredKey) -> None:
        """Keep a key."""
        with self._writing() as connection:
            connection.execute(keys.insert(), asdict(key))

    def every_key(self) -> list[StoredKey]:
        """Return all keys, revoked ones too, oldest first."""
        with self._reading() as connection:
            return [StoredKey(*row) for row in connection.execute(sa.select(keys).order_by(keys.c.created))]

    def revoke_key(self, key_id: str) -> bool:
        """Revoke a key; return whether there was one to revoke."""
        with self._writing() as connection:
            query = keys.update().where(keys.c.key_id == key_id, keys.c.revoked.is_(None))
            return connection.execute(query, {"revoked": time.time_ns() // 1000}).rowcount > 0

    def _pages(self, table: sa.Table, key: sa.Column[Any]) -> Iterator[Any]:
        place = list(table.c).index(key)
        last = None
        while True:
            query = sa.select(table).order_by(key).limit(PAGE)
            with self._reading() as connection:
                rows = connection.execute(query if last is None else query.where(key > last)).all()
            yield from rows
            if len(rows) < PAGE:
                return
            last = rows[-1][place]

    def _prepare(self) -> None:
        with self._writing() as connection:
            if self.url.get_backend_name() == "postgresql":
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(VERSION)))
            tables.create_all(connection)
            found = connection.execute(sa.select(about.c.version)).scalar()
            if found is None:
                connection.execute(about.insert(), {"version": VERSION})
            elif found != VERSION:
                raise StoreError(f"{self}: made by another version (schema {found}, this is {VERSION}); name another")

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with self._explained(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with self._explained(), self._reader.connect() as connection:
            yield connection

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sa.exc.SQLAlchemyError as error:
            lines = str(getattr(error, "orig", None) or error).split("\n")
            reason = next((line.strip() for line in lines if line.strip()), type(error).__name__)
            raise StoreError(f"{self}: {reason}; see that it runs, has space and may be written") from error

    def __str__(self) -> str:
        return f"store {self.url.render_as_string(hide_password=True)}"


def _columns(table: sa.Table) -> list[sa.Column[Any]]:
    return [column for column in table.c if column.name != "number"]


def _checked(url: str) -> URL:
    try:
        parsed = make_url(url)
    except sa.exc.ArgumentError as error:
        raise StoreError(f"--store {url}: not a URL; try {DEFAULT_STORE} or postgresql://user@host/name") from error
    if parsed.get_backend_name() == "postgresql":
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() != "sqlite" or not parsed.database or parsed.database == ":memory:":
        raise StoreError(f"--store {url}: neither an SQLite file nor PostgreSQL; try {DEFAULT_STORE}")
    Path(parsed.database).absolute().parent.mkdir(parents=True, exist_ok=True)
    return parsed


def _engine(url: URL) -> Engine:
    if url.get_backend_name() == "postgresql":
        limits = {"connect_timeout": BUSY_TIMEOUT_S, "options": f"-c statement_timeout={BUSY_TIMEOUT_S}s"}
        return sa.create_engine(url, pool_pre_ping=True, pool_timeout=BUSY_TIMEOUT_S, connect_args=limits)
    engine = sa.create_engine(url, pool_timeout=BUSY_TIMEOUT_S, connect_args={"timeout": BUSY_TIMEOUT_S})

    @sa.event.listens_for(engine, "connect")
    def configure(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # transactions begin below, not in the driver
        for setting in ("journal_mode=WAL", "synchronous=FULL"):
            connection.execute(f"PRAGMA {setting}")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
            # A transaction that first reads and then writes would fail when another writes in between.
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine
