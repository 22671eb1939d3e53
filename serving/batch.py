"""Recommendation lists for many users: the job behind `recsys recommend`.

In: a bundle, a dataset with the users' events so far, the users. Out: a folder with the files of
`serving.lists` and `_report.json`, complete or absent. A stopped run keeps what it wrote in a hidden
folder next to it, for `--resume`. Few users are served in this process, many in several (`serving.processes`), or on Ray Data
where `RAY_ADDRESS` names a cluster.
"""

import io
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from filelock import FileLock, Timeout

from features.data.dataset import Dataset
from features.data.user_ids import read_users
from features.data.values import moment_of_text
from features.histories import EventLog, Histories, read_log
from features.item_lists import ItemLists
from features.recent import RecentEvents
from features.rejections import Rejected
from recsys.arrays import Ints
from recsys.atomic import atomic_file
from recsys.bundle import read_config, verify
from recsys.cluster import Sent, send, start_ray
from recsys.errors import RecsysError, first_line
from recsys.progress import Update, stage
from recsys.registry import bundle_folder, resolve
from serving.list_maker import CATALOGUE, JOB, NEW_ITEMS, RECENT, Job, ListMaker, allowed_items, part_file
from serving.lists import REASONS, SCHEMA, FileOptions, meanings, write_files
from serving.loading import (
    catalogue_ids,
    encode_differing_items,
    newest_event,
    offered_items,
    read_dataset,
)
from serving.processes import make_in_processes
from serving.recommender import Recommender
from serving.scenarios.applied import Offer, notes_of
from serving.scenarios.definition import Scenario, parse

PART_USERS = 1024
"""Users of one part, made in one go."""

PARTS_ALONE = 8
"""Up to so many parts are made in this process: one core has them before others have started."""

EXAMPLES = 3
REPORT = "_report.json"


@dataclass(frozen=True)
class Written:
    """What a job wrote: the form of `_report.json`."""

    model: str
    dataset: str
    k: int
    where: list[str]
    scenario: dict[str, Any]
    notes: list[str]
    """Rules of the scenario that no item of the dataset meets."""
    users: int
    lists: int
    rows: int
    shorter: dict[str, int]
    """Lists with fewer than k items, by reason."""
    unknown: int
    """Users without any event: their lists hold what is popular and new."""
    unknown_examples: list[str]
    columns: dict[str, str]
    """What each column of the files holds."""
    seconds: float
    resumed: bool


def recommend_lists(
    folder: Path,
    model: str,
    k: int,
    out: Path,
    *,
    where: Sequence[str] = (),
    explain: bool = False,
    scenario: Scenario | None = None,
    users_file: Path | None = None,
    active_since: str | None = None,
    files: FileOptions | None = None,
    resume: bool = False,
) -> Written:
    """Write lists of the items that pass `where`, for users of the dataset in `folder`, into the folder `out`.

    They are made by `scenario`, whose filters `where` replaces. They are made for the users of `users_file`, else for all, and of these for those with an event since `active_since`.

    Raises:
        RecsysError: a file, a condition or a time cannot be read, nothing is left to list, or `write_lists` fails.
    """
    name = resolve(model)
    bundle = bundle_folder(name)
    manifest, config = verify(bundle), read_config(bundle)
    dataset = read_dataset(folder, config, manifest["dataset_fingerprint"], model)
    allowed_items(dataset.items, where)
    if scenario:  # a condition that does not fit is refused before anything slow
        notes_of(scenario, Offer(dataset.items))
    log = read_log(dataset, config, catalogue_ids(bundle, dataset.items))
    users = _users(dataset, log, users_file, active_since)
    job = Job.of(name, bundle, dataset.fingerprint, k, users, log, where=where, explain=explain, scenario=scenario)
    with stage(f"writing {out}") as update:
        return write_lists(job, dataset.items, log, users, out, resume, update, files or FileOptions())


