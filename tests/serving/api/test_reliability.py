"""Acknowledged events survive, whatever happens to the process, the disk or the store."""

import contextlib
import multiprocessing
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient

from serving.api.app import create_app
from serving.store.store import Store
from tests.command_line import free_port
from tests.worlds import client_of, holder_of

KILLS = 20

forks = multiprocessing.get_context("forkserver")
forks.set_forkserver_preload(["serving.api.server", "training.tracking"])
"""Servers are forked from a process that has imported everything, since imports take most of a start."""


def serve(bundle: Path, store: str, port: int, log: Path) -> None:
    """Run `recsys serve`, with stderr in a file."""
    from recsys.cli import main

    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)

    sys.argv = ["recsys", "serve", "--model", str(bundle), "--store", store, "--port", str(port)]
    main()


@contextlib.contextmanager
def running_server(bundle: Path, store: str, log: Path) -> Iterator[str]:
    """Yield the URL of a server process that answers; then kill it as `kill -9` does."""
    port = free_port()
    process = forks.Process(target=serve, args=(bundle, store, port, log), daemon=True)
    process.start()
    url, until = f"http://127.0.0.1:{port}", time.monotonic() + 300
    while not _ready(url):
        assert process.is_alive() and time.monotonic() < until, "the server does not answer"
        time.sleep(0.05)
    yield url
    process.kill()
    process.join()
    assert process.exitcode == -9


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


