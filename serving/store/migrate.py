"""Create the tables of a store, or bring them to the revision that this program works with.

In: a connection with an open write transaction. Out: tables at `REVISION`. The caller commits, so that a store is
migrated completely or not at all. `docs/decisions/007-the-store.md` says how to add a revision.
"""

import logging
import threading
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from serving.store.database import BUSY_TIMEOUT_S, StoreError, describe
from serving.store.tables import about, metadata

REVISION = "0009"
"""The latest revision; `tables.py` describes the tables at this revision."""
FIRST_REVISION = "0001"
"""The tables as they were before migrations: `about.version` was 1, and no revision was recorded."""
FOLDER = Path(__file__).parent / "migrations"
OPTIONS: dict[str, Any] = {
    "version_table": "store_revision",  # MLflow's `alembic_version` may be in the same database
    "render_as_batch": True,  # SQLite changes a column by copying the table
    "transactional_ddl": True,
}
"""How Alembic's migration context is configured."""
MIGRATION_LOCK = 1
"""Key of the advisory lock in PostgreSQL; SQLite has locked the file already."""

_alembic_lock = threading.Lock()  # Alembic keeps what it works on in global variables
_recorded = sa.table(OPTIONS["version_table"], sa.column("version_num", sa.Text))


def migrate(connection: Connection) -> None:
    """Bring the tables to `REVISION`.

    Raises:
        StoreError: a newer version of this program migrated the store, or its tables are not the store's.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(MIGRATION_LOCK)))
    existing = set(sa.inspect(connection).get_table_names())
    recorded = None
    if _recorded.name in existing:
        recorded = connection.execute(sa.select(_recorded.c.version_num)).scalar_one()
    if recorded != REVISION:
        _upgrade(connection, recorded or _unrecorded_revision(connection, existing))


def require_revision(connection: Connection) -> None:
    """Return if the tables are those that this program knows.

    Raises:
        StoreError: a newer version of this program has migrated them since the store was opened.
    """
    recorded = connection.scalar(sa.select(_recorded.c.version_num))
    if recorded != REVISION:
        raise StoreError(
            f"{describe(connection.engine.url)}: its tables were migrated to revision {recorded}, and this program writes "
            f"{REVISION}; send requests to the newer servers"
        )


def _unrecorded_revision(connection: Connection, existing: set[str]) -> str | None:
    """Return the revision of a store from before the migrations, or None if its tables don't exist yet."""
    ours = sorted(existing & set(metadata.tables))
    if not ours:
        return None
    version = connection.execute(sa.select(about.c.version)).scalar() if about.name in existing else None
    if version == int(FIRST_REVISION):
        return FIRST_REVISION
    state = f"has a table `{ours[0]}` that it did not make" if version is None else f"schema version {version}"
    raise StoreError(f"{describe(connection.engine.url)}: {state}; name another database")


def _upgrade(connection: Connection, revision: str | None) -> None:
    """Record `revision` and run the revisions after it; all of them if it is None."""
    log = logging.getLogger("alembic")
    log.setLevel(max(log.getEffectiveLevel(), logging.WARNING))
    # Alembic is slow to import, and most stores are up to date when they are opened.
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if revision is not None and revision not in known:
        raise StoreError(
            f"{describe(connection.engine.url)}: its tables are at revision {revision}, newer than the {REVISION} "
            "of this program; upgrade the program, or name another store"
        )
    if connection.dialect.name == "postgresql":
        # Rewriting a large table may take long, but waiting for someone else's lock may not.
        connection.execute(sa.text(f"SET LOCAL lock_timeout = '{BUSY_TIMEOUT_S}s'"))
        connection.execute(sa.text("SET LOCAL statement_timeout = 0"))
    with _alembic_lock:
        if revision is not None:
            command.stamp(config, revision)
        command.upgrade(config, "head")
    connection.execute(about.update().values(version=int(REVISION)))
