"""The parts of a batch job in processes of this machine, one per core, which share what they import and map.

    python -m serving.processes WORK < part-numbers      # what `make_in_processes` runs

In: the folder in which `serving.batch` has prepared a job, and the numbers of parts. Out: a file per part, and a line of
JSON for each on standard output. Polars and OpenMP do not survive a fork of a process that has used them, so a fresh one
forks that has only imported.
"""

import gc
import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from recsys.errors import first_line
from serving.list_maker import Job, ListMaker

LOG = "processes.log"
"""What the processes write on standard error, in the folder of the job."""
MOST_LOSSES = 3
"""How often processes may be killed before the job is given up; each time all of them start anew."""
WATCH_S = 1.0
"""Seconds until a process notices that the one that started it is gone, at most."""


def make_in_processes(work: Path, parts: list[int]) -> Iterator[dict[str, Any]]:
    """Make `parts` of the job in `work`; yield for each what `ListMaker` returns, and a failure for those that were lost."""
    lost = set(parts)
    with (work / LOG).open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "serving.processes", str(work)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        )
    try:
        assert process.stdin and process.stdout
        with suppress(BrokenPipeError), process.stdin as numbers:
            numbers.write(" ".join(map(str, parts)))
        for line in process.stdout:
            made = json.loads(line)
            lost.discard(made["part"])
            yield made
    finally:
        process.terminate()
        process.wait()
    for part in sorted(lost):
        failure = f"its process was killed, perhaps for want of memory, see {work / LOG}"
        yield {"part": part, "failure": failure}


def main() -> None:
    """Make the parts whose numbers are on standard input, and print what becomes of each."""
    work, left = Path(sys.argv[1]), {int(number) for number in sys.stdin.read().split()}
    gc.freeze()  # collections would write into the pages that the processes share
    for _ in range(MOST_LOSSES):
        for made in _made(work, sorted(left)):
            left.discard(made["part"])
            print(json.dumps(made), flush=True)
        if not left:
            break


def _made(work: Path, parts: list[int]) -> Iterator[dict[str, Any]]:
    """Make `parts`; yield each, and none any more once a process was killed."""
    count = min(len(parts), len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    pool = ProcessPoolExecutor(count, multiprocessing.get_context("fork"), _watch, (os.getpid(),))
    try:
        for future in as_completed([pool.submit(_make, work, part) for part in parts]):
            try:
                yield future.result()
            except BrokenProcessPool as error:
                print(error, file=sys.stderr)
                return
    finally:
        pool.shutdown(cancel_futures=True)


def _watch(parent: int) -> None:
    """End this process soon after its parent, which may have been killed."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _make(work: Path, part: int) -> dict[str, Any]:
    try:
        maker = _maker(work)
    except Exception as error:
        return {"part": part, "failure": first_line(error)}
    return maker({"part": part})


@cache
def _maker(work: Path) -> ListMaker:
    return ListMaker(Job.read(work), work)


if __name__ == "__main__":
    main()
