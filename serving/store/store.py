"""Data that serving must not lose: events, changed items, lists that were returned, scenarios, and API keys.

In: a URL such as `sqlite:///shop.db` or `postgresql://user@host/shop`. Out: a `Store`. Once `add_events` or another
writing call returns, its data is on disk.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from serving.store.database import StoreError, create_engine, describe, identity, parse_url
from serving.store.migrate import migrate, require_revision
from serving.store.rows import ImpressionList, ItemChange, StoredEvent, StoredExperiment, StoredKey, StoredScenario
from serving.store.tables import about, events, experiments, forgotten, item_changes, keys, lists, scenarios, users

__all__ = [
    "ImpressionList",
    "ItemChange",
    "Store",
    "StoreError",
    "StoredEvent",
    "StoredExperiment",
    "StoredKey",
    "StoredScenario",
]

INSERT_ROWS = 1000
"""Users or changes that one statement names."""
PAGE_ROWS = 10_000
"""Rows that an export reads at a time."""

# Every list reads these two: to compose them anew takes as long as to execute them.
LATEST_EVENTS = (
    sa.select(*(column for column in events.c if column is not events.c.number))
    .where(events.c.user_id == sa.bindparam("user_id"), events.c.event_type != "impression")
    .order_by(events.c.timestamp.desc(), events.c.number.desc())
    .limit(sa.bindparam("length", type_=sa.Integer))
)
FORGOTTEN_AT = sa.select(forgotten.c.at).where(forgotten.c.user_id == sa.bindparam("user_id"))


class Store:
    """A database of events, item changes, lists, scenarios and keys. Every call is a transaction of its own.

    Every method raises StoreError if the database is unreachable, full or read-only.
    """

    def __init__(self, url: str) -> None:
        """Open the database; create its tables or migrate them to the latest revision.

        Raises:
            StoreError: it cannot be opened, or a newer version of this program migrated it.
        """
        self.url = parse_url(url)
        self.engine = create_engine(self.url)
        # Reads see what is committed and take no lock.
        self._reader = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        insert = postgresql.insert if self.url.get_backend_name() == "postgresql" else sqlite.insert
        add_event = insert(events).on_conflict_do_nothing(index_elements=["event_id"])
        self._add_event = add_event.returning(events.c.number)
        self._add_list = insert(lists).on_conflict_do_nothing(index_elements=["request_id"])
        add_forgotten = insert(forgotten)
        self._add_forgotten = add_forgotten.on_conflict_do_update(
            index_elements=["user_id"], set_={"at": add_forgotten.excluded.at}
        )
        put_user = insert(users)
        self._put_user = put_user.on_conflict_do_update(
            index_elements=["user_id"], set_={"attributes": put_user.excluded.attributes, "at": put_user.excluded.at}
        )
        self._identity = identity(self.url)
        with self._explained(), self.engine.begin() as connection:
            migrate(connection)

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()

    def ping(self) -> None:
        """Raise StoreError if the store does not answer, is read-only, or was migrated by a newer version of this program."""
        with self._writing() as connection:
            connection.execute(about.update().values(version=about.c.version))
            connection.rollback()

    def add_events(self, added: Sequence[StoredEvent]) -> int:
        """Insert the events whose `event_id` is new; return how many there were."""
        with self._writing() as connection:
            rows = [vars(event) for event in added]
            return len(connection.execute(self._add_event, rows).all()) if rows else 0

    def history(self, user_id: str, length: int) -> list[StoredEvent]:
        """Return the user's latest `length` events, oldest first, without impressions."""
        with self._reading() as connection:
            rows = connection.execute(LATEST_EVENTS, {"user_id": user_id, "length": length}).all()
        return [StoredEvent(*row) for row in reversed(rows)]

    def every_event(self) -> Iterator[StoredEvent]:
        """Yield all events in order of arrival."""
        for row in self._pages(events, events.c.number):
            yield StoredEvent(*row[1:])

    def events_since(self, moment: int) -> Iterator[StoredEvent]:
        """Yield the events that are no older than the time `moment`, in order of arrival."""
        for row in self._pages(events, events.c.number, events.c.timestamp >= moment):
            yield StoredEvent(*row[1:])

    def events_after(self, number: int, moment: int) -> Iterator[tuple[int, str, str, str, int, dict[str, Any] | None]]:
        """Yield number, user, item, type, time and context of the events after a number and a time `moment`, in order of arrival."""
        names = ("number", "user_id", "item_id", "event_type", "timestamp", "context")
        columns = [events.c[name] for name in names]
        later = (events.c.number > number, events.c.timestamp > moment)
        for row in self._pages(events, events.c.number, *later, columns=columns):
            yield tuple(row)

    def events_of(self, user_ids: Sequence[str]) -> Iterator[StoredEvent]:
        """Yield all events of some users."""
        for start in range(0, len(user_ids), INSERT_ROWS):
            of_some = events.c.user_id.in_(user_ids[start : start + INSERT_ROWS])
            for row in self._pages(events, events.c.number, of_some):
                yield StoredEvent(*row[1:])

    def change_items(self, changes: Sequence[tuple[str, dict[str, Any] | None]]) -> int:
        """Store the new bodies of items, None for a deleted item; return the number of the last change."""
        with self._writing() as connection:
            if self.url.get_backend_name() == "postgresql":
                # A lower number must not become visible after a higher one, or readers would miss it.
                connection.execute(sa.text("LOCK TABLE item_changes IN SHARE ROW EXCLUSIVE MODE"))
            number, now = 0, time.time_ns() // 1000
            for item_id, body in changes:
                connection.execute(item_changes.delete().where(item_changes.c.item_id == item_id))
                inserted = connection.execute(item_changes.insert(), {"item_id": item_id, "body": body, "at": now})
                number = int(inserted.inserted_primary_key[0])  # type: ignore[index]
            return number

    def item_changes(self, after: int = 0) -> list[ItemChange]:
        """Return the items that changed after the change number `after`, each with its latest change."""
        query = sa.select(item_changes).where(item_changes.c.number > after).order_by(item_changes.c.number)
        with self._reading() as connection:
            return [ItemChange(*row) for row in connection.execute(query)]

    def add_lists(self, added: Sequence[ImpressionList]) -> None:
        """Insert the lists whose `request_id` is new, but for those of users who were forgotten since."""
        if not added:
            return
        with self._writing() as connection:
            self._lock_forgotten(connection, "ROW SHARE")
            owners = {impressions.user_id for impressions in added if impressions.user_id is not None}
            query = sa.select(forgotten).where(forgotten.c.user_id.in_(owners))
            since = {row.user_id: row.at for row in connection.execute(query)}
            rows = [vars(one) for one in added if one.user_id not in since or one.timestamp > since[one.user_id]]
            if rows:
                connection.execute(self._add_list, rows)

    def list_of(self, request_id: str) -> ImpressionList | None:
        """Return the list that answered a request; None where there is none."""
        with self._reading() as connection:
            row = connection.execute(sa.select(lists).where(lists.c.request_id == request_id)).first()
        return ImpressionList(*row) if row else None

    def every_list(self) -> Iterator[ImpressionList]:
        """Yield all lists, in order of `request_id`."""
        for row in self._pages(lists, lists.c.request_id):
            yield ImpressionList(*row)

    def lists_since(self, moment: int, limit: int) -> list[ImpressionList]:
        """Return at most `limit` lists that are no older than the time `moment`: the first by their random `request_id`."""
        query = sa.select(lists).where(lists.c.timestamp >= moment).order_by(lists.c.request_id).limit(limit)
        with self._reading() as connection:
            return [ImpressionList(*row) for row in connection.execute(query)]

    def put_user(self, user_id: str, attributes: Mapping[str, Any]) -> None:
        """Set the attributes of a user, in place of those that were set before."""
        row = {"user_id": user_id, "attributes": dict(attributes), "at": time.time_ns() // 1000}
        with self._writing() as connection:
            connection.execute(self._put_user, row)

    def user_attributes(self, user_id: str) -> dict[str, Any]:
        """Return the attributes that were set of a user."""
        with self._reading() as connection:
            return connection.scalar(sa.select(users.c.attributes).where(users.c.user_id == user_id)) or {}

    def every_user(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield all users whose attributes were set, with these."""
        for row in self._pages(users, users.c.user_id):
            yield row.user_id, row.attributes

    def forget_user(self, user_id: str) -> int:
        """Delete the user's events, attributes and lists, have models ignore the user's past, and return the rows deleted.

        Searches are lists without a user; those from which the user chose an item are deleted, too.
        """
        with self._writing() as connection:
            self._lock_forgotten(connection, "EXCLUSIVE")
            deleted = sum(
                connection.execute(table.delete().where(_of_user(table, user_id))).rowcount
                for table in (lists, events, users)  # the events tell which searches were the user's
            )
            connection.execute(self._add_forgotten, {"user_id": user_id, "at": time.time_ns() // 1000})
            return deleted

    def forgotten_at(self, user_id: str) -> int | None:
        """Return when `forget_user` was called last for the user; None if it never was."""
        with self._reading() as connection:
            return connection.scalar(FORGOTTEN_AT, {"user_id": user_id})

    def forgotten_users(self) -> dict[str, int]:
        """Return all users for whom `forget_user` was called, with the time of the last call."""
        with self._reading() as connection:
            return {row.user_id: row.at for row in connection.execute(sa.select(forgotten))}

    def everything_of(self, user_id: str) -> dict[str, Any]:
        """Return all that is kept of a user: attributes, events and lists, oldest first, and when the user was forgotten."""
        with self._reading() as connection:
            kept = {
                table.name: [
                    dict(row)
                    for row in connection.execute(
                        sa.select(table).where(_of_user(table, user_id)).order_by(table.c.timestamp)
                    ).mappings()
                ]
                for table in (events, lists)
            }
        known = {"forgotten_at": self.forgotten_at(user_id), "attributes": self.user_attributes(user_id)}
        return {"user_id": user_id, **known, **kept}

    def prune(self, before: int) -> tuple[int, int]:
        """Delete events and lists older than the time `before`; return how many of each.

        Some thousand rows at a time, so that nothing that is written meanwhile waits for long.
        """
        with self._reading() as connection:
            first, last = connection.execute(
                sa.select(sa.func.min(events.c.number), sa.func.max(events.c.number))
            ).one()
        old = events.delete().where(events.c.timestamp < before)
        pruned_events = sum(
            self._delete(old.where(events.c.number.between(start, start + PAGE_ROWS - 1)))
            for start in range(first or 0, (last or -1) + 1, PAGE_ROWS)
        )
        some = sa.select(lists.c.request_id).where(lists.c.timestamp < before).limit(PAGE_ROWS)
        pruned_lists = 0
        while deleted := self._delete(lists.delete().where(lists.c.request_id.in_(some))):
            pruned_lists += deleted
        return pruned_events, pruned_lists

    def prune_item_changes(self, numbers: Sequence[int]) -> int:
        """Delete the item changes with these numbers, but for those of items that changed since; return how many."""
        parts = (numbers[start : start + INSERT_ROWS] for start in range(0, len(numbers), INSERT_ROWS))
        return sum(self._delete(item_changes.delete().where(item_changes.c.number.in_(part))) for part in parts)

    def _delete(self, statement: sa.Delete) -> int:
        with self._writing() as connection:
            return connection.execute(statement).rowcount

    def add_key(self, key: StoredKey) -> None:
        """Insert a key."""
        with self._writing() as connection:
            connection.execute(keys.insert(), asdict(key))

    def every_key(self) -> list[StoredKey]:
        """Return all keys, including revoked ones, oldest first."""
        with self._reading() as connection:
            return [StoredKey(*row) for row in connection.execute(sa.select(keys).order_by(keys.c.created))]

    def revoke_key(self, key_id: str) -> bool:
        """Revoke a key; return False if there is no such key, or it was revoked before."""
        with self._writing() as connection:
            query = keys.update().where(keys.c.key_id == key_id, keys.c.revoked.is_(None))
            return connection.execute(query, {"revoked": time.time_ns() // 1000}).rowcount > 0

    def start_experiment(self, experiment: StoredExperiment) -> bool:
        """Insert a running experiment; return False, and insert nothing, where one has its name or another runs."""
        others = sa.select(experiments.c.name).where(
            (experiments.c.name == experiment.name) | experiments.c.stopped.is_(None)
        )
        with self._writing() as connection:
            if self.url.get_backend_name() == "postgresql":
                connection.execute(sa.text("LOCK TABLE experiments IN SHARE ROW EXCLUSIVE MODE"))
            if connection.execute(others).first():
                return False
            connection.execute(experiments.insert(), asdict(experiment))
            return True

    def stop_experiment(self, name: str, at: int) -> bool:
        """Stop an experiment at the time `at`; return False if there is no such experiment, or it was stopped before."""
        query = experiments.update().where(experiments.c.name == name, experiments.c.stopped.is_(None))
        with self._writing() as connection:
            return connection.execute(query.values(stopped=at)).rowcount > 0

    def every_experiment(self) -> list[StoredExperiment]:
        """Return all experiments, oldest first."""
        with self._reading() as connection:
            rows = connection.execute(sa.select(experiments).order_by(experiments.c.started))
            return [StoredExperiment(*row) for row in rows]

    def lists_of(self, experiment: str) -> Iterator[ImpressionList]:
        """Yield the lists that were served in an experiment."""
        for row in self._pages(lists, lists.c.request_id, lists.c.experiment == experiment):
            yield ImpressionList(*row)

    def add_scenario(self, name: str, definition: dict[str, Any]) -> int:
        """Store a further version of a scenario, which is not on yet, and return its number."""
        with self._writing() as connection:
            self._lock_scenarios(connection)
            latest = connection.scalar(sa.select(sa.func.max(scenarios.c.version)).where(scenarios.c.name == name))
            added = StoredScenario(name, (latest or 0) + 1, definition, time.time_ns() // 1000)
            connection.execute(scenarios.insert(), asdict(added))
            return added.version

    def scenarios(self, name: str | None = None, *, on: bool = False) -> list[StoredScenario]:
        """Return all versions of all scenarios, or of one, or only those that are on; by name, the latest version last."""
        query = sa.select(scenarios).order_by(scenarios.c.name, scenarios.c.version)
        query = query if name is None else query.where(scenarios.c.name == name)
        query = query.where(scenarios.c.is_on) if on else query
        with self._reading() as connection:
            return [StoredScenario(*row) for row in connection.execute(query)]

    def switch_scenario(self, name: str, version: int | None) -> bool:
        """Have one version of a scenario on, or none; return False if there is no such version."""
        with self._writing() as connection:
            self._lock_scenarios(connection)
            of_name = scenarios.c.name == name
            this = scenarios.c.version == version
            known = sa.select(sa.func.count()).where(of_name, this if version is not None else sa.true())
            if not connection.scalar(known):
                return False
            connection.execute(scenarios.update().where(of_name).values(is_on=False))
            if version is not None:
                now = time.time_ns() // 1000
                connection.execute(scenarios.update().where(of_name, this).values(is_on=True, switched_on=now))
            return True

    def delete_scenario(self, name: str) -> int:
        """Delete all versions of a scenario; return how many there were."""
        return self._delete(scenarios.delete().where(scenarios.c.name == name))

    def _lock_scenarios(self, connection: Connection) -> None:
        """Have edits wait for one another, so that versions are numbered one by one and one of them is on."""
        if self.url.get_backend_name() == "postgresql":
            connection.execute(sa.text("LOCK TABLE scenarios IN SHARE ROW EXCLUSIVE MODE"))

    def _lock_forgotten(self, connection: Connection, mode: str) -> None:
        """Have a deletion wait for lists that are being written, and these for it; SQLite has one writer anyway."""
        if self.url.get_backend_name() == "postgresql":
            connection.execute(sa.text(f"LOCK TABLE forgotten IN {mode} MODE"))

    def _pages(
        self,
        table: sa.Table,
        key: sa.Column[Any],
        *conditions: sa.ColumnElement[bool],
        columns: Sequence[sa.Column[Any]] = (),
    ) -> Iterator[Any]:
        """Yield all rows that meet the conditions in order of `key`, a page at a time so that no query takes long.

        They have the `columns`, those of `table` by default.
        """
        columns = columns or list(table.c)
        key_index = list(columns).index(key)
        query = sa.select(*columns).where(*conditions).order_by(key).limit(PAGE_ROWS)
        page = query
        while True:
            with self._reading() as connection:
                rows = connection.execute(page).all()
            yield from rows
            if len(rows) < PAGE_ROWS:
                return
            page = query.where(key > rows[-1][key_index])

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        self._require_same_file()
        with self._explained(), self.engine.begin() as connection:
            require_revision(connection)
            yield connection

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        self._require_same_file()
        with self._explained(), self._reader.connect() as connection:
            yield connection

    def _require_same_file(self) -> None:
        """Raise StoreError if the SQLite file was removed or replaced: what is written into it then would be lost."""
        if identity(self.url) != self._identity:
            raise StoreError(f"{self}: the file was replaced while it was open; start again with the one that is right")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn an error of the database into a StoreError of one line."""
        try:
            yield
        except sa.exc.SQLAlchemyError as error:
            lines = str(getattr(error, "orig", None) or error).split("\n")
            reason = next((line.strip() for line in lines if line.strip()), type(error).__name__)
            raise StoreError(f"{self}: {reason}; check that it is running, writable and has free space") from error

    def __str__(self) -> str:
        return describe(self.url)


def _of_user(table: sa.Table, user_id: str) -> sa.ColumnElement[bool]:
    """Hold for the rows of a user: those that name the user, and searches from which the user chose an item."""
    named = table.c.user_id == user_id
    if table is not lists:
        return named
    chosen = sa.select(events.c.request_id).where(events.c.user_id == user_id, events.c.request_id.is_not(None))
    return named | (lists.c.query.is_not(None) & lists.c.request_id.in_(chosen))
