"""Start Ray: join the cluster of `RAY_ADDRESS` if there is one, else start a quiet one on this machine.

Files reach the other machines of a cluster through Ray's object store (`send`): no folder has to be shared.
"""

import logging
import os
import tempfile
import threading
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from filelock import FileLock

from recsys.errors import RecsysError, first_line
from recsys.names import OWN_STORE

if TYPE_CHECKING:
    from ray.train import Checkpoint

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
    runtime: dict[str, Any] = {"worker_process_setup_hook": "recsys.packages.import_own"}
    if not OWN_STORE:  # machines that were started elsewhere know another MLflow, or none
        runtime["env_vars"] = {"MLFLOW_TRACKING_URI": os.environ["MLFLOW_TRACKING_URI"]}
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "runtime_env": runtime}
    if "RAY_ADDRESS" not in os.environ:
        # "local": `ray start` leaves an address behind that Ray would join otherwise.
        quiet |= {"address": "local", "include_dashboard": False, "object_store_memory": 200 << 20}
    try:
        with FileLock(Path(tempfile.gettempdir()) / f"recsys-ray-{os.getuid()}.lock", timeout=START_S):
            ray.init(**quiet)
    except Exception as error:  # of many kinds, plain ones among them
        reason = first_line(error)
        raise RecsysError(f"Ray did not start: {reason}; try again, or see /tmp/ray/session_latest/logs") from error
    for name in ("ray", "ray.train", "ray.tune", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)


def in_actor() -> bool:
    """Return whether this process is an actor of Ray."""
    import ray

    return ray.is_initialized() and ray.get_runtime_context().get_actor_id() is not None


def stop_own_ray() -> None:
    """Stop the Ray that this process started; a cluster that it joined, or whose work it is part of, stays as it is."""
    import ray

    if "RAY_ADDRESS" not in os.environ and not in_actor():
        ray.shutdown()


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


def machine_cores() -> list[int]:
    """Return the cores of each machine of the cluster that was joined."""
    import ray

    return [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]


def cores_each(workers: int, machines: list[int]) -> int:
    """Return how many cores each of so many `workers` can have, all the same, on `machines` with so many cores.

    Raises:
        RecsysError: there are fewer cores than workers.
    """
    for cores in range(max(machines), 0, -1):
        if sum(each // cores for each in machines) >= workers:
            return cores
    raise RecsysError(f"compute.workers={workers}: each needs a core, and there are {sum(machines)}; set fewer")


@dataclass(frozen=True)
class Sent:
    """A file or folder of one machine that all machines of the cluster can read."""

    path: Path
    node: str
    """Ray's id of its machine."""
    files: dict[str, Any]
    """References to the bytes of each file, by its path in the folder; none where there is one machine."""

    @contextmanager
    def here(self) -> Iterator[Path]:
        """Give the body its path on this machine: the original, or a copy that lives as long as the body."""
        import ray

        if ray.get_runtime_context().get_node_id() == self.node:
            yield self.path
            return
        with tempfile.TemporaryDirectory(prefix="recsys-") as folder:
            copy = Path(folder) / self.path.name
            for name, content in self.files.items():
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                ray.get(content).tofile(copy / name)
            yield copy


def send(path: Path, only: Collection[str] = ()) -> Sent:
    """Put a file or folder of this machine into the object store, as long as what is returned lives.

    Of a folder, `only` names the files that are needed, where not all are.
    """
    import ray

    path = path.resolve()
    inside = [path / name for name in only] or sorted(path.rglob("*"))
    files = [path] if path.is_file() else [file for file in inside if file.is_file()]
    others = len(machine_cores()) > 1
    content = {str(file.relative_to(path)): ray.put(np.fromfile(file, np.uint8)) for file in files if others}
    return Sent(path, ray.get_runtime_context().get_node_id(), content)


@contextmanager
def opened(checkpoint: "Checkpoint") -> Iterator[Path]:
    """Give the body the folder of a checkpoint: the original, or from storage a copy that lives as long as the body.

    Ray's `as_directory` gives all workers of a machine the same copy, and fetches it anew for one that comes late, while
    another reads it (ray-project/ray#48726).
    """
    from pyarrow.fs import LocalFileSystem

    if isinstance(checkpoint.filesystem, LocalFileSystem):
        yield Path(checkpoint.path)
        return
    with tempfile.TemporaryDirectory(prefix="recsys-") as folder:
        yield Path(checkpoint.to_directory(folder))
