"""Whether what is installed is whole, and whose `features`, `serving` and `training` are imported.

Users have folders of these names too. Ours are those beside `recsys`, and importing `recsys` imports them first,
so that no folder on the path hides them.
"""

import sys
from importlib import metadata
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from pathlib import Path

from recsys.errors import RecsysError

ROOT = Path(__file__).resolve().parents[1]
OWN = ("features", "serving", "training")
DISTRIBUTION = "recsys-text"


def import_own() -> None:
    """Import our other packages from the folder that `recsys` is in; those that it lacks are left to the path.

    Raises:
        RecsysError: another package of one of these names has been imported before.
    """
    for name in OWN:
        spec = PathFinder.find_spec(name, [str(ROOT)])
        if spec is None or spec.loader is None:
            continue
        imported = sys.modules.get(name)
        if imported is None:
            sys.modules[name] = module = module_from_spec(spec)
            spec.loader.exec_module(module)
        elif imported.__spec__ is None or imported.__spec__.origin != spec.origin:
            theirs = imported.__file__ or next(iter(imported.__path__), "?")
            raise RecsysError(
                f"{theirs}: this package {name!r} was imported before recsys and hides the one in {ROOT / name}; "
                "rename it, or import recsys first"
            )


def require_complete() -> None:
    """Check that what pip could not resolve by itself is there.

    Raises:
        RecsysError: a package is missing, or two that overwrite each other are installed.
    """
    if not find_spec("faiss"):
        raise RecsysError(
            f"{DISTRIBUTION} is installed without faiss; `pip install '{DISTRIBUTION}[cpu]'`, or [gpu] where there is CUDA"
        )
    builds = [name for name in ("fbgemm-gpu", "fbgemm-gpu-cpu") if installed(name)]
    if len(builds) != 1:
        cpu = _requirement("fbgemm-gpu-cpu")
        raise RecsysError(
            f"of fbgemm-gpu and fbgemm-gpu-cpu, which share a folder, {len(builds)} are installed; "
            f"`pip uninstall -y fbgemm-gpu fbgemm-gpu-cpu && pip install {cpu}`"
        )
    if not find_spec("torchrec"):
        raise RecsysError(
            f"torchrec is missing, whose dependencies are for CUDA alone; `pip install --no-deps {_requirement('torchrec')}`"
        )


def installed(distribution: str) -> bool:
    """Return whether a distribution is installed."""
    try:
        return bool(metadata.version(distribution))
    except metadata.PackageNotFoundError:
        return False


def _requirement(name: str) -> str:
    """Return what this release requires of a package, `torchrec==1.9.2`."""
    lines = (line.partition(";")[0].strip() for line in metadata.requires(DISTRIBUTION) or [])
    return next((line for line in lines if line.startswith(f"{name}=")), name)
