"""How fast lists are written for many users, and with how much memory, on a made-up catalogue.

    python -m benchmarks.batch_speed                      # 25,000, 50,000 and 100,000 users, some 8 minutes

Every row is a run of its own, Ray's start and the loading of the bundle in it. Memory is that of all
processes of the run together (proportional set size, looked at every two seconds).
"""

import argparse
import os
import tempfile
import threading
from pathlib import Path

import numpy as np
import polars as pl
import psutil
from rich.table import Table

from benchmarks.serving_world import bundle_of, log_of, topics_of
from features.histories import EventLog
from recsys.progress import console, stage
from serving.batch import Written, write_lists
from serving.list_maker import Job
from serving.lists import FileOptions

LOOKED_EVERY_S = 2.0


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--users", type=int, nargs="+", default=[25_000, 50_000, 100_000])
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--bundles", type=Path, default=Path(".recsys/benchmarks"))
    options = parser.parse_args()
    bundle = bundle_of(options.bundles, options.items)
    catalogue = pl.read_parquet(bundle / "items.parquet")
    everyone = log_of(topics_of(options.items), max(options.users), 30, np.random.default_rng(1))
    table = Table("users", "seconds", "users/s", "users/s beyond the first row", "peak GiB")
    first: tuple[int, float] | None = None
    for count in options.users:
        seconds, peak = timed(bundle, catalogue, everyone, count, options.k)
        beyond = "" if first is None else f"{(count - first[0]) / (seconds - first[1]):.0f}"
        first = first or (count, seconds)
        table.add_row(f"{count:,}", f"{seconds:.0f}", f"{count / seconds:.0f}", beyond, f"{peak:.2f}")
    console.print(table)


def timed(bundle: Path, catalogue: pl.DataFrame, log: EventLog, count: int, k: int) -> tuple[float, float]:
    """Write the lists of the first `count` users; return the seconds and the peak memory in GiB."""
    users = log.user_ids[:count]
    job = Job.of("benchmark", bundle, "made up", k, users, log)
    with tempfile.TemporaryDirectory() as folder, stage(f"lists of {count:,} users") as update, PeakMemory() as memory:
        written: Written = write_lists(job, catalogue, log, users, Path(folder) / "lists", False, update, FileOptions())
    assert written.lists == count and not written.shorter
    return written.seconds, memory.peak / (1 << 30)


def proportional_bytes(pid: int) -> int:
    """Return the proportional set size of a process, 0 where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))


class PeakMemory:
    """The most that this process and all that it started had at once."""

    def __init__(self) -> None:
        self.peak, self._done = 0, threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "PeakMemory":
        self._watcher.start()
        return self

    def __exit__(self, *problem: object) -> None:
        self._done.set()
        self._watcher.join()

    def _watch(self) -> None:
        own = psutil.Process(os.getpid())
        while not self._done.wait(LOOKED_EVERY_S):
            total = sum(proportional_bytes(process.pid) for process in [own, *own.children(recursive=True)])
            self.peak = max(self.peak, total)


if __name__ == "__main__":
    main()
