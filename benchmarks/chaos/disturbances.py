"""What goes wrong in a chaos run, one thing after the other.

In: the machines. Out: for each disturbance its name, when it began and when all was well again, and what it was meant to show.
"""

import socket
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

import httpx

from benchmarks.chaos.machines import FAKETIME, ClockedServer, Models, Postgres

SLOW_CLIENTS = 100
FOLLOW_S = 40.0
"""Seconds within which a server must serve the model that the alias names."""


@dataclass(frozen=True)
class Disturbance:
    """One thing that went wrong, between two times."""

    name: str
    began: float
    ended: float
    passed: bool
    excuses: bool
    """Whether requests may be refused with 503, or not be answered, meanwhile."""


@dataclass(frozen=True)
class Chaos:
    """The machines, and keys of an administrator and of the slow clients."""

    servers: tuple[ClockedServer, ClockedServer]
    store: Postgres
    models: Models
    key: str
    slow_key: str

    @property
    def steps(self) -> list[tuple[str, Callable[[], bool], bool]]:
        """Each disturbance in order: its name, what does it and returns whether all was as it should be, and whether it excuses."""
        first, second = self.servers
        steps = [
            ("the alias moves", lambda: self._follow(self.models.second), False),
            (f"server {first.name} is killed", lambda: self._kill(first), True),
            ("the alias moves back", lambda: self._follow(self.models.first), False),
            ("the store restarts", self._restart_store, True),
            (f"{SLOW_CLIENTS} slow clients", self._slow_clients, False),
            ("a broken bundle", self._break_model, False),
        ]
        if self.store.small_disk:
            steps.insert(5, ("the disk is full", self._fill_disk, True))
        if FAKETIME.exists():
            steps.insert(6, (f"the clock of {second.name} jumps", lambda: self._jump(second), False))
        return steps

    def carry_out(self, name: str, step: Callable[[], bool], excuses: bool) -> Disturbance:
        """Let one thing go wrong, and return when all is well again."""
        began = time.time()
        passed = step()
        return Disturbance(name, began, time.time(), passed, excuses)

    def _about(self, server: ClockedServer) -> httpx.Response:
        return httpx.get(f"{server.url}/v1/model", headers=self._as_admin, timeout=20)

    @property
    def _as_admin(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}

    def _follow(self, version: str) -> bool:
        self.models.move(version)
        return all(self._serves(server, version) for server in self.servers)

    def _serves(self, server: ClockedServer, version: str) -> bool:
        until = time.time() + FOLLOW_S
        while time.time() < until:
            answer = self._about(server)
            if answer.status_code == 200 and answer.json()["model"] == self.models.name(version):
                return True
            time.sleep(0.5)
        return False

    def _kill(self, server: ClockedServer) -> bool:
        server.kill()
        time.sleep(3)
        server.start()
        return True

    def _restart_store(self) -> bool:
        self.store.stop()
        time.sleep(3)
        noticed = all(httpx.get(f"{server.url}/readyz", timeout=5).status_code == 503 for server in self.servers)
        time.sleep(2)
        self.store.start()
        return noticed and self._all_ready()

    def _fill_disk(self) -> bool:
        """Fill the disk, and send events until they are refused: those before are kept like all others."""
        self.store.fill_disk()
        refused, until = False, time.time() + 20
        while not refused and time.time() < until:
            events = [
                {"event_id": uuid.uuid4().hex, "user_id": "disk", "item_id": "i0000001", "session_id": "x" * 250}
                for _ in range(500)
            ]
            ids = " ".join(event["event_id"] for event in events)
            with (self.servers[0].folder / "ledger.txt").open("a") as ledger:
                ledger.write(f"try disk {ids}\n")
                answer = httpx.post(f"{self.servers[0].url}/v1/events", json={"events": events}, headers=self._as_admin)
                refused = answer.status_code == 503 and "retry-after" in answer.headers
                if answer.status_code == 200:
                    ledger.write(f"kept disk {ids}\n")
        time.sleep(5)
        self.store.free_disk()
        return refused and self._all_ready()

    def _all_ready(self) -> bool:
        until = time.time() + 30
        while time.time() < until:
            if all(httpx.get(f"{server.url}/readyz", timeout=5).status_code == 200 for server in self.servers):
                return True
            time.sleep(0.2)
        return False

    def _slow_clients(self) -> bool:
        """Let clients send headers or bodies byte by byte: they are refused, too many of one key at once, others are answered."""
        head = "POST /v1/recommend HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        head += f"authorization: Bearer {self.slow_key}\r\ncontent-length: 500\r\n"
        connections = []
        for number in range(SLOW_CLIENTS):
            connection = socket.create_connection(("127.0.0.1", self.servers[number % 2].port))
            connection.sendall((head + ("\r\n" if number % 8 else "")).encode())
            connections.append(connection)
        for _ in range(8):
            for connection in connections:
                try:
                    connection.sendall(b"a")
                except OSError:  # refused by now
                    continue
            time.sleep(1)
        time.sleep(4)
        statuses = {_status(connection) for connection in connections}
        return statuses == {"408", "429"}

    def _break_model(self) -> bool:
        """Let the alias name a bundle that is damaged: both servers say so and go on with the one before."""
        self.models.move(self.models.broken)
        broken, until = self.models.name(self.models.broken), time.time() + FOLLOW_S
        while time.time() < until:
            answers = [self._about(server).json() for server in self.servers]
            if all(broken in answer["failed"] and answer["model"] != broken for answer in answers):
                return True
            time.sleep(0.5)
        return False

    def _jump(self, server: ClockedServer) -> bool:
        server.set_clock("+3600")
        time.sleep(15)
        server.set_clock("+0")
        time.sleep(2)
        return self._about(server).status_code == 200


def _status(connection: socket.socket) -> str:
    connection.settimeout(2)
    try:
        return connection.recv(4096).decode("latin-1").split(" ")[1]
    except (OSError, IndexError):
        return "none"
    finally:
        connection.close()
