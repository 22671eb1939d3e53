"""What a training ran on, for comparing runs.

In: this machine. Out: tags for MLflow, and the most memory that this process has used.
"""

import os
import platform
import resource
from pathlib import Path

import psutil
import torch

from recsys import __version__

KIB_PER_GIB = 2**20


def machine() -> dict[str, str]:
    """Return the release and the hardware as tags of a run."""
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "recsys.version": __version__,
        "machine.cpu": _processor(),
        "machine.cores": str(os.cpu_count()),
        "machine.memory_gib": f"{psutil.virtual_memory().total / 2**30:.0f}",
        "machine.gpu": ", ".join(gpus) or "none",
    }


def peak_memory_gib() -> float:
    """Return the most memory that this process has used so far, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / KIB_PER_GIB


def _processor() -> str:
    """Return the processor's name; Linux knows more of it than Python."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text(encoding="utf-8").splitlines() if about.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
