"""What one training costs: seconds and memory of `recsys train`, of one version or of several in turn.

    .venv/bin/python -m benchmarks.train_cost DATASET [--python OTHER/.venv/bin/python] [--set interest.epochs=2]

In: a dataset folder, and the interpreters of the versions to compare (this one by default). Out: a line per training:
seconds, the largest memory of all its processes together (proportional set size, so that shared pages count once), and
the metrics on test.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

EVERY_S = 0.5
"""Seconds between two looks at the memory."""

METRICS = "from mlflow import MlflowClient; import json; c = MlflowClient('sqlite:///mlflow.db'); print(json.dumps(c.search_runs(['1'])[0].data.metrics))"


def main() -> None:
    """Train with each interpreter in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument(
        "--python", type=os.path.abspath, action="append", help="interpreter of a version; may be given more than once"
    )
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    print(f"{'version':50}{'seconds':>9}{'GiB':>7}{'hr@10':>9}{'ndcg@10':>9}")
    for _ in range(options.rounds):
        for python in options.python or [sys.executable]:
            seconds, gib, metrics = train(python, options.dataset.resolve(), options.sets)
            hr, ndcg = metrics["test_hr_at_10"], metrics["test_ndcg_at_10"]
            print(f"{python[-50:]:50}{seconds:9.0f}{gib:7.2f}{hr:9.4f}{ndcg:9.4f}", flush=True)


def train(python: str, dataset: Path, sets: list[str]) -> tuple[float, float, dict[str, float]]:
    """Return seconds, peak memory in GiB and test metrics of one training in a folder of its own."""
    program = "from recsys.cli import main; main()"
    options = [part for text in sets for part in ("--set", text)]
    with TemporaryDirectory() as folder, (Path(folder) / "train.log").open("w") as log:
        start = time.monotonic()
        command = [python, "-c", program, "train", str(dataset), *options]
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
        peak = 0
        while process.poll() is None:
            peak = max(peak, memory_of(psutil.Process(process.pid)))
            time.sleep(EVERY_S)
        seconds = time.monotonic() - start
        if process.returncode:
            sys.exit(f"{python}: {(Path(folder) / 'train.log').read_text()[-500:]}")
        metrics = subprocess.run([python, "-c", METRICS], cwd=folder, capture_output=True, text=True, check=True).stdout
    return seconds, peak / 2**30, json.loads(metrics.splitlines()[-1])


def memory_of(process: psutil.Process) -> int:
    """Return the proportional set size of a process and everything that it started, in bytes."""
    total = 0
    for each in (process, *process.children(recursive=True)):
        try:
            total += each.memory_full_info().pss
        except psutil.Error:  # it has ended
            continue
    return total


if __name__ == "__main__":
    main()
