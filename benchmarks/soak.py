"""Ten minutes of mixed load on a real server, while models change and the store goes away once.

`python -m benchmarks.soak [--minutes 10]`, or `make benchmark-soak`. It starts PostgreSQL (`.ci/postgres`), registers two models in
an MLflow store of its own, and has `recsys serve` follow an alias that moves between them every minute. At
half time PostgreSQL is stopped for five seconds. Out: a table of figures; exit code 1 when a target is missed.
"""

import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import click
import httpx
import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

ITEMS, USERS = 5000, 2000
SHOPPERS = 6
RELOAD_EVERY_S = 60.0
AWAY_S = 5.0
GRACE_S = 3.0
"""How long after the restart of the store a 503 may still come."""
SAMPLE_EVERY_S = 2.0
WARM_UP = 0.4
"""Share of the time that memory may take to settle: both models were loaded, and caches are full."""
MOST_MIB_PER_HOUR = 100.0
ROOT = Path(__file__).parents[1]


class Postgres:
    """A PostgreSQL server in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        made = subprocess.run([ROOT / ".ci" / "postgres", folder], stdout=subprocess.PIPE, text=True, check=True)
        self.url, self._data = made.stdout.strip(), folder / "data"
        started = shlex.split((self._data / "postmaster.opts").read_text())
        self._bin, self._options = Path(started[0]).parent, shlex.join(started[3:])

    def start(self) -> None:
        """Start it again, on the port that it had."""
        self._control("-w", "-l", str(self._data.parent / "log"), "-o", self._options, "start")

    def stop(self) -> None:
        """Stop it; connections are closed."""
        self._control("-m", "fast", "stop")

    def _control(self, *arguments: str) -> None:
        owner = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
        command = [*owner, str(self._bin / "pg_ctl"), "-D", str(self._data), *arguments]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True, cwd=self._data.parent)


@dataclass
class Run:
    """What happened: when the store was away, which models served, and the server's memory over time."""

    began: float = field(default_factory=time.time)
    away: tuple[float, float] = (0.0, 0.0)
    moved: int = 0
    followed: int = 0
    rss_mib: list[tuple[float, float]] = field(default_factory=list)


def register_models(folder: Path) -> list[str]:
    """Make two bundles and register them in the MLflow store of `folder`; return their versions."""
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder / 'mlflow.db'}"
    os.chdir(folder)
    from benchmarks.serving_world import bundle_of
    from training.tracking import register, start_run

    sizes = (ITEMS, ITEMS + 500)
    # MLflow keeps a bundle under the name of its folder.
    bundles = [bundle_of(folder / str(items), items, USERS).rename(folder / str(items) / "bundle") for items in sizes]
    return [register(start_run(None, {}, {}), bundle) for bundle in bundles]


@contextmanager
def server(folder: Path, store: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Give the body a process of `recsys serve` that listens, and its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-c",
        "from recsys.cli import main; main()",
        "serve",
        "--store",
        store,
        "--port",
        str(port),
    ]
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, cwd=folder)
    try:
        assert process.stdout is not None
        if "listening" not in process.stdout.readline():
            raise click.ClickException("recsys serve ended: " + (folder / "server.log").read_text()[-500:])
        yield process, f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)


def load(folder: Path, url: str, minutes: float) -> subprocess.Popen[bytes]:
    """Start Locust, in a process of its own: it changes the standard library of the one that it runs in."""
    command = [sys.executable, "-m", "locust", "-f", str(ROOT / "benchmarks" / "soak_load.py"), "--headless"]
    command += ["--users", str(SHOPPERS), "--spawn-rate", "1", "--run-time", f"{round(60 * minutes)}s", "--host", url]
    command += ["--stop-timeout", "20", "--only-summary", "--exit-code-on-error", "0"]
    known = {"SOAK_FOLDER": str(folder), "SOAK_ITEMS": str(ITEMS), "SOAK_USERS": str(USERS)}
    with (folder / "locust.log").open("w") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | known, cwd=folder)


def watch(run: Run, pid: int, done: threading.Event) -> None:
    """Note the memory of the process `pid` until `done`."""
    process = psutil.Process(pid)
    while not done.wait(SAMPLE_EVERY_S):
        run.rss_mib.append((time.time() - run.began, process.memory_info().rss / 2**20))


def move_alias(run: Run, url: str, versions: list[str]) -> None:
    """Move the alias to the other version and see that the server takes it."""
    from recsys.registry import CHAMPION, MODEL_NAME, mlflow_client

    run.moved += 1
    version = versions[run.moved % 2]
    with mlflow_client() as client:
        client.set_registered_model_alias(MODEL_NAME, CHAMPION, version)
    until = time.time() + RELOAD_EVERY_S / 2
    while time.time() < until:
        answer = httpx.get(f"{url}/v1/model", timeout=20)
        if answer.status_code == 200 and answer.json()["model"] == f"models:/{MODEL_NAME}/{version}":
            run.followed += 1
            return
        time.sleep(0.5)


