"""Recommendation lists for many users, on Ray Data: the job behind `recsys recommend`.

In: a bundle, a dataset with the users' events so far, the users. Out: a folder of Parquet files with a
row per position (`user_id, rank, item_id, score, interest, p_click, p_purchase`) and `_report.json`,
complete or absent. A stopped run keeps what it wrote in a hidden folder next to it, for `--resume`.
"""

import hashlib
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from filelock import FileLock, Timeout

from features.data.formats import kind_of, scan
from features.histories import EventLog, Histories, read_log
from recsys.atomic import atomic_file
from recsys.bundle import read_config, verify
from recsys.cluster import start_ray
from recsys.errors import RecsysError
from recsys.progress import Update, stage
from recsys.registry import bundle_folder, resolve
from serving.encoding import EncodedItems
from serving.loading import catalogue_ids, encode_new_items, load_bundle, read_dataset
from serving.recommender import Ranking, Recommender, RecommendOptions

PART_USERS = 1024
"""Users of one file, made by one actor in one go."""

EXAMPLES = 3
REPORT = "_report.json"
NEW_ITEMS = "new-items.npz"
"""Items that the bundle does not know, encoded once for all actors."""

SCHEMA = {
    "user_id": pl.String,
    "rank": pl.Int32,
    "item_id": pl.String,
    "score": pl.Float32,
    "interest": pl.Float32,
    "p_click": pl.Float32,
    "p_purchase": pl.Float32,
}


@dataclass(frozen=True)
class Job:
    """Which lists to write; a stopped run can be resumed only with the same job."""

    model: str
    bundle: str
    dataset: str
    """Fingerprint."""
    k: int
    users: str
    """SHA-256 of the ids."""
    count: int
    now: int
    """The moment of every request: just after the newest event."""

    @classmethod
    def of(cls, model: str, bundle: Path, fingerprint: str, k: int, users: list[str], log: EventLog) -> "Job":
        """Describe the job."""
        digest = hashlib.sha256("\n".join(users).encode()).hexdigest()
        return cls(model, str(bundle.resolve()), fingerprint, k, digest, len(users), int(log.times.max(initial=0)) + 1)


@dataclass(frozen=True)
class Written:
    """What a job wrote: the form of `_report.json`."""

    model: str
    dataset: str
    k: int
    users: int
    lists: int
    rows: int
    shorter: dict[str, int]
    """Lists with fewer than k items, by reason."""
    unknown: int
    """Users without any event: their lists hold what is popular and new."""
    unknown_examples: list[str]
    seconds: float
    resumed: bool


