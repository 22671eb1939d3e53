"""Stores of earlier versions open with everything in them, and a migration happens completely or not at all."""

import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import produce_migrations, render_python_code
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from serving.store import migrate
from serving.store.database import parse_url
from serving.store.store import ImpressionList, ItemChange, Store, StoredEvent, StoreError
from serving.store.tables import metadata

HERE = Path(__file__).parent
FOLDER, REVISION = migrate.FOLDER, migrate.REVISION
NEXT_REVISION = '''
"""A wider type, for which SQLite copies the table."""
import sqlalchemy as sa
from alembic import op

revision = "9000"
down_revision = "{latest}"


def upgrade() -> None:
    with op.batch_alter_table("events") as batch:
        batch.alter_column("value", type_=sa.Double)
        batch.add_column(sa.Column("country", sa.Text))
'''


@pytest.fixture
def version_1(url: str) -> str:
    """Return the URL of a store that a program from before the migrations made, with a few rows of each kind."""
    if url.startswith("sqlite"):
        shutil.copy(HERE / "store_v1.db", parse_url(url).database or "")
    else:
        with _connect(url) as connection:
            connection.exec_driver_sql((HERE / "store_v1.sql").read_text("utf-8"))
            connection.exec_driver_sql("RESET search_path")
            connection.commit()
    return url


@pytest.fixture
def next_folder(tmp_path: Path) -> Path:
    """Return a copy of the migrations with one revision more than this program has."""
    folder = tmp_path / "migrations"
    shutil.copytree(migrate.FOLDER, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "versions" / "v9000_next.py").write_text(NEXT_REVISION.format(latest=migrate.REVISION))
    return folder


