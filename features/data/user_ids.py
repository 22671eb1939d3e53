"""Read a list of users: a table with `user_id`, or one id per line."""

from pathlib import Path

import polars as pl

from features.data.formats import kind_of, scan
from recsys.errors import RecsysError, first_line


def read_users(path: Path) -> list[str]:
    """Return the distinct user ids of a file: a table (Parquet, CSV, TSV, JSONL) with `user_id`, or one id per line.

    Raises:
        RecsysError: the file is missing, unreadable, empty or has no such column.
    """
    try:
        if kind_of(path):
            users = scan(path).select(pl.col("user_id").cast(pl.String)).collect()["user_id"].to_list()
        else:
            users = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError, pl.exceptions.PolarsError) as error:
        reason = first_line(error)
        raise RecsysError(
            f"--users {path}: {reason}; give .parquet, .csv, .tsv or .jsonl with user_id, or one id per line"
        ) from error
    distinct = list(dict.fromkeys(user for user in users if user))
    if not distinct:
        raise RecsysError(f"--users {path}: holds no user id; write one per line, or leave --users out for all users")
    return distinct
