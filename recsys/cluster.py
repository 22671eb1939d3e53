"""Start Ray: join the cluster of `RAY_ADDRESS` if there is one, else start a quiet one on this machine."""

import logging
import os
from typing import Any

from recsys.errors import RecsysError


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
        ray.init(**quiet)
    except Exception as error:  # of many kinds, plain ones among them
        reason = (str(error).splitlines() or [repr(error)])[0]
        raise RecsysError(f"Ray did not start: {reason}; try again, or see /tmp/ray/session_latest/logs") from error
    for name in ("ray", "ray.train", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