class Writer(threading.Thread):
    """Sends events one after another until the server is gone; `acknowledged` has the ids of those that it stored."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url, self.acknowledged = url, set[str]()

    def run(self) -> None:
        """Send events."""
        with httpx.Client(base_url=self.url, timeout=10) as client:
            for _ in range(10_000):
                sent = [{"event_id": uuid.uuid4().hex, "user_id": "u", "item_id": "i1"} for _ in range(3)]
                try:
                    answer = client.post("/v1/events", json={"events": sent})
                except httpx.TransportError:
                    return
                assert answer.status_code == 200
                self.acknowledged |= {event["event_id"] for event in sent}


@pytest.mark.slow
def test_every_acknowledged_event_survives_twenty_kills(tiny: Path, tmp_path: Path) -> None:
    """The server is killed while four clients write; every event that it acknowledged is in the store."""
    url, acknowledged = f"sqlite:///{tmp_path}/store.db", set[str]()
    for _ in range(KILLS):
        with running_server(tiny, url, tmp_path / "log") as server:
            writers = [Writer(server) for _ in range(4)]
            for writer in writers:
                writer.start()
            while sum(len(writer.acknowledged) for writer in writers) < 30:
                time.sleep(0.01)
        before = len(acknowledged)
        for writer in writers:
            writer.join()
            acknowledged |= writer.acknowledged
        assert len(acknowledged) >= before + 30
        store = Store(url)
        lost = acknowledged - {event.event_id for event in store.every_event()}
        store.close()
        assert not lost


def send(client: TestClient, count: int = 1) -> httpx.Response:
    """Send events of a few hundred bytes each."""
    sent = [
        {"event_id": uuid.uuid4().hex, "user_id": "u", "item_id": "i1", "session_id": "x" * 250} for _ in range(count)
    ]
    answer: httpx.Response = client.post("/v1/events", json={"events": sent})  # type: ignore[assignment]
    return answer


def lists_kept(store: Store, count: int) -> bool:
    """Return whether that many lists are in the store within 20 s."""
    until = time.monotonic() + 20
    while len(list(store.every_list())) < count and time.monotonic() < until:
        time.sleep(0.1)
    return len(list(store.every_list())) == count


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount and return a disk of two megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("a small disk can only be mounted by root")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_is_503_until_there_is_space(tiny: Path, small_disk: Path) -> None:
    """Lists are answered meanwhile and logged later; acknowledged events survive, and no restart is needed."""
    store, answers = Store(f"sqlite:///{small_disk}/store.db"), list[httpx.Response]()
    with client_of(create_app(holder_of(tiny, store), store)) as client:
        assert send(client).status_code == 200
        with (small_disk / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
            while filler.write(b"x" * 4096):
                pass
        while not answers or (answers[-1].status_code == 200 and len(answers) < 100):
            answers.append(send(client, 50))
        assert answers[-1].status_code == 503 and answers[-1].headers["Retry-After"] == "1"
        assert "full" in answers[-1].json()["detail"] and "space" in answers[-1].json()["detail"]
        assert client.post("/v1/recommend", json={"user_id": "u"}).status_code == 200
        assert client.get("/readyz").status_code == 200
        (small_disk / "filler").unlink()
        assert send(client).json()["accepted"] == 1
        assert len(list(store.every_event())) == 2 + 50 * (len(answers) - 1)
        assert lists_kept(store, 1)
    with store.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
    store.close()


@pytest.fixture
def freeze(url: str) -> Iterator[Callable[[Store, bool], None]]:
    """Return a function that makes a store read-only, and writable again."""
    frozen = [False]

    def set_mode(connection: Any, *rest: object) -> None:
        connection.execute(f"PRAGMA query_only={int(frozen[0])}")

    def freeze_sqlite(store: Store, on: bool) -> None:
        if not sa.event.contains(store.engine, "checkout", set_mode):
            sa.event.listen(store.engine, "checkout", set_mode)
        frozen[0] = on

    def freeze_postgres(store: Store, on: bool) -> None:
        name = url.rsplit("/", 1)[1]
        engine = sa.create_engine(
            store.url, isolation_level="AUTOCOMMIT", connect_args={"options": "-c default_transaction_read_only=off"}
        )
        with engine.connect() as connection:
            connection.exec_driver_sql(f"ALTER DATABASE {name} SET default_transaction_read_only = {str(on).lower()}")
            connection.exec_driver_sql(
                f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}' AND pid <> pg_backend_pid()"
            )

    yield freeze_sqlite if url.startswith("sqlite") else freeze_postgres


def test_a_read_only_store_is_503_until_it_can_be_written(
    tiny: Path, url: str, freeze: Callable[[Store, bool], None]
) -> None:
    """Lists are answered meanwhile and logged later; no restart is needed."""
    store = Store(url)
    with client_of(create_app(holder_of(tiny, store), store)) as client:
        assert send(client).status_code == 200
        freeze(store, True)
        item: Any = {"item_id": "new", "title": "red lamp"}
        refused: list[Any] = [
            send(client),
            client.put("/v1/items", json={"items": [item]}),
            client.delete("/v1/users/u"),
        ]
        assert [answer.status_code for answer in refused] == [503] * 3
        assert all("read" in answer.json()["detail"] and answer.headers["Retry-After"] == "1" for answer in refused)
        assert client.post("/v1/recommend", json={"user_id": "u"}).status_code == 200
        assert client.get("/readyz").status_code == 503
        freeze(store, False)
        assert client.get("/readyz").status_code == 200
        assert send(client).json() == {"accepted": 1, "duplicates": 0, "unknown_items": []}
        assert len(list(store.every_event())) == 2 and not store.item_changes()
        assert lists_kept(store, 1)
    store.close()


@pytest.mark.slow
def test_each_request_is_logged_once(tiny: Path, tmp_path: Path) -> None:
    """Even if a library added a handler to the root logger."""
    log, until = tmp_path / "log", time.monotonic() + 60
    with running_server(tiny, f"sqlite:///{tmp_path}/store.db", log) as url:
        for request_id in ("only-one", "the-next"):
            httpx.get(f"{url}/v1/model", headers={"X-Request-ID": request_id})
        while "the-next" not in log.read_text() and time.monotonic() < until:
            time.sleep(0.05)
    assert log.read_text().count("only-one") == 1
