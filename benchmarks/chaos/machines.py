"""What a chaos run starts: PostgreSQL on a small disk, servers, models in MLflow.

In: a scratch folder. Out: processes that can be killed, stopped and started again.
"""

import os
import shlex
import subprocess
import time
from pathlib import Path

from benchmarks.server import ROOT, Server
from recsys import names

ITEMS, USERS = 5000, 2000
DISK_MIB = 700
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")
"""From Debian's package `faketime`; without it no clock jumps."""


class Postgres:
    """A PostgreSQL server in a folder of its own: a disk of `DISK_MIB`, where this user may mount one."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        size = f"size={DISK_MIB}m"
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", folder], capture_output=True)
        self.small_disk = mounted.returncode == 0
        made = subprocess.run([ROOT / ".ci" / "postgres", folder], stdout=subprocess.PIPE, text=True, check=True)
        self.folder, self.url, self._data = folder, made.stdout.strip(), folder / "data"
        started = shlex.split((self._data / "postmaster.opts").read_text())
        self._bin, self._options = Path(started[0]).parent, shlex.join(started[3:])

    def start(self) -> None:
        """Start it again, on the port that it had, unless it runs."""
        if self._control("status"):
            self._control("-w", "-l", str(self.folder / "log"), "-o", self._options, "start")

    def stop(self) -> None:
        """Stop it; connections are closed."""
        self._control("-m", "fast", "stop")

    def fill_disk(self) -> None:
        """Leave no free byte on its disk."""
        with (self.folder / "filler").open("wb", buffering=0) as filler:
            try:
                while filler.write(bytes(1 << 20)):
                    pass
            except OSError:
                return

    def free_disk(self) -> None:
        """Undo `fill_disk`; start the server again if it gave up meanwhile."""
        (self.folder / "filler").unlink()
        time.sleep(2)
        self.start()

    def remove(self) -> None:
        """Stop it and give back its disk."""
        self.stop()
        if self.small_disk:
            subprocess.run(["umount", "--lazy", self.folder], check=True)

    def _control(self, *arguments: str) -> int:
        owner = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
        command = [*owner, str(self._bin / "pg_ctl"), "-D", str(self._data), *arguments]
        return subprocess.run(command, stdout=subprocess.DEVNULL, cwd=self.folder).returncode


class ClockedServer(Server):
    """A server on the models of the folder, whose clock can be moved."""

    def __init__(self, name: str, folder: Path, store: str) -> None:
        self._clock = folder / f"clock-{name}"
        settings = {"FAKETIME_CACHE_DURATION": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
        if FAKETIME.exists():
            settings |= {"LD_PRELOAD": str(FAKETIME), "FAKETIME_TIMESTAMP_FILE": str(self._clock)}
        super().__init__(name, folder, ("recsys", "serve", "--store", store), settings)
        self.set_clock("+0")

    def set_clock(self, offset: str) -> None:
        """Let its clock differ from the machine's by `offset`, such as `+3600`."""
        self._clock.write_text(f"{offset}\n")


class Models:
    """Two working versions of a model and a broken one, in an MLflow store of the folder."""

    def __init__(self, folder: Path) -> None:
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder / 'mlflow.db'}"
        os.chdir(folder)
        from benchmarks.serving_world import bundle_of
        from recsys.registry import bundle_folder
        from training.tracking import register, start_run

        bundles = {}
        for name, items in (("a", ITEMS), ("b", ITEMS + 500)):
            # MLflow keeps a bundle under the name of its folder.
            bundles[name] = bundle_of(folder / name, items, USERS).rename(folder / name / "bundle")
        self.first, self.second, self.broken = (
            register(start_run(None, {}, {}), bundles[name]) for name in ("a", "b", "a")
        )
        vectors = bundle_folder(names.version_name(self.broken)) / "vectors.safetensors"
        vectors.write_bytes(vectors.read_bytes()[:1000])
        self.move(self.first)

    def move(self, version: str) -> None:
        """Let the alias name `version`."""
        from recsys.registry import mlflow_client

        with mlflow_client() as client:
            client.set_registered_model_alias(names.model_name(), names.CHAMPION, version)

    @staticmethod
    def name(version: str) -> str:
        """Return what `/v1/model` calls a version."""
        return names.version_name(version)
