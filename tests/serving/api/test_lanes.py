"""What is slow, or comes from one caller alone, does not keep the others waiting."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import httpx
import pytest
import uvicorn

from serving.api.access.headers import HEADER_BYTES, HeaderLimits
from serving.api.access.keys import create_key
from serving.api.access.limits import Limits
from serving.api.app import create_app
from serving.api.workers import SLOW_WAITING
from serving.store.store import Store
from tests.worlds import holder_of

ITEMS = {"items": [{"item_id": "new", "title": "red lamp"}]}


class Served:
    """A real server in a thread."""

    def __init__(self, tiny: Path, store: Store, limits: Limits | None = None) -> None:
        """Serve the tiny bundle on a free port."""
        self.app = create_app(holder_of(tiny, store), store, limits=limits or Limits())
        self.service = self.app.state.workers.service
        config = uvicorn.Config(self.app, http=HeaderLimits, port=0, log_level="critical", access_log=False)
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        self.port = self.server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        """Stop it."""
        self.server.should_exit = True
        self.thread.join()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return an empty store."""
    return Store(f"sqlite:///{tmp_path}/store.db")


@pytest.fixture
def served(tiny: Path, store: Store) -> Iterator[Served]:
    """Return a server."""
    server = Served(tiny, store, Limits(waiting=8, waiting_of_one=4))
    yield server
    server.close()


def test_neither_lists_nor_probes_wait_for_changes_of_the_catalogue(tiny: Path, store: Store) -> None:
    """However many; too many are refused, and the others are carried out one after the other."""
    served, release, running = Served(tiny, store), threading.Event(), threading.Lock()
    put = served.service.changes.put_items

    def slow(body: object) -> object:
        with running:  # no two at once
            assert release.wait(20)
            return put(body)

    served.service.changes.put_items = slow
    with ThreadPoolExecutor(SLOW_WAITING + 2) as clients:
        puts = [
            clients.submit(httpx.put, f"{served.url}/v1/items", json=ITEMS, timeout=30) for _ in range(SLOW_WAITING + 2)
        ]
        refused = next(done for done in as_completed(puts) if done.result().status_code == 503)
        assert refused.result().headers["retry-after"] == "1"
        assert httpx.post(f"{served.url}/v1/recommend", json={"user_id": "u1"}, timeout=5).status_code == 200
        assert httpx.get(f"{served.url}/readyz", timeout=5).status_code == 200
        release.set()
        assert sorted(done.result().status_code for done in puts) == [200] * (SLOW_WAITING + 1) + [503]
    served.close()


def test_a_probe_does_not_wait_for_a_store_that_hangs(
    served: Served, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is answered in time, and the next ones ask no further thread."""
    release = threading.Event()
    monkeypatch.setattr(store, "ping", lambda: release.wait(20))
    for _ in range(2):
        start = time.monotonic()
        answer = httpx.get(f"{served.url}/readyz", timeout=5)
        assert answer.status_code == 503 and "does not answer within 1 s" in answer.text
        assert time.monotonic() - start < 3
    assert httpx.get(f"{served.url}/healthz", timeout=5).status_code == 200
    release.set()


def test_one_key_cannot_keep_the_others_out(served: Served, store: Store) -> None:
    """Its slow bodies are counted against it alone."""
    slow, other = (f"Bearer {create_key(store, name, ('read',))}" for name in ("slow", "other"))
    head = f"POST /v1/recommend HTTP/1.1\r\nhost: x\r\nauthorization: {slow}\r\ncontent-type: application/json\r\n"
    connections = []
    for _ in range(6):
        connection = socket.create_connection(("127.0.0.1", served.port))
        connection.sendall((head + "content-length: 100\r\n\r\n{").encode())
        connections.append(connection)
    assert sorted(_status_within(connection, 1) for connection in connections) == [0, 0, 0, 0, 429, 429]
    answer = httpx.post(f"{served.url}/v1/recommend", json={"user_id": "u1"}, headers={"authorization": other})
    assert answer.status_code == 200
    for connection in connections:
        connection.close()


def _status_within(connection: socket.socket, seconds: float) -> int:
    """Return the status of the answer, with all of which has been read then; 0 if none comes in time."""
    connection.settimeout(seconds)
    answer = b""
    try:
        while not answer.endswith(b"}"):
            received = connection.recv(4096)
            assert received, answer
            answer += received
    except TimeoutError:
        return 0
    return int(answer.split()[1])


def test_headers_have_a_limit_of_time_and_of_size(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the second ones of a connection; what comes in time is answered, and what is no HTTP is a problem, too."""
    monkeypatch.setattr(HeaderLimits, "header_s", 0.3)
    request = b"GET /healthz HTTP/1.1\r\nhost: x\r\n"
    for before in (b"", request + b"\r\n"):
        with socket.create_connection(("127.0.0.1", served.port)) as connection:
            if before:
                connection.sendall(before)
                assert _status_within(connection, 5) == 200
            connection.sendall(request)
            assert _status_within(connection, 5) == 408 and connection.recv(4096) == b""
    with socket.create_connection(("127.0.0.1", served.port)) as connection:
        connection.sendall(request + b"x: " + b"y" * HEADER_BYTES + b"\r\n\r\n")
        assert _status_within(connection, 5) == 431
    with socket.create_connection(("127.0.0.1", served.port)) as connection:
        connection.sendall(b"no HTTP\r\n\r\n")
        head, _, body = connection.recv(4096).partition(b"\r\n\r\n")
        assert b"content-type: application/problem+json" in head and json.loads(body)["status"] == 400
    with socket.create_connection(("127.0.0.1", served.port)) as connection:
        for byte in (request + b"connection: close\r\n\r\n").split(b"\n"):
            connection.sendall(byte + b"\n" if byte else b"")
            time.sleep(0.01)
        assert _status_within(connection, 5) == 200