@pytest.fixture
def next_program(next_folder: Path) -> Iterator[pytest.MonkeyPatch]:
    """Give this program one revision more, until the patch is undone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(migrate, "FOLDER", next_folder)
        patch.setattr(migrate, "REVISION", "9000")
        yield patch


def test_a_store_of_version_1_opens_with_everything_in_it(version_1: str) -> None:
    """Events, item changes, lists, keys and forgotten users."""
    with closing(Store(version_1)) as store:
        _assert_rows_of_version_1(store)


def test_a_store_of_version_1_goes_on_after_its_migration(version_1: str) -> None:
    """Known events stay known, numbers go on, and a second open finds what was written."""
    with closing(Store(version_1)) as store:
        assert store.add_events([StoredEvent("e1", "anna", "rug", "click", 5), _event("new", 7)]) == 1
        assert store.change_items([("lamp", None)]) == 5
        assert store.revoke_key("1a2b3c4d") and not store.revoke_key("5e6f7a8b")
    with closing(Store(version_1)) as store:
        assert [event.event_id for event in store.every_event()] == ["e1", "e2", "ø3", "e4", "new"]
        [deleted] = store.item_changes(4)
        assert (deleted.number, deleted.item_id, deleted.body) == (5, "lamp", None) and deleted.at


def test_migrations_agree_with_the_tables(url: str) -> None:
    """Where they do not, the message has the operations that are missing in the latest revision."""
    Store(url).close()
    with _connect(url) as connection:
        context = MigrationContext.configure(connection, opts=migrate.OPTIONS)
        missing = produce_migrations(context, metadata).upgrade_ops
        assert missing is not None
        assert missing.is_empty(), render_python_code(missing, render_as_batch=True)


def test_a_missing_migration_is_noticed(url: str) -> None:
    """The comparison of the test above sees a new column, a lost index and another type."""
    Store(url).close()
    changed = sa.MetaData()
    for table in metadata.tables.values():
        table.to_metadata(changed)
    changed.tables["events"].append_column(sa.Column("country", sa.Text))
    changed.tables["lists"].indexes.clear()
    changed.tables["keys"].c.scopes.type = sa.Integer()
    with _connect(url) as connection:
        context = MigrationContext.configure(connection, opts=migrate.OPTIONS)
        missing = produce_migrations(context, changed).upgrade_ops
        assert missing is not None
        operations = render_python_code(missing, render_as_batch=True)
    for operation in ("add_column(sa.Column('country'", "drop_index", "alter_column('scopes'"):
        assert operation in operations


def test_a_migrated_store_equals_a_new_one(version_1: str, tmp_path: Path) -> None:
    """Down to the text of the tables in SQLite, and to columns and indexes in PostgreSQL."""
    if version_1.startswith("sqlite"):
        Store(version_1).close()
        Store(f"sqlite:///{tmp_path}/new.db").close()
        assert _sqlite_tables(tmp_path / "store.db") == _sqlite_tables(tmp_path / "new.db")
        return
    Store(version_1).close()
    migrated = _postgresql_tables(version_1)
    with _connect(version_1) as connection:
        connection.exec_driver_sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        connection.commit()
    Store(version_1).close()
    assert _postgresql_tables(version_1) == migrated


def test_the_latest_revision_is_the_one_that_the_program_names() -> None:
    """Revisions are numbers, in one line from the first to the latest."""
    revisions = [script.revision for script in _scripts().walk_revisions()]
    assert _scripts().get_heads() == [migrate.REVISION]
    assert [int(revision) for revision in revisions] == list(range(len(revisions), 0, -1))
    assert revisions[-1] == migrate.FIRST_REVISION


@pytest.mark.usefixtures("next_program")
def test_a_later_revision_rewrites_a_table_and_keeps_its_rows(version_1: str) -> None:
    """Constraints too: an event is still kept once."""
    with closing(Store(version_1)) as store:
        _assert_rows_of_version_1(store)
        assert store.add_events([StoredEvent("e1", "anna", "rug", "click", 5), _event("new", 7)]) == 1
    with _connect(version_1) as connection:
        columns = [column["name"] for column in sa.inspect(connection).get_columns("events")]
        assert "country" in columns
        # Programs from before the migrations read this number, and refuse a store whose number is not 1.
        assert connection.exec_driver_sql("SELECT version FROM about").scalar_one() == 9000


def test_a_store_of_a_newer_program_is_refused(version_1: str, next_program: pytest.MonkeyPatch) -> None:
    """One line with the store, the revision and what to do; the newer program opens it as before."""
    Store(version_1).close()
    with next_program.context() as this_program:
        this_program.setattr(migrate, "FOLDER", FOLDER)
        this_program.setattr(migrate, "REVISION", REVISION)
        refusal = f"revision 9000, newer than the {REVISION} .*upgrade the program"
        with pytest.raises(StoreError, match=refusal) as raised:
            Store(version_1)
        assert "\n" not in str(raised.value) and "store " in str(raised.value)
    with closing(Store(version_1)) as store:
        _assert_rows_of_version_1(store)


def test_a_schema_version_that_never_was_is_refused(version_1: str) -> None:
    """A store without recorded revisions can only be of version 1."""
    with _connect(version_1) as connection:
        connection.exec_driver_sql("UPDATE about SET version = 99")
        connection.commit()
    with pytest.raises(StoreError, match="schema version 99; name another database"):
        Store(version_1)
    with _connect(version_1) as connection:
        assert not sa.inspect(connection).has_table("store_revision")


def test_tables_of_another_program_are_refused(url: str) -> None:
    """Rather than taken for the store's; nothing is created beside them."""
    with _connect(url) as connection:
        connection.exec_driver_sql("CREATE TABLE keys (name TEXT)")
        connection.commit()
    with pytest.raises(StoreError, match="a table `keys` that it did not make; name another database"):
        Store(url)
    with _connect(url) as connection:
        assert sa.inspect(connection).get_table_names() == ["keys"]


