"""Write what text heads say as a file of the kind that its name says."""

from collections.abc import Callable
from pathlib import Path

import polars as pl

from recsys.atomic import atomic_file
from recsys.errors import RecsysError

BETWEEN = "|"
"""Between the values of a list, in CSV."""


def _write_csv(table: pl.DataFrame, path: Path) -> None:
    lists = [name for name, kind in table.schema.items() if kind.is_nested()]
    table.with_columns(pl.col(name).cast(pl.List(pl.String)).list.join(BETWEEN) for name in lists).write_csv(path)


WRITERS: dict[str, Callable[[pl.DataFrame, Path], None]] = {
    ".parquet": lambda table, path: table.write_parquet(path),
    ".csv": _write_csv,
    ".jsonl": lambda table, path: table.write_ndjson(path),
}


def require_known_kind(path: Path) -> None:
    """Raise RecsysError where the name of `path` says no kind of file that can be written."""
    if path.suffix not in WRITERS:
        raise RecsysError(f"--out {path}: no kind of file that can be written; end the name in {', '.join(WRITERS)}")


def write_table(table: pl.DataFrame, path: Path) -> None:
    """Write `table` to `path`, complete or not at all."""
    with atomic_file(path) as temporary:
        WRITERS[path.suffix](table, temporary)
