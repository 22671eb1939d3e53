"""A backup that is made while servers write has everything that was acknowledged before it, and a restored one goes on."""

import os
import re
import shutil
import sqlite3
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from serving.store.database import parse_url
from serving.store.store import Store, StoredEvent
from tests.docs.pages import ROOT

COMMANDS = re.findall(r"`((?:pg_dump|pg_restore|sqlite3) [^`]+)`", (ROOT / "docs" / "operations.md").read_text())
"""What the documentation says, in its order."""


class Writer(threading.Thread):
    """Writes events until it is stopped; `acknowledged` has their ids."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.store, self.acknowledged, self.stopped = store, list[str](), threading.Event()

    def run(self) -> None:
        """Write."""
        while not self.stopped.is_set():
            added = StoredEvent(uuid.uuid4().hex, "u", "i1", "click", 1)
            self.store.add_events([added])
            self.acknowledged.append(added.event_id)


@pytest.fixture
def writer(url: str) -> Iterator[Writer]:
    """Return a writer that has written something, and goes on."""
    with closing(Store(url)) as store:
        writing = Writer(store)
        writing.start()
        while len(writing.acknowledged) < 50:
            writing.join(0.01)
        yield writing
        writing.stopped.set()
        writing.join()


def postgres(command: str, url: str, folder: Path) -> None:
    """Run a documented command with PostgreSQL's own programs."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    path = ":".join([*map(str, found), os.environ["PATH"]])
    if not shutil.which(command.split()[0], path=path):
        pytest.skip("PostgreSQL's programs are not installed")
    environment = os.environ | {"PATH": path, "RECSYS_STORE": url}
    subprocess.run(command, shell=True, check=True, cwd=folder, env=environment)


def sqlite(folder: Path) -> tuple[Callable[[], None], Callable[[], None]]:
    """Return a backup and its restoration; `.backup` of the program sqlite3 is this call of the library."""

    def back_up() -> None:
        with (
            closing(sqlite3.connect(folder / "store.db")) as store,
            closing(sqlite3.connect(folder / "copy.db")) as copy,
        ):
            store.backup(copy)

    def restore() -> None:
        for suffix in ("", "-wal", "-shm"):
            (folder / f"store.db{suffix}").unlink(missing_ok=True)
        shutil.copy(folder / "copy.db", folder / "store.db")

    return back_up, restore


def test_a_backup_of_a_busy_store_has_all_that_was_acknowledged_before(
    url: str, writer: Writer, tmp_path: Path
) -> None:
    """After a restoration it goes on, and what came after the backup is gone."""
    if url.startswith("sqlite"):
        assert COMMANDS[0].startswith("sqlite3") and parse_url(url).database == str(tmp_path / "store.db")
        back_up, restore = sqlite(tmp_path)
    else:
        dump, load = COMMANDS[1:]
        back_up, restore = lambda: postgres(dump, url, tmp_path), lambda: postgres(load, url, tmp_path)
    before = set(writer.acknowledged)
    back_up()
    during = set(writer.acknowledged)
    while len(writer.acknowledged) < len(during) + 20:
        writer.join(0.01)
    writer.stopped.set()
    writer.join()
    writer.store.close()
    restore()
    with closing(Store(url)) as restored:
        kept = {event.event_id for event in restored.every_event()}
        assert before <= kept < set(writer.acknowledged)
        assert restored.add_events([StoredEvent("later", "u", "i1", "click", 2)]) == 1
        assert restored.history("u", 1)[0].event_id == "later"