def write_lists(
    job: Job,
    catalogue: pl.DataFrame,
    log: EventLog,
    users: list[str],
    out: Path,
    resume: bool,
    update: Update,
    files: FileOptions,
) -> Written:
    """Write the lists of `users` into the new folder `out`; users without events in `log` get popular items.

    `log` is over the items of `serving.loading.catalogue_ids`.

    Raises:
        RecsysError: `out` exists, another run is writing it, a stopped run belongs to a different job, a worker failed,
            or the files cannot be written.
    """
    start, work = time.monotonic(), out.resolve().with_name(f".{out.resolve().name}.partial")
    with _alone(out, work):
        resumed = _prepare(job, catalogue, log, users, out, work, resume)
        parts = [part_file(work / "parts", part) for part in range(-(-len(users) // PART_USERS))]
        todo = [number for number, part in enumerate(parts) if not part.exists()]
        done = len(parts) - len(todo)
        for _ in _made(job, work, todo):
            done += 1
            update(done / len(parts), f"{min(done * PART_USERS, len(users)):,} of {len(users):,} users")
        known = set(log.user_ids)
        unknown = [user for user in users if user not in known]
        _write(job, catalogue, parts, work / "lists", files)
        notes = notes_of(parse(job.scenario, "scenario"), Offer(catalogue, offered_items(catalogue)))
        written = _report(job, parts, files, unknown, notes, resumed, time.monotonic() - start)
        with atomic_file(work / "lists" / REPORT) as temporary:
            temporary.write_text(json.dumps(asdict(written), indent=1) + "\n", encoding="utf-8")
        os.replace(work / "lists", out)
        shutil.rmtree(work)
    return written


def _users(dataset: Dataset, log: EventLog, users_file: Path | None, active_since: str | None) -> list[str]:
    """Return the users of the file, or of the dataset, that were active since a time."""
    listed = dataset.users["user_id"].to_list() if dataset.users is not None else []
    users = read_users(users_file) if users_file else list(dict.fromkeys([*log.user_ids, *listed]))
    if active_since is None:
        return users
    since = moment_of_text(active_since)
    if since is None or not dataset.has_clock:
        reason = "the dataset has no clock" if since else "is no time, write for example 2026-01-31"
        raise RecsysError(f"--active-since {active_since}: {reason}")
    last = log.times[log.offsets[1:] - 1]
    active = {user for user, time in zip(log.user_ids, last.tolist(), strict=True) if time >= since}
    kept = [user for user in users if user in active]
    if not kept:
        raise RecsysError(
            f"--active-since {active_since}: none of {len(users):,} users has an event since; name an earlier time"
        )
    return kept


def histories_of(recommender: Recommender, log: EventLog, rows: list[int], now: int | Ints) -> Histories:
    """Return the histories of user rows as of `now`, or each its own; -1 is a user without events."""
    histories = _histories(log, rows, now, recommender.retriever.config.interest.max_history)
    return replace(histories, named=log.attributes.of([log.user_ids[row] if row >= 0 else None for row in rows]))


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
    """Write what those read that make the parts, unless it exists; return whether a stopped run is resumed."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RecsysError(f"{out}: exists and is not an empty folder; name another or remove it first")
    if (work / JOB).exists():
        before = json.loads((work / JOB).read_text(encoding="utf-8"))
        differing = [name for name, value in json.loads(json.dumps(asdict(job))).items() if before.get(name) != value]
        if not resume:
            raise RecsysError(f"{out}: a previous run did not finish; continue it with --resume, or remove {work}")
        if differing:
            raise RecsysError(f"{out}: --resume needs the same job, but {', '.join(differing)} differ; remove {work}")
        return True
    shutil.rmtree(work, ignore_errors=True)
    for name in ("histories", "parts"):
        (work / name).mkdir(parents=True)
    catalogue.write_parquet(work / CATALOGUE)
    encode_differing_items(Path(job.bundle), catalogue).save(work / NEW_ITEMS)
    RecentEvents.of_log(log, newest_event(Path(job.bundle))).save(work / RECENT)
    known = {user: row for row, user in enumerate(log.user_ids)}
    length = read_config(Path(job.bundle)).interest.max_history
    for part, start in enumerate(range(0, len(users), PART_USERS)):
        ids = users[start : start + PART_USERS]
        histories = _histories(log, [known.get(user, -1) for user in ids], job.now, length)
        rejected = log.rejections.at(ids, histories.now)
        histories = replace(histories, named=log.attributes.of(ids), rejected=rejected)  # of users without events, too
        _history_rows(ids, histories, log.attributes.table.schema).write_parquet(part_file(work / "histories", part))
    job.write(work)
    return False


def _history_rows(users: list[str], histories: Histories, kinds: pl.Schema) -> pl.DataFrame:
    present = histories.items >= 0
    columns = {
        name: pl.Series([row[kept] for row, kept in zip(array, present, strict=True)], dtype=pl.List(kind))
        for name, array, kind in (
            ("items", histories.items, pl.Int32),
            ("types", histories.types, pl.Int8),
            ("times", histories.times, pl.Int64),
        )
    }
    none = ItemLists.none(len(users))
    rejected = histories.rejected or Rejected(none, none)
    lists = {"earlier": histories.earlier or none, "rejected": rejected.items, "disliked": rejected.disliked}
    columns |= {name: pl.Series(each.by_request(), dtype=pl.List(pl.Int32)) for name, each in lists.items()}
    attributes = [pl.Series(name, values.tolist(), kinds[name]) for name, values in histories.named.items()]
    return pl.DataFrame({"user_id": pl.Series(users, dtype=pl.String), **columns}).with_columns(attributes)


def _histories(log: EventLog, rows: list[int], now: int | Ints, length: int) -> Histories:
    users = np.array(rows, np.int64)
    if not len(log.user_ids):
        empty = np.zeros((len(rows), length), np.int64)
        none = ItemLists.none(len(rows))
        return Histories((empty - 1).astype(np.int32), empty.astype(np.int8), empty, np.full(len(rows), now), none)
    before = np.where(users < 0, np.iinfo(np.int64).min, now)  # nothing lies before that
    return replace(log.histories(np.maximum(users, 0), before, length), now=np.full(len(rows), now))


def _made(job: Job, work: Path, todo: list[int]) -> Iterator[int]:
    """Make the parts `todo`; yield each once it is written, and raise at the end if any failed."""
    if not todo:
        return
    if "RAY_ADDRESS" in os.environ:
        rows = _made_on_ray(job, work, todo)
    else:
        rows = _made_alone(job, work, todo) if len(todo) <= PARTS_ALONE else make_in_processes(work, todo)
    failures = []
    for row in rows:
        if row["failure"]:
            failures.append(f"part {row['part']}: {row['failure']}")
        else:
            yield int(row["part"])
    if failures:
        raise RecsysError(f"{len(failures)} of {len(todo)} parts failed, {failures[0]}; the others are kept: --resume")


def _made_alone(job: Job, work: Path, todo: list[int]) -> Iterator[dict[str, Any]]:
    maker = ListMaker(job, work)
    for part in todo:
        yield maker({"part": part})


def _made_on_ray(job: Job, work: Path, todo: list[int]) -> Iterator[dict[str, Any]]:
    """Make the parts `todo` on the machines of the cluster, which need not reach the folder `work` or the bundle."""
    start_ray()
    import ray

    ray.data.DataContext.get_current().enable_progress_bars = False
    size = min(len(todo), max(1, int(ray.cluster_resources().get("CPU", 1))))
    rows = [{"part": part, "histories": part_file(work / "histories", part).read_bytes()} for part in todo]
    sent = {"bundle": send(Path(job.bundle)), "work": send(work, (CATALOGUE, NEW_ITEMS, RECENT))}
    made = ray.data.from_items(rows, override_num_blocks=len(todo)).map(
        _ListMakerAnywhere,
        fn_constructor_kwargs={"job": job, **sent},
        compute=ray.data.ActorPoolStrategy(size=size),
        num_cpus=1,
    )
    try:
        for row in made.iter_rows():
            if not row["failure"]:
                with atomic_file(part_file(work / "parts", row["part"])) as temporary:
                    temporary.write_bytes(row["lists"])
            yield row
    except ray.exceptions.RayError as error:
        yield {"part": "of an actor", "failure": str(error).strip().splitlines()[-1]}


class _ListMakerAnywhere:
    """Makes parts on a machine of a cluster: histories come with a row of Ray Data, lists go back with one."""

    def __init__(self, job: Job, bundle: Sent, work: Sent) -> None:
        with ExitStack() as stack:
            folder, prepared = stack.enter_context(bundle.here()), stack.enter_context(work.here())
            self.maker = ListMaker(replace(job, bundle=str(folder)), prepared)
            self.files = stack.pop_all()  # what was loaded maps some of them

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Make the lists of a part; a failure is returned instead of raised, so that the other parts continue."""
        lists, failure = io.BytesIO(), ""
        try:
            self.maker.lists(pl.read_parquet(row["histories"])).write_parquet(lists)
        except Exception as error:
            failure = first_line(error)
        return {"part": row["part"], "lists": lists.getvalue(), "failure": failure}


def _write(job: Job, catalogue: pl.DataFrame, parts: list[Path], folder: Path, files: FileOptions) -> None:
    """Write the files of the lists in `parts` into the new `folder`."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        write_files(parts, folder, files, job.model, catalogue)
    except (OSError, pl.exceptions.PolarsError) as error:
        reason = first_line(error)
        raise RecsysError(
            f"{folder}: {reason}; the lists are made, free the disk and write them with --resume"
        ) from error


def _report(
    job: Job,
    parts: list[Path],
    files: FileOptions,
    unknown: list[str],
    notes: list[str],
    resumed: bool,
    seconds: float,
) -> Written:
    """Count what is in `parts`."""
    lengths: Counter[int] = Counter()
    for part in parts:
        counts = pl.read_parquet(part, columns=["user_id"]).group_by("user_id").len()
        lengths.update(counts["len"].to_list())
    listed = lengths.total()
    shorter = {
        f"{length} items were left after filters and what the user has seen": count
        for length, count in sorted(lengths.items())
        if length < job.k
    }
    if job.count > listed:
        shorter["no item was left"] = job.count - listed
    return Written(
        model=job.model,
        dataset=job.dataset,
        k=job.k,
        where=list(job.where),
        scenario=job.scenario,
        notes=notes,
        users=job.count,
        lists=listed,
        rows=sum(length * count for length, count in lengths.items()),
        shorter=shorter,
        unknown=len(unknown),
        unknown_examples=unknown[:EXAMPLES],
        columns=meanings([*SCHEMA, *(REASONS if job.explain else ()), *files.extras]),
        seconds=round(seconds, 1),
        resumed=resumed,
    )
