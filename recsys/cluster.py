"""Start Ray: join the cluster of `RAY_ADDRESS` if there is one, else start a quiet one on this machine."""

import logging
import os
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock

from recsys.errors import RecsysError, first_line

T = TypeVar("T")

START_S = 300
"""Seconds that a start waits for others on this machine: Rays that start at the same time take each other's ports."""
POLL_S = 0.5
"""Seconds until Ctrl-C is noticed, at most."""


def start_ray() -> None:
    """Join the cluster of `RAY_ADDRESS`, or start a quiet one on this machine.

    Raises:
        RecsysError: Ray did not start, for example because the machine is too busy.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    os.environ.setdefault("RAY_DATA_LOG_LEVEL", "ERROR")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    if ray.is_initialized():
        return
    # Ray puts the working directory first in the path of its workers; importing recsys imports what it may hide.
    own_packages = {"worker_process_setup_hook": "recsys.packages.import_own"}
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "runtime_env": own_packages}
    if "RAY_ADDRESS" not in os.environ:
        quiet |= {"include_dashboard": False, "object_store_memory": 200 << 20}
    try:
        with FileLock(Path(tempfile.gettempdir()) / f"recsys-ray-{os.getuid()}.lock", timeout=START_S):
            ray.init(**quiet)
    except Exception as error:  # of many kinds, plain ones among them
        reason = first_line(error)
        raise RecsysError(f"Ray did not start: {reason}; try again, or see /tmp/ray/session_latest/logs") from error
    for name in ("ray", "ray.train", "ray.tune", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)


def interruptible(work: Callable[[], T]) -> T:
    """Return what `work` on Ray returns; Ctrl-C stops it, and Ray with it.

    In the main thread Ray Train would answer Ctrl-C itself, then and for the rest of the process: it returns a fit that
    was broken off as if it were done.
    """
    import ray

    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        # polars has system calls restart after a signal, so that an endless wait would not end.
        while not future.done():
            wait([future], timeout=POLL_S)
        return future.result()
    except KeyboardInterrupt:
        ray.shutdown()
        raise