def test_unrelated_tables_in_the_database_do_no_harm(url: str) -> None:
    """MLflow's may be in the same database, with Alembic's version table for its own revisions."""
    with _connect(url) as connection:
        connection.exec_driver_sql("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        connection.exec_driver_sql("INSERT INTO alembic_version VALUES ('abc')")
        connection.commit()
    Store(url).close()
    with closing(Store(url)) as store, _connect(url) as connection:
        assert store.add_events([_event("e1", 1)]) == 1
        assert connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar_one() == "abc"


def test_threads_that_open_a_new_store_at_once_all_get_it(url: str) -> None:
    """One creates the tables, and the others wait."""
    barrier, added = threading.Barrier(6), list[int]()

    def first_open(worker: int) -> None:
        barrier.wait()
        with closing(Store(url)) as store:
            added.append(store.add_events([_event(f"e{worker}", worker)]))

    threads = [threading.Thread(target=first_open, args=(worker,)) for worker in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert added == [1] * 6


def test_a_new_file_that_another_connection_locks_is_waited_for(tmp_path: Path) -> None:
    """SQLite itself fails at once if a file is to be switched to WAL while another connection has a write lock."""
    with closing(sqlite3.connect(tmp_path / "store.db", isolation_level=None, check_same_thread=False)) as other:
        other.execute("CREATE TABLE unrelated (number INTEGER)")
        other.execute("BEGIN IMMEDIATE")
        with closing(sqlite3.connect(tmp_path / "store.db")) as waiting, pytest.raises(sqlite3.OperationalError):
            waiting.execute("PRAGMA journal_mode=WAL")
        release = threading.Timer(0.3, other.execute, ["COMMIT"])
        release.start()
        with closing(Store(f"sqlite:///{tmp_path}/store.db")) as store:
            assert store.add_events([_event("e1", 1)]) == 1
        release.join()


def test_threads_create_different_stores_at_once(tmp_path: Path) -> None:
    """Alembic itself can work on one database at a time in a process."""
    urls = [f"sqlite:///{tmp_path}/{number}.db" for number in range(12)]
    with ThreadPoolExecutor(len(urls)) as pool:
        for store in pool.map(Store, urls):
            assert store.add_events([_event("e1", 1)]) == 1
            store.close()


@pytest.mark.parametrize("old", [False, True], ids=["new", "version 1"])
def test_processes_that_open_a_store_at_once_migrate_it_once(url: str, old: bool, request: Any) -> None:
    """Each adds an event. Nothing is logged, even where the program logs at level INFO."""
    program = (
        "import logging, sys; logging.basicConfig(level=logging.INFO)\n"
        "from serving.store.store import Store, StoredEvent\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "Store(sys.argv[1]).add_events([StoredEvent(sys.argv[2], 'u', 'i', 'click', 1)])\n"
    )
    if old:
        request.getfixturevalue("version_1")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = [sys.executable, "-c", program, url]
    openers = [subprocess.Popen([*command, f"new {n}"], **pipes, text=True) for n in range(4)]  # type: ignore[call-overload]
    for opener in openers:
        opener.stdout.readline()
    for opener in openers:
        opener.stdin.write("\n")
        opener.stdin.flush()
    assert [opener.communicate()[1] for opener in openers] == [""] * 4
    with closing(Store(url)) as store:
        assert len(list(store.every_event())) == 4 + 4 * old
    with _connect(url) as connection:
        assert connection.exec_driver_sql("SELECT version_num FROM store_revision").scalar_one() == migrate.REVISION


@pytest.mark.parametrize("old", [False, True], ids=["new", "version 1"])
def test_a_kill_9_at_any_statement_leaves_the_old_store_or_the_new_one(
    tmp_path: Path, next_folder: Path, old: bool
) -> None:
    """One process per statement is killed before it, and the last one runs to the end; all files open afterwards."""
    program = (
        "import os, shutil, signal, sys\n"
        "import alembic.command, sqlalchemy as sa\n"
        "from pathlib import Path\n"
        "from serving.store import migrate, store\n"
        "migrate.FOLDER, migrate.REVISION = Path(sys.argv[2]), '9000'\n"
        "for survived in range(200):\n"
        "    path = Path(sys.argv[1]) / f'{survived}.db'\n"
        "    if sys.argv[3:]: shutil.copy(sys.argv[3], path)\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        left = [survived]\n"
        "        def countdown(*args):\n"
        "            left[0] -= 1\n"
        "            if left[0] < 0: os.kill(os.getpid(), signal.SIGKILL)\n"
        "        for name in ('before_cursor_execute', 'commit'): sa.event.listen(sa.engine.Engine, name, countdown)\n"
        "        store.Store(f'sqlite:///{path}').close()\n"
        "        os._exit(0)\n"
        "    if os.waitpid(child, 0)[1] == 0: break\n"
    )
    start = [str(HERE / "store_v1.db")] if old else []
    folder = tmp_path / "killed"
    folder.mkdir()
    subprocess.run([sys.executable, "-c", program, str(folder), str(next_folder), *start], check=True)
    files = [folder / f"{survived}.db" for survived in range(len(list(folder.glob("*.db"))))]
    new = _sqlite_tables(files[-1])
    before = _sqlite_tables(HERE / "store_v1.db", immutable=True) if old else set()
    assert len(files) > 15 and "country" in str(new)
    for path in files[:-1]:
        assert _sqlite_tables(path) in (before, new)
    for path in files:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(migrate, "FOLDER", next_folder)
            patch.setattr(migrate, "REVISION", "9000")
            with closing(Store(f"sqlite:///{path}")) as store:
                assert store.add_events([_event("new", 1)]) == 1
                assert len(list(store.every_event())) == 1 + 4 * old
        assert _sqlite_tables(path) == new


def _assert_rows_of_version_1(store: Store) -> None:
    at = 1_700_000_000_000_000
    assert list(store.every_event()) == [
        StoredEvent("e1", "anna", "lamp", "click", at, None, "s1", "r1", 1),
        StoredEvent("e2", "anna", "sofa", "purchase", at + 500_000, 249.5, "s1", "r1", 2),
        StoredEvent("ø3", "ユーザー", "lamp", "like", at + 1_000_000, 4.5),
        StoredEvent("e4", "bert", "rug", "impression", at + 2_000_000, None, None, "r2", 1),
    ]
    assert [event.event_id for event in store.history("anna", 9)] == ["e1", "e2"]
    assert store.item_changes() == [
        ItemChange(1, "lamp", {"title": "Red lamp", "tags": ["new", "red"], "price": 19.0}),
        ItemChange(3, "sofa", None),
        ItemChange(4, "rug", {"title": "Blue rug"}),
    ]
    positions: list[list[float | None]] = [[None, 0.05, None], [None]]
    assert list(store.every_list()) == [
        ImpressionList(
            "r1", "anna", at - 1_000_000, "recsys/1", ["lamp", "sofa", "rug"], [3.0, 2.0, 1.5], positions[0]
        ),
        ImpressionList("r2", None, at + 1_500_000, "recsys/2", ["rug"], [0.5], positions[1]),
    ]
    assert list(store.forgotten_users()) == ["gone"] and store.forgotten_users()["gone"] > at
    assert [(key.key_id, key.name, key.digest, key.scopes, key.revoked is None) for key in store.every_key()] == [
        ("1a2b3c4d", "shop", "0" * 64, "read,write", True),
        ("5e6f7a8b", "old job", "f" * 64, "admin", False),
    ]


def _event(event_id: str, timestamp: int) -> StoredEvent:
    return StoredEvent(event_id, "u", "i", "click", timestamp)


def _scripts() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", str(migrate.FOLDER))
    return ScriptDirectory.from_config(config)


def _connect(url: str) -> sa.engine.Connection:
    return sa.create_engine(parse_url(url), poolclass=sa.pool.NullPool).connect()


def _sqlite_tables(path: Path, *, immutable: bool = False) -> set[tuple[str, str]]:
    uri = f"file:{path}?immutable=1" if immutable else f"file:{path}"
    with closing(sqlite3.connect(uri, uri=True)) as connection:
        return set(connection.execute("SELECT name, sql FROM sqlite_master WHERE name != 'sqlite_sequence'"))


def _postgresql_tables(url: str) -> set[tuple[Any, ...]]:
    columns = (
        "SELECT table_name, column_name, data_type, is_nullable, column_default FROM information_schema.columns "
        "WHERE table_schema = 'public'"
    )
    indexes = "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'"
    with _connect(url) as connection:
        return {tuple(row) for query in (columns, indexes) for row in connection.exec_driver_sql(query)}
