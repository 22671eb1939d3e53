"""Recommendation lists for many users: the job behind `recsys recommend`.

In: a bundle, a dataset with the users' events so far, optionally a file of user ids. Out: one
Parquet file with a row per place (`user_id, rank, item_id, score, interest, p_click, p_purchase`),
complete or not there at all.
"""

from pathlib import Path

import numpy as np
import polars as pl

from features.histories import EventLog, Histories, Ints
from recsys.aside import file_aside
from recsys.errors import RecsysError
from recsys.progress import Update
from serving.recommender import BLOCK, Ranking, Recommender

SCHEMA = {
    "user_id": pl.String,
    "rank": pl.Int32,
    "item_id": pl.String,
    "score": pl.Float32,
    "interest": pl.Float32,
    "p_click": pl.Float32,
    "p_purchase": pl.Float32,
}


def write_lists(recommender: Recommender, log: EventLog, users: list[str], k: int, out: Path, update: Update) -> int:
    """Write the k best items of each of `users` to `out` and return the number of rows.

    Users that the log does not know get a list from popularity. Histories are as of the newest
    event of the log.
    """
    known = {user: row for row, user in enumerate(log.user_ids)}
    now = int(log.times.max(initial=0)) + 1
    ids = np.array(recommender.items["item_id"].to_list())
    tables = []
    for start in range(0, len(users), BLOCK):
        part = users[start : start + BLOCK]
        histories = histories_of(recommender, log, [known.get(user, -1) for user in part], now)
        tables.append(_table(part, recommender.recommend(histories, k), ids))
        update(min(1.0, (start + BLOCK) / len(users)), "")
    rows = pl.concat(tables) if tables else pl.DataFrame(schema=SCHEMA)
    try:
        with file_aside(out) as temporary:
            rows.write_parquet(temporary)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise RecsysError(f"{out}: cannot be written ({error}); nothing was left behind") from error
    return rows.height


def histories_of(recommender: Recommender, log: EventLog, rows: list[int], now: int) -> Histories:
    """Return the histories as of `now` of user rows; -1 stands for a user without events."""
    users = np.array(rows, np.int64)
    length = recommender.config.interest.max_history
    if not len(log.user_ids):
        users = np.full(len(rows), -1)
        empty = np.zeros((len(rows), length), np.int64)
        return Histories((empty - 1).astype(np.int32), empty.astype(np.int8), empty, np.full(len(rows), now))
    histories = log.histories(np.maximum(users, 0), np.full(len(rows), now), length)
    histories.items[users < 0] = -1
    return histories


def read_users(path: Path) -> list[str]:
    """Return the user ids of a file: a Parquet or CSV file with `user_id`, or one id a line.

    Raises:
        RecsysError: the file is missing, unreadable or has no such column.
    """
    try:
        if path.suffix == ".parquet":
            return pl.read_parquet(path, columns=["user_id"])["user_id"].cast(pl.String).to_list()
        if path.suffix == ".csv":
            return pl.read_csv(path, columns=["user_id"], infer_schema=False)["user_id"].to_list()
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError, pl.exceptions.PolarsError) as error:
        reason = (str(error).splitlines() or [repr(error)])[0]
        raise RecsysError(f"--users {path}: {reason}; give .parquet or .csv with user_id, or one id a line") from error


def _table(users: list[str], ranking: Ranking, ids: Ints) -> pl.DataFrame:
    present = ranking.items >= 0
    rows, places = np.nonzero(present)
    return pl.DataFrame(
        {
            "user_id": pl.Series(np.array(users, dtype=object)[rows], dtype=pl.String),
            "rank": places + 1,
            "item_id": pl.Series(ids[ranking.items[present]], dtype=pl.String),
            "score": ranking.score[present],
            "interest": ranking.interest[present],
            "p_click": ranking.p_click[present],
            "p_purchase": ranking.p_purchase[present],
        },
        schema_overrides=SCHEMA,
    )
