"""A server as a process of its own, for benchmarks that watch it from outside.

In: what comes behind `python -m`. Out: a process that is ready, and what it holds on to.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import click
import httpx
import psutil

ROOT = Path(__file__).parents[1]
START_S = 600.0
"""Seconds within which a server must be ready, on a busy machine."""


@dataclass
class Server:
    """A process of `recsys serve` on a port that it keeps."""

    name: str
    folder: Path
    arguments: tuple[str, ...]
    """What comes behind `python -m`, but for the port."""
    settings: dict[str, str] = field(default_factory=dict)
    """Variables of its environment beside those of this process."""
    port: int = 0
    mib: list[tuple[float, float]] = field(default_factory=list)
    """Time, and MiB that the system would get back if the process ended."""
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and return when it is ready."""
        command = [sys.executable, "-m", *self.arguments, "--port", str(self.port)]
        with (self.folder / f"server-{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=os.environ | {"PYTHONPATH": str(ROOT)} | self.settings,
            )
        until = time.monotonic() + START_S
        while not self._ready():
            if self.process.poll() is not None or time.monotonic() > until:
                raise click.ClickException(f"server {self.name} did not start; see its log in {self.folder}")
            time.sleep(0.2)

    def kill(self) -> None:
        """End it as `kill -9` does."""
        self._signal(signal.SIGKILL)

    def stop(self) -> int:
        """End it in order and return its exit status."""
        return self._signal(signal.SIGTERM)

    def note_memory(self) -> None:
        """Add its memory of now to `mib`, while it runs."""
        if self.process is not None and self.process.poll() is None:
            with suppress(psutil.NoSuchProcess):  # killed since
                self.mib.append((time.time(), psutil.Process(self.process.pid).memory_full_info().uss / 2**20))

    def _signal(self, number: signal.Signals) -> int:
        if self.process is None:
            return 0
        self.process.send_signal(number)
        return self.process.wait(timeout=60)

    def _ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", timeout=5).status_code == 200
        except httpx.TransportError:
            return False


@contextmanager
def every(seconds: float, step: Callable[[], object]) -> Iterator[None]:
    """Repeat `step` in a thread while the body runs, for the first time after as many seconds."""
    done = threading.Event()

    def repeat() -> None:
        while not done.wait(seconds):
            step()

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextmanager
def memory_noted(servers: Sequence[Server], seconds: float = 2.0) -> Iterator[None]:
    """Note the memory of the servers while the body runs."""

    def note() -> None:
        for server in servers:
            server.note_memory()

    with every(seconds, note):
        yield