def write_lists(
    job: Job, catalogue: pl.DataFrame, log: EventLog, users: list[str], out: Path, resume: bool, update: Update
) -> Written:
    """Write the lists of `users` into the new folder `out`; users without events in `log` get popular items.

    `log` is over the items of `serving.loading.catalogue_ids`.

    Raises:
        RecsysError: `out` exists, another run is writing it, a stopped run belongs to a different job, or a worker failed.
    """
    start, work = time.monotonic(), out.resolve().with_name(f".{out.resolve().name}.partial")
    with _alone(out, work):
        resumed = _prepare(job, catalogue, log, users, out, work, resume)
        parts = range(-(-len(users) // PART_USERS))
        todo = [part for part in parts if not _part(work / "lists", part).exists()]
        done = len(parts) - len(todo)
        for _ in _made(job, work, todo):
            done += 1
            update(done / len(parts), f"{min(done * PART_USERS, len(users)):,} of {len(users):,} users")
        known = set(log.user_ids)
        unknown = [user for user in users if user not in known]
        written = _report(job, work / "lists", unknown, resumed, time.monotonic() - start)
        os.replace(work / "lists", out)
        shutil.rmtree(work)
    return written


def recommend_lists(
    folder: Path, model: str, k: int, out: Path, users_file: Path | None = None, resume: bool = False
) -> Written:
    """Write lists for the users of `users_file`, or all of the dataset, into the folder `out`."""
    name = resolve(model)
    bundle = bundle_folder(name)
    manifest, config = verify(bundle), read_config(bundle)
    dataset = read_dataset(folder, config, manifest["dataset_fingerprint"], model)
    log = read_log(dataset, config, catalogue_ids(bundle, dataset.items))
    listed = dataset.users["user_id"].to_list() if dataset.users is not None else []
    users = read_users(users_file) if users_file else list(dict.fromkeys([*log.user_ids, *listed]))
    job = Job.of(name, bundle, dataset.fingerprint, k, users, log)
    with stage(f"writing {out}") as update:
        return write_lists(job, dataset.items, log, users, out, resume, update)


class ListMaker:
    """An actor: loads the bundle once and makes one part after another."""

    def __init__(self, job: Job, work: Path) -> None:
        self.job, self.work = job, work
        encoded = EncodedItems.load(work / NEW_ITEMS)
        bundle = load_bundle(Path(job.bundle), pl.read_parquet(work / "catalogue.parquet"), encoded)
        self.recommender = bundle.recommender
        self.ids = np.array(self.recommender.retriever.items["item_id"].to_list())

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Make the lists of part `row["part"]`; a failure is returned instead of raised, so that the other parts continue."""
        try:
            self.make(row["part"])
        except Exception as error:
            return {**row, "failure": (str(error).strip() or repr(error)).splitlines()[0]}
        return {**row, "failure": ""}

    def make(self, part: int) -> None:
        """Write the lists of a part."""
        stored = pl.read_parquet(_part(self.work / "histories", part))
        length = self.recommender.retriever.config.interest.max_history
        histories = stored_histories(stored, length, self.job.now)
        ranking = self.recommender.recommend(histories, RecommendOptions(self.job.k))
        with atomic_file(_part(self.work / "lists", part)) as temporary:
            lists_table(stored["user_id"].to_list(), ranking, self.ids).write_parquet(temporary)


def lists_table(users: list[str], ranking: Ranking, ids: np.ndarray) -> pl.DataFrame:
    """Return a row per position of the lists of `users`."""
    present = ranking.items >= 0
    rows, positions = np.nonzero(present)
    return pl.DataFrame(
        {
            "user_id": pl.Series(np.array(users, dtype=object)[rows], dtype=pl.String),
            "rank": positions + 1,
            "item_id": pl.Series(ids[ranking.items[present]], dtype=pl.String),
            "score": ranking.score[present],
            "interest": ranking.interest[present],
            "p_click": ranking.p_click[present],
            "p_purchase": ranking.p_purchase[present],
        },
        schema_overrides=SCHEMA,
    )


def histories_of(recommender: Recommender, log: EventLog, rows: list[int], now: int) -> Histories:
    """Return the histories as of `now` of user rows; -1 is a user without events."""
    return _histories(log, rows, now, recommender.retriever.config.interest.max_history)


def stored_histories(stored: pl.DataFrame, length: int, now: int) -> Histories:
    """Return the histories `[R, length]` of rows with lists `items`, `types`, `times`, oldest first."""
    items = np.full((stored.height, length), -1, np.int32)
    types, times = np.zeros((stored.height, length), np.int8), np.zeros((stored.height, length), np.int64)
    for row, (past, kinds, moments) in enumerate(stored.select("items", "types", "times").iter_rows()):
        if past:
            items[row, -len(past) :], types[row, -len(past) :], times[row, -len(past) :] = past, kinds, moments
    return Histories(items, types, times, np.full(stored.height, now, np.int64))


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
        reason = (str(error).splitlines() or [repr(error)])[0]
        raise RecsysError(
            f"--users {path}: {reason}; give .parquet, .csv, .tsv or .jsonl with user_id, or one id per line"
        ) from error
    distinct = list(dict.fromkeys(user for user in users if user))
    if not distinct:
        raise RecsysError(f"--users {path}: holds no user id; write one per line, or leave --users out for all users")
    return distinct


@contextmanager
def _alone(out: Path, work: Path) -> Iterator[None]:
    """Hold the lock of `out` while the body runs."""
    lock = FileLock(work.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise RecsysError(f"{out}: another run is writing it; wait for it or name another folder") from error
    try:
        yield
    finally:
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)


def _prepare(
    job: Job, catalogue: pl.DataFrame, log: EventLog, users: list[str], out: Path, work: Path, resume: bool
) -> bool:
    """Write what the actors read unless it exists; return whether a stopped run is resumed."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RecsysError(f"{out}: exists and is not an empty folder; name another or remove it first")
    note = work / "job.json"
    if note.exists():
        before = json.loads(note.read_text(encoding="utf-8"))
        differing = [name for name, value in asdict(job).items() if before.get(name) != value]
        if not resume:
            raise RecsysError(f"{out}: a previous run did not finish; continue it with --resume, or remove {work}")
        if differing:
            raise RecsysError(f"{out}: --resume needs the same job, but {', '.join(differing)} differ; remove {work}")
        return True
    shutil.rmtree(work, ignore_errors=True)
    for name in ("histories", "lists"):
        (work / name).mkdir(parents=True)
    catalogue.write_parquet(work / "catalogue.parquet")
    encode_new_items(Path(job.bundle), catalogue).save(work / NEW_ITEMS)
    known = {user: row for row, user in enumerate(log.user_ids)}
    length = read_config(Path(job.bundle)).interest.max_history
    for part, start in enumerate(range(0, len(users), PART_USERS)):
        ids = users[start : start + PART_USERS]
        histories = _histories(log, [known.get(user, -1) for user in ids], job.now, length)
        _history_rows(ids, histories).write_parquet(_part(work / "histories", part))
    with atomic_file(note) as temporary:
        temporary.write_text(json.dumps(asdict(job)), encoding="utf-8")
    return False


def _history_rows(users: list[str], histories: Histories) -> pl.DataFrame:
    present = histories.items >= 0
    columns = {
        name: pl.Series([row[kept] for row, kept in zip(array, present, strict=True)], dtype=pl.List(kind))
        for name, array, kind in (
            ("items", histories.items, pl.Int32),
            ("types", histories.types, pl.Int8),
            ("times", histories.times, pl.Int64),
        )
    }
    return pl.DataFrame({"user_id": pl.Series(users, dtype=pl.String), **columns})


def _histories(log: EventLog, rows: list[int], now: int, length: int) -> Histories:
    users = np.array(rows, np.int64)
    if not len(log.user_ids):
        empty = np.zeros((len(rows), length), np.int64)
        return Histories((empty - 1).astype(np.int32), empty.astype(np.int8), empty, np.full(len(rows), now))
    histories: Histories = log.histories(np.maximum(users, 0), np.full(len(rows), now), length)
    histories.items[users < 0] = -1
    return histories


def _made(job: Job, work: Path, todo: list[int]) -> Iterator[int]:
    """Have actors make the parts `todo`; yield each once it is written, and raise at the end if any failed."""
    if not todo:
        return
    start_ray()
    import ray

    ray.data.DataContext.get_current().enable_progress_bars = False
    size = min(len(todo), max(1, int(ray.cluster_resources().get("CPU", 1))))
    parts = ray.data.from_items([{"part": part} for part in todo], override_num_blocks=len(todo))
    made = parts.map(
        ListMaker,
        fn_constructor_kwargs={"job": job, "work": work},
        compute=ray.data.ActorPoolStrategy(size=size),
        num_cpus=1,
    )
    failures = []
    try:
        for row in made.iter_rows():
            if row["failure"]:
                failures.append(f"part {row['part']}: {row['failure']}")
            else:
                yield int(row["part"])
    except ray.exceptions.RayError as error:
        failures.append(str(error).strip().splitlines()[-1])
    if failures:
        raise RecsysError(f"{len(failures)} of {len(todo)} parts failed, {failures[0]}; the others are kept: --resume")


def _report(job: Job, folder: Path, unknown: list[str], resumed: bool, seconds: float) -> Written:
    """Count what was written and write `_report.json` next to it."""
    lengths: Counter[int] = Counter()
    for part in range(-(-job.count // PART_USERS)):
        counts = pl.read_parquet(_part(folder, part), columns=["user_id"]).group_by("user_id").len()
        lengths.update(counts["len"].to_list())
    listed = lengths.total()
    shorter = {
        f"{length} items were left after filters and what the user has seen": count
        for length, count in sorted(lengths.items())
        if length < job.k
    }
    if job.count > listed:
        shorter["no item was left"] = job.count - listed
    rows = sum(length * count for length, count in lengths.items())
    written = Written(
        model=job.model,
        dataset=job.dataset,
        k=job.k,
        users=job.count,
        lists=listed,
        rows=rows,
        shorter=shorter,
        unknown=len(unknown),
        unknown_examples=unknown[:EXAMPLES],
        seconds=round(seconds, 1),
        resumed=resumed,
    )
    with atomic_file(folder / REPORT) as temporary:
        temporary.write_text(json.dumps(asdict(written), indent=1) + "\n", encoding="utf-8")
    return written


def _part(folder: Path, part: int) -> Path:
    return folder / f"part-{part:05d}.parquet"
