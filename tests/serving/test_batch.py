"""Lists for many users: complete or not there, the same as anywhere, and going on after a kill."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import psutil
import pytest
from filelock import FileLock

import serving.batch
from features.data.user_ids import read_users
from features.histories import EventLog
from recsys.bundle import read_config
from recsys.errors import RecsysError
from serving.batch import Written, histories_of, write_lists
from serving.list_maker import Job
from serving.lists import FileOptions, lists_table
from serving.loading import load_bundle
from serving.recommender import RecommendOptions
from tests.worlds import DAY, START, log_of, sealed_again, tiny_bundle

pytestmark = pytest.mark.slow

USERS = [f"u{user}" for user in range(12)] + ["unknown"]
EVENTS = [(f"u{u}", f"i{(3 * u + s * s) % 35}", "click", 5 * s + u % 5) for u in range(12) for s in range(5)]


PLAIN = FileOptions()


def quiet(share: float, note: str = "") -> None:
    """Show no progress."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a small bundle."""
    return tiny_bundle(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def log() -> EventLog:
    """Return the log that the bundle was fitted on."""
    return log_of(EVENTS, 40)


@pytest.fixture
def write(bundle: Path, log: EventLog, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Written]:
    """Return a writer of lists in parts of five users."""
    monkeypatch.setattr("serving.batch.PART_USERS", 5)
    catalogue = pl.read_parquet(bundle / "items.parquet")

    def run(
        out: Path, resume: bool = False, k: int = 7, users: list[str] = USERS, files: FileOptions = PLAIN, **job: Any
    ) -> Written:
        described = Job.of("tiny", bundle, "-", k, users, log, **job)
        return write_lists(described, catalogue, log, users, out, resume, quiet, files)

    return run


@pytest.mark.parametrize("where", ["here", "in processes", "on Ray"])
def test_lists_are_those_of_the_recommender_and_the_report_counts_them(
    write: Callable[..., Written],
    bundle: Path,
    log: EventLog,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    """Wherever they are made: a file per part where they are many rows, no others, and why the lists are shorter than requested."""
    monkeypatch.setattr("serving.batch.PARTS_ALONE", 0)
    if where == "here":
        monkeypatch.setattr("serving.batch.PARTS_ALONE", 3)
    if where == "on Ray":
        monkeypatch.setenv("RAY_ADDRESS", "local")
    monkeypatch.setattr("serving.lists.ONE_FILE_ROWS", 100)
    written = write(tmp_path / "lists", k=50)
    assert (written.users, written.lists, written.rows, list(written.shorter.values())) == (13, 13, 520, [13])
    assert "40 items were left" in next(iter(written.shorter))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lists"]
    assert sorted(path.name for path in (tmp_path / "lists").iterdir()) == [
        "_report.json", "part-00000.parquet", "part-00001.parquet", "part-00002.parquet",
    ]  # fmt: skip
    report = json.loads((tmp_path / "lists" / "_report.json").read_text())
    assert (report["model"], report["unknown"], report["unknown_examples"]) == ("tiny", 1, ["unknown"])
    recommender = load_bundle(bundle).recommender
    now = START + 24 * DAY + 1
    rows = [log.user_ids.index(user) if user in log.user_ids else -1 for user in USERS]
    expected = lists_table(
        USERS,
        recommender.recommend(histories_of(recommender, log, rows, now), RecommendOptions(50)),
        recommender.retriever.items["item_id"].to_numpy(),
    )
    written_lists = pl.concat([pl.read_parquet(path) for path in sorted((tmp_path / "lists").glob("*.parquet"))])
    assert written_lists.select("user_id", "rank", "item_id").equals(expected.select("user_id", "rank", "item_id"))


def test_no_list_has_what_its_user_ever_met(bundle: Path, tmp_path: Path) -> None:
    """However long ago, and an unknown user's list lacks nothing for that."""
    events = [("u00", f"i{row}", "purchase", row) for row in range(30)]
    log, out = log_of(events, 40), tmp_path / "lists"
    strict = shutil.copytree(bundle, tmp_path / "strict")
    rules = json.loads((strict / "serving.json").read_text()) | {"exclude_seen": True}
    (strict / "serving.json").write_text(json.dumps(rules))
    sealed_again(strict, read_config(strict))
    job = Job.of("tiny", strict, "-", 40, ["u00", "unknown"], log)
    write_lists(job, pl.read_parquet(bundle / "items.parquet"), log, ["u00", "unknown"], out, False, quiet, PLAIN)
    lists = pl.concat([pl.read_parquet(path) for path in out.glob("*.parquet")])
    met = {f"i{row}" for row in range(30)}
    assert set(lists.filter(user_id="u00")["item_id"]) == {f"i{row}" for row in range(40)} - met
    assert lists.filter(user_id="unknown").height == 40


def test_no_list_has_what_its_user_rejected(bundle: Path, tmp_path: Path) -> None:
    """Also where the user did nothing else; what the user took back is in it."""
    said = [
        ("u00", "i1", "hide", 4),
        ("u00", "i2", "dislike", 4),
        ("silent", "i3", "hide", 4),
        ("u00", "i5", "hide", 1),
    ]
    log, out = log_of([("u00", "i0", "click", 0), *said, ("u00", "i5", "purchase", 5)], 40), tmp_path / "lists"
    job = Job.of("tiny", bundle, "-", 40, ["u00", "silent"], log)
    write_lists(job, pl.read_parquet(bundle / "items.parquet"), log, ["u00", "silent"], out, False, quiet, PLAIN)
    lists = pl.concat([pl.read_parquet(path) for path in out.glob("*.parquet")])
    every = {f"i{row}" for row in range(40)}
    assert every - set(lists.filter(user_id="u00")["item_id"]) == {"i1", "i2"}
    assert every - set(lists.filter(user_id="silent")["item_id"]) == {"i3"}


def _only(part: int) -> Callable[..., Iterator[int]]:
    """Return what makes parts, and fails where others than `part` are to be made."""
    make = serving.batch._made

    def made(job: Job, work: Path, todo: list[int]) -> Iterator[int]:
        assert todo == [part]
        return make(job, work, todo)

    return made


def test_a_failed_run_is_kept_and_goes_on_with_the_same_job_alone(
    write: Callable[..., Written], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lay on disk is not made again; without --resume nothing is overwritten."""
    out, work = tmp_path / "lists", tmp_path / ".lists.partial"
    with monkeypatch.context() as patch:
        patch.setattr("serving.batch._made", lambda job, work, todo: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write(out)
    histories = work / "histories" / "part-00002.parquet"
    content = histories.read_bytes()
    histories.write_bytes(b"no parquet")
    with pytest.raises(RecsysError, match=r"1 of 3 parts failed, part 2: .*--resume") as raised:
        write(out, resume=True)
    assert "\n" not in str(raised.value) and not out.exists()
    assert sorted(path.name for path in (work / "parts").iterdir()) == ["part-00000.parquet", "part-00001.parquet"]
    histories.write_bytes(content)
    with pytest.raises(RecsysError, match="continue it with --resume, or remove"):
        write(out)
    with pytest.raises(RecsysError, match="needs the same job, but k differ"):
        write(out, resume=True, k=3)
    monkeypatch.setattr("serving.batch._made", _only(2))
    written = write(out, resume=True)
    assert written.lists == 13 and written.resumed and not work.exists()


def test_a_killed_run_goes_on(bundle: Path, log: EventLog, tmp_path: Path) -> None:
    """With every list there, once."""
    program = (
        "import sys, serving.batch; from pathlib import Path; import polars as pl; from tests.serving import test_batch as t\n"
        "from tests.worlds import log_of\n"
        "bundle, out, resume = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == 'resume'\n"
        "serving.batch.PART_USERS, serving.batch.PARTS_ALONE = 1, 60 if resume else 0\n"
        "users, log = [f'u{n}' for n in range(60)], log_of(t.EVENTS, 40)\n"
        "job = t.Job.of('tiny', bundle, '-', 7, users, log)\n"
        "serving.batch.write_lists(job, pl.read_parquet(bundle / 'items.parquet'), log, users, out, resume, t.quiet, t.PLAIN)\n"
    )
    out = tmp_path / "lists"

    def start(how: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", program, str(bundle), str(out), how]
        return subprocess.Popen(command, start_new_session=True, cwd=Path(__file__).parents[2])

    first = start("fresh")
    parts = tmp_path / ".lists.partial" / "parts"
    while len(list(parts.glob("*.parquet"))) < 3 and first.poll() is None:
        time.sleep(0.01)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert not out.exists()
    assert start("resume").wait(timeout=200) == 0
    lists = pl.read_parquet(out / "*.parquet")
    assert lists["user_id"].n_unique() == 60 and lists.height == 420


def _forked() -> list[psutil.Process]:
    """Return the processes that make parts, and not the one that has forked them; none before they are there."""
    started = [
        process.children() for process in psutil.Process().children() if "serving.processes" in process.cmdline()
    ]
    return [process for family in started for process in family]


def _once_a_part_is_there(work: Path, strike: Callable[[list[psutil.Process]], None]) -> threading.Thread:
    """Call `strike` with the processes that make parts as soon as one is made."""

    def wait() -> None:
        while not list((work / "parts").glob("*.parquet")):
            time.sleep(0.005)
        strike(_forked())

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def test_killed_processes_lose_no_list(
    bundle: Path, log: EventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where one that makes parts is killed, others make its part; where that is killed which forked them, they end, and --resume goes on."""
    monkeypatch.setattr("serving.batch.PART_USERS", 1)
    users, catalogue = [f"u{number}" for number in range(100)], pl.read_parquet(bundle / "items.parquet")
    job, out = Job.of("tiny", bundle, "-", 7, users, log), tmp_path / "lists"
    work, forked = tmp_path / ".lists.partial", []

    def kill_what_forked(processes: list[psutil.Process]) -> None:
        forked.extend(processes)
        processes[0].parent().kill()

    strike = _once_a_part_is_there(work, kill_what_forked)
    with pytest.raises(RecsysError, match=r"of 100 parts failed, part \d+: its process was killed, .*--resume"):
        write_lists(job, catalogue, log, users, out, False, quiet, PLAIN)
    strike.join()
    assert forked and psutil.wait_procs(forked, timeout=20)[1] == []
    for part in (work / "parts").iterdir():
        part.unlink()
    strike = _once_a_part_is_there(work, lambda processes: processes[0].kill())
    assert write_lists(job, catalogue, log, users, out, True, quiet, PLAIN).lists == 100
    strike.join()


def read(path: Path) -> pl.DataFrame:
    """Return a file of lists, whatever its format."""
    if path.suffix == ".parquet":
        return pl.read_parquet(path)
    return pl.read_csv(path) if path.suffix == ".csv" else pl.read_ndjson(path)


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_every_format_holds_the_same_lists_in_one_file_with_the_columns_asked_for(
    write: Callable[..., Written], bundle: Path, tmp_path: Path, kind: Any
) -> None:
    """And the report says what each column holds."""
    plain, out = tmp_path / "plain", tmp_path / "lists"
    write(plain)
    written = write(out, explain=True, files=FileOptions(kind, ("title", "model", "written_at")))
    assert sorted(path.name for path in out.iterdir()) == ["_report.json", f"part-00000.{kind}"]
    lists, expected = read(out / f"part-00000.{kind}"), read(plain / "part-00000.parquet")
    same = ["user_id", "rank", "item_id"]
    assert lists.select(same).cast(pl.String).equals(expected.select(same).cast(pl.String))
    assert np.allclose(lists["score"], expected["score"], rtol=1e-4)
    assert list(written.columns) == lists.columns and all(written.columns.values())
    titles = pl.read_parquet(bundle / "items.parquet").select("item_id", "title")
    assert lists.select("item_id", "title").join(titles, on=["item_id", "title"], how="anti").is_empty()
    assert lists["model"].unique().to_list() == ["tiny"] and lists["written_at"].n_unique() == 1


def test_parquet_says_what_its_columns_hold(write: Callable[..., Written], tmp_path: Path) -> None:
    """In its own metadata, for whoever gets the file alone."""
    written = write(tmp_path / "lists")
    metadata = pl.read_parquet_metadata(tmp_path / "lists" / "part-00000.parquet")
    assert json.loads(metadata["columns"]) == written.columns


def test_reasons_are_of_the_users_history_and_readable_in_csv(
    write: Callable[..., Written], log: EventLog, tmp_path: Path
) -> None:
    """An unknown user has no nearest items."""
    write(tmp_path / "lists", explain=True, files=FileOptions("csv"))
    lists = read(tmp_path / "lists" / "part-00000.csv")
    past = {f"i{(3 * 4 + s * s) % 35}" for s in range(5)}
    own = lists.filter(pl.col("user_id") == "u4")["nearest"]
    assert {item for text in own for item in text.split("|")} <= past and own.str.split("|").list.len().max() == 3
    assert set(lists.filter(pl.col("user_id") == "unknown")["nearest"]) <= {None, ""}
    strongest = json.loads(lists["features"][0])
    assert strongest and set(strongest[0]) == {"feature", "log_odds"}


def test_lists_hold_only_items_that_pass_every_condition(
    write: Callable[..., Written], bundle: Path, tmp_path: Path
) -> None:
    """The dataset's items of today decide."""
    items = pl.read_parquet(bundle / "items.parquet")
    brand, price = str(items["brand"][0]), float(np.median(items["price"]))
    write(tmp_path / "lists", k=50, where=[f"brand={brand}", f"price<={price}"])
    passing = items.filter((pl.col("brand") == brand) & (pl.col("price") <= price))["item_id"]
    listed = read(tmp_path / "lists" / "part-00000.parquet")["item_id"]
    assert set(listed) == set(passing) and 0 < len(passing) < items.height


def test_a_full_disk_loses_no_list(
    write: Callable[..., Written], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--resume writes what had been made."""
    with monkeypatch.context() as patch:
        patch.setattr("serving.lists.WRITERS", {"parquet": _no_space})
        with pytest.raises(RecsysError, match=r"No space left.*--resume"):
            write(tmp_path / "lists")
    monkeypatch.setattr("serving.batch.ListMaker", None)
    assert write(tmp_path / "lists", resume=True).lists == 13


def _no_space(lists: pl.DataFrame, path: Path) -> None:
    path.write_bytes(b"PAR1")
    raise OSError(errno.ENOSPC, "No space left on device")


def test_two_runs_do_not_write_one_folder(write: Callable[..., Written], tmp_path: Path) -> None:
    """The second one fails at once."""
    with FileLock(tmp_path / ".lists.lock"), pytest.raises(RecsysError, match="another run"):
        write(tmp_path / "lists")


def test_a_folder_with_files_is_left_alone(write: Callable[..., Written], tmp_path: Path) -> None:
    """Whatever they are."""
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "mine").touch()
    with pytest.raises(RecsysError, match="not an empty folder"):
        write(tmp_path / "lists")


def test_no_users_give_no_lists(write: Callable[..., Written], tmp_path: Path) -> None:
    """And the report has their number."""
    assert replace(write(tmp_path / "lists", users=[]), seconds=0).lists == 0


def test_users_are_read_once_each(tmp_path: Path) -> None:
    """Empty lines are no users."""
    (tmp_path / "users.txt").write_text("a\n\nb\na\n")
    assert read_users(tmp_path / "users.txt") == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "text"),
    [("users.txt", "\ufeffa\nb\n"), ("users.CSV", "\ufeffuser_id\na\nb\n"), ("users.tsv", "n\tuser_id\n1\ta\n2\tb\n"),
     ("users.jsonl", '{"user_id": "a"}\n{"user_id": "b"}\n')],
)  # fmt: skip
def test_users_are_read_from_any_table_and_without_a_byte_order_mark(name: str, text: str, tmp_path: Path) -> None:
    """Or the first user would be an unknown one."""
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_users(tmp_path / name) == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "text", "part"), [("users.txt", "\n", "holds no user id"), ("users.csv", "id\na\n", "user_id")]
)
def test_a_file_without_user_ids_is_refused(name: str, text: str, part: str, tmp_path: Path) -> None:
    """It does not stand for nobody."""
    (tmp_path / name).write_text(text)
    with pytest.raises(RecsysError, match=part):
        read_users(tmp_path / name)


def test_lists_are_of_the_items_as_the_dataset_has_them(bundle: Path, log: EventLog, tmp_path: Path) -> None:
    """A new price changes what an item is worth, and at the moment of the lists it has to be in its time."""
    items, row, now = pl.read_parquet(bundle / "items.parquet"), pl.int_range(pl.len()), int(log.times.max()) + 1
    until = pl.when(row == 3).then(now)
    dear = pl.when(row == 4).then(1000.0).otherwise("price")

    def lists(catalogue: pl.DataFrame, name: str) -> pl.DataFrame:
        job = Job.of("tiny", bundle, "-", 50, USERS, log)
        write_lists(job, catalogue, log, USERS, tmp_path / name, False, quiet, PLAIN)
        return pl.read_parquet(tmp_path / name / "*.parquet")

    before, after = lists(items, "before"), lists(items.with_columns(available_until=until, price=dear), "after")
    assert {"i3", "i4"} <= set(before["item_id"]) and "i3" not in after["item_id"]
    worth = [one.filter(item_id="i4").sort("user_id")["score"].to_numpy() for one in (before, after)]
    assert (worth[1] > worth[0]).all()
