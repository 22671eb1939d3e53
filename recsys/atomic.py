"""Atomic file and folder writes: what others read is complete, or not there at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recsys.errors import RecsysError


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Give the body a temporary path to write to; rename it to `path` when the body ends, delete it when the body fails."""
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(out: Path) -> Iterator[Path]:
    """Give the body a temporary folder; rename it to `out` when the body ends, delete it when the body fails.

    Raises:
        RecsysError: `out` exists and is not an empty folder.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RecsysError(f"{out}: exists and is not an empty folder; name another folder, or remove this one first")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.resolve().with_name(f".{out.resolve().name}.{os.getpid()}.partial")
    partial.mkdir()
    try:
        yield partial
        os.replace(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