def disturb(
    run: Run, url: str, versions: list[str], store: Postgres, locust: subprocess.Popen[bytes], minutes: float
) -> None:
    """Move the alias every minute, and take the store away at half time, until the load ends."""
    due, pause_at = run.began + RELOAD_EVERY_S, run.began + 30 * minutes + RELOAD_EVERY_S / 2
    while locust.poll() is None:
        now = time.time()
        if now >= pause_at:
            store.stop()
            time.sleep(AWAY_S)
            store.start()
            run.away, pause_at = (now, time.time()), float("inf")
        elif now >= due:
            due += RELOAD_EVERY_S
            move_alias(run, url, versions)
        time.sleep(0.2)


def slope_mib_per_hour(samples: list[tuple[float, float]]) -> float:
    """Return how fast memory grows after the warm-up: a line through the least of each minute.

    While a model is loaded two of them are in memory; the least of a minute leaves that out.
    """
    times, sizes = np.array(samples).T
    minutes = (times // RELOAD_EVERY_S).astype(int)
    kept = [minute for minute in np.unique(minutes) if minute * RELOAD_EVERY_S >= WARM_UP * times[-1]]
    least = [sizes[minutes == minute].min() for minute in kept]
    return float(np.polyfit(np.array(kept) * RELOAD_EVERY_S / 3600, least, 1)[0]) if len(kept) > 1 else 0.0


def figures(run: Run, folder: Path, store: str) -> list[tuple[str, str, str, bool]]:
    """Return the rows of the table: what, figure, target, whether it was met."""
    from serving.store.store import Store

    acknowledged = set((folder / "acknowledged.txt").read_text().split())
    lost = acknowledged - {event.event_id for event in Store(store).every_event()}
    answers = [line.split(",") for line in (folder / "answers.csv").read_text().splitlines()]
    failed = [row for row in answers if row[2] == "0" or (row[2] >= "500" and not (row[2] == "503" and row[3] == "1"))]
    refused = [float(row[0]) for row in answers if row[2] == "503" and row[3] == "1"]
    begin, end = run.away
    outside = [moment for moment in refused if not begin <= moment <= end + GRACE_S]
    slow = np.percentile([float(row[4]) for row in answers if row[2] == "200"], [50, 99])
    slope = slope_mib_per_hour(run.rss_mib)
    settled = [size for at, size in run.rss_mib if at >= WARM_UP * run.rss_mib[-1][0]]
    return [
        ("requests", f"{len(answers):,}", "", True),
        ("milliseconds, median and 99 %", f"{slow[0]:.0f}, {slow[1]:.0f}", "", True),
        ("events acknowledged", f"{len(acknowledged):,}", "", bool(acknowledged)),
        ("of these lost", f"{len(lost):,}", "0", not lost),
        ("5xx or no answer, but for 503 with Retry-After", f"{len(failed):,}", "0", not failed),
        ("503 while the store was away", f"{len(refused) - len(outside):,} in {end - begin:.0f} s", "", True),
        ("503 at other times", f"{len(outside):,}", "0", not outside),
        ("models followed", f"{run.followed} of {run.moved}", "all", run.followed == run.moved > 0),
        ("memory after warm-up", f"{min(settled):,.0f} to {max(settled):,.0f} MiB", "", True),
        ("its slope", f"{slope:+.0f} MiB/hour", f"under {MOST_MIB_PER_HOUR:.0f}", slope < MOST_MIB_PER_HOUR),
    ]


def soak(folder: Path, minutes: float) -> list[tuple[str, str, str, bool]]:
    """Run it all in `folder` and return the figures."""
    versions, store = register_models(folder), Postgres(folder / "postgres")
    try:
        with server(folder, store.url) as (process, url):
            run, done = Run(), threading.Event()
            watcher = threading.Thread(target=watch, args=(run, process.pid, done))
            watcher.start()
            try:
                disturb(run, url, versions, store, load(folder, url, minutes), minutes)
            finally:
                done.set()
                watcher.join()
        return figures(run, folder, store.url)
    finally:
        store.stop()


@click.command()
@click.option("--minutes", default=10.0, show_default=True, type=click.FloatRange(0.5), help="How long the load lasts.")
@click.option(
    "--keep", type=click.Path(path_type=Path, file_okay=False), help="Folder for logs; a temporary one by default."
)
def main(minutes: float, keep: Path | None) -> None:
    """Put a real server under load while everything around it moves, and print what it lost: nothing."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is stopped
    with tempfile.TemporaryDirectory() as scratch:
        folder = (keep or Path(scratch)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)
        rows = soak(folder, minutes)
    table = Table("", "figure", "target", "", title=f"{minutes:g} minutes, {SHOPPERS} users, {ITEMS:,} items")
    for what, figure, target, met in rows:
        table.add_row(what, figure, target, "" if not target else "met" if met else "MISSED")
    Console(width=100).print(table)
    sys.exit(not all(met for *_, met in rows))


if __name__ == "__main__":
    main()
