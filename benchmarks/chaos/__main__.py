"""Ten minutes of load on two servers with one PostgreSQL store, while everything around them goes wrong.

`python -m benchmarks.chaos [--minutes 10]`, or `make benchmark-chaos`. It starts PostgreSQL (`.ci/postgres`), registers three
models in an MLflow store of its own, and has two `recsys serve` follow an alias. Out: a table of figures and `docs/chaos.png`;
exit code 1 when a target is missed.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from benchmarks.chaos.disturbances import Chaos, Disturbance
from benchmarks.chaos.machines import ClockedServer, Models, Postgres
from benchmarks.chaos.verdict import Row, draw, verdict
from benchmarks.server import ROOT, memory_noted

SHOPPERS = 6


def load(folder: Path, chaos: Chaos, minutes: float) -> subprocess.Popen[bytes]:
    """Start Locust, in a process of its own: it changes the standard library of the one that it runs in."""
    command = [sys.executable, "-m", "locust", "-f", str(Path(__file__).with_name("shoppers.py")), "--headless"]
    command += ["--users", str(SHOPPERS), "--spawn-rate", "1", "--run-time", f"{round(60 * minutes)}s"]
    command += ["--stop-timeout", "20", "--only-summary", "--exit-code-on-error", "0"]
    settings = {
        "CHAOS_FOLDER": str(folder),
        "CHAOS_URLS": ",".join(server.url for server in chaos.servers),
        "CHAOS_KEY": chaos.key,
        "PYTHONPATH": str(ROOT),
    }
    with (folder / "locust.log").open("w") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | settings, cwd=folder)


def disturb(chaos: Chaos, shopping: subprocess.Popen[bytes], minutes: float) -> list[Disturbance]:
    """Let one thing after the other go wrong, at even distances, and return what did when the load ends."""
    began, carried_out = time.time(), []
    for number, (name, step, excuses) in enumerate(chaos.steps):
        time.sleep(max(0.0, began + 60 * minutes * (number + 0.7) / (len(chaos.steps) + 0.7) - time.time()))
        click.echo(f"{time.time() - began:4.0f} s: {name}")
        carried_out.append(chaos.carry_out(name, step, excuses))
    shopping.wait()
    return carried_out


def run(folder: Path, minutes: float) -> list[Row]:
    """Run it all in `folder` and return the figures."""
    from serving.api.access.keys import create_key
    from serving.store.store import Store

    models, store = Models(folder), Postgres(folder / "postgres")
    servers = ClockedServer("A", folder, store.url), ClockedServer("B", folder, store.url)
    try:
        keys = [
            create_key(Store(store.url), name, scopes) for name, scopes in (("shop", ("admin",)), ("slow", ("read",)))
        ]
        for server in servers:
            server.start()
        try:
            chaos = Chaos(servers, store, models, *keys)
            with memory_noted(servers):
                disturbances = disturb(chaos, load(folder, chaos, minutes), minutes)
        finally:
            ended = [server.stop() for server in servers]
        draw(ROOT / "docs" / "chaos.png", folder, servers, disturbances)
        return verdict(folder, store.url, servers, disturbances, ended)
    finally:
        store.remove()


@click.command()
@click.option("--minutes", default=10.0, show_default=True, type=click.FloatRange(3), help="How long the load lasts.")
@click.option(
    "--keep", type=click.Path(path_type=Path, file_okay=False), help="Folder for logs; a temporary one by default."
)
def main(minutes: float, keep: Path | None) -> None:
    """Put two real servers under load while everything around them goes wrong, and print what was lost: nothing."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is stopped
    with tempfile.TemporaryDirectory() as scratch:
        folder = (keep or Path(scratch)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)
        rows = run(folder, minutes)
    table = Table("", "figure", "target", "", title=f"{minutes:g} minutes, {SHOPPERS} shoppers")
    for what, figure, target, met in rows:
        table.add_row(what, figure, target, "" if not target else "met" if met else "MISSED")
    Console(width=130).print(table)
    sys.exit(not all(met for *_, met in rows))


if __name__ == "__main__":
    main()
