"""The command line: quick help, exit codes, one clear line for what the user can solve."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from serving.store.store import Store, StoredEvent
from tests.command_line import run
from tests.worlds import write_dataset


def test_help_needs_no_heavy_package() -> None:
    """Asking for help imports neither torch nor polars nor mlflow nor ray."""
    code = "import sys, recsys.cli; sys.exit(bool({'torch', 'polars', 'mlflow', 'ray', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    "command",
    [
        "train nowhere",
        "tune nowhere",
        "evaluate nowhere",
        "recommend nowhere --out lists",
        "audience nowhere i1 --out a.csv",
    ],
)
def test_a_wrong_path_is_refused_before_anything_slow_is_imported(command: str, tmp_path: Path) -> None:
    """Not after the imports of torch and MLflow."""
    code = (
        "import sys, recsys.cli\n"
        f"sys.argv[1:] = {command.split()!r}\n"
        "try: recsys.cli.main()\n"
        "except SystemExit as end: sys.exit(10 * end.code + bool({'torch', 'mlflow', 'ray'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 10 and "nowhere: no such folder" in done.stderr


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["data"],
        ["data", "import"],
        ["data", "simulate"],
        ["data", "check"],
        ["data", "export"],
        ["data", "prune"],
        ["keys"],
        ["keys", "add"],
        ["keys", "revoke"],
        ["users"],
        ["users", "forget"],
        ["users", "show"],
        ["train"],
        ["tune"],
        ["evaluate"],
        ["recommend"],
        ["audience"],
        ["serve"],
    ],
    ids=" ".join,
)
def test_every_command_has_help(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """With examples, but for the group."""
    code, out, _ = run(capsys, *command, "--help")
    assert code == 0
    assert "Example" in out or command in (["data"], ["keys"], ["users"])


@pytest.mark.parametrize(
    "arguments",
    [
        ["trian"],
        ["train"],
        ["train", "x", "--seed", "-1"],
        ["train", "x", "--fit-on", "test"],
        ["train", "x", "--set", "epochs=3"],
        ["recommend", "x"],
        ["recommend", "x", "--out", "no/folder/lists.parquet"],
        ["evaluate", "x", "--json", "no/folder/report.json"],
        ["recommend", "x", "--out", "y", "--k", "0"],
        ["serve", "--port", "99999"],
        ["serve", "--ray", "--compare", "x"],
        ["keys", "add", "x", "--scope", "all"],
        ["data", "prune", "--days", "0"],
        ["data", "simulate", "--out", "x", "--users", "0"],
        ["data", "import", "files", "x", "--out", "y", "--column", "user_id"],
        ["data", "import", "csv", "x", "--out", "y"],
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_with_2(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is read or written."""
    monkeypatch.chdir(tmp_path)
    code, _, errors = run(capsys, *arguments)
    assert code == 2
    assert "Traceback" not in errors and errors.strip()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["train", "nowhere"], "nowhere"),
        (["data", "check", "nowhere"], "nowhere"),
        (["evaluate", "nowhere", "--model", "no/bundle"], "nowhere: no such folder"),
        (["data", "import", "mind", "nowhere", "--out", "y"], "nowhere"),
        (["train", "x", "--set", "interest.epoch=3"], "did you mean 'epochs'"),
        (["train", "x", "--config", "nowhere.toml"], "nowhere.toml: no such file"),
        (["serve", "--model", "no/bundle"], "no/bundle"),
        (["keys", "add", "x", "--store", "mysql://h/d"], "sqlite:///"),
        (["data", "export", "nowhere", "--out", "y", "--store", "postgresql://me:secret@127.0.0.1:9/d"], "127.0.0.1:9"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_exits_with_1_and_one_line(
    arguments: list[str],
    expected: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The line names what is wrong; nothing is left behind."""
    monkeypatch.chdir(tmp_path)
    code, _, errors = run(capsys, *arguments)
    assert code == 1
    lines = [line for line in errors.splitlines() if line.startswith("error:")]
    assert len(lines) == 1 and expected in lines[0]
    assert "Traceback" not in errors
    assert {path.name for path in tmp_path.iterdir()} <= {"mlflow.db"}


def test_check_reports_and_exits_with_1_only_when_a_rule_is_violated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The report goes to stdout."""
    good = write_dataset(tmp_path / "good")
    bad = write_dataset(tmp_path / "bad", **{"items.csv": "item_id,title\ni1,a\ni1,b\n"})
    assert run(capsys, "data", "check", str(good))[0] == 0
    code, out, _ = run(capsys, "data", "check", str(bad))
    assert code == 1
    assert "i1" in out


def test_import_simulate_and_check_work_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A simulated shop exported as CSV and imported again is the same shop."""
    assert run(capsys, "data", "simulate", "--out", str(tmp_path / "shop"), "--users", "60", "--items", "60")[0] == 0
    (tmp_path / "csv").mkdir()
    for table in ("items", "events", "users"):
        frame = pl.read_parquet(tmp_path / "shop" / f"{table}.parquet")
        if table == "items":
            frame = frame.with_columns(pl.col("tags").list.join("|"))
        frame.write_csv(tmp_path / "csv" / f"{table}.csv")
    out = str(tmp_path / "again")
    code, printed, errors = run(capsys, "data", "import", "files", str(tmp_path / "csv"), "--out", out)
    assert code == 0, errors
    assert "60 items" in printed and f"next: recsys data check {out}" in printed
    assert run(capsys, "data", "check", out)[0] == 0
    events = [pl.read_parquet(tmp_path / name / "events.parquet") for name in ("shop", "again")]
    assert events[0]["item_id"].equals(events[1]["item_id"])
    assert run(capsys, "data", "import", "files", str(tmp_path / "csv"), "--out", out)[0] == 1


def test_keys_are_made_listed_and_revoked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The secret is shown once."""
    store = ("--store", f"sqlite:///{tmp_path}/store.db")
    code, text, _ = run(capsys, "keys", "add", "shop", "--scope", "read", "--scope", "write", *store)
    assert code == 0 and text.startswith("rk_")
    key_id = text.split("_")[1]
    _, listed, _ = run(capsys, "keys", "list", *store)
    assert key_id in listed and "read,write" in listed and text.strip().split("_", 2)[2] not in listed
    assert run(capsys, "keys", "revoke", key_id, *store)[0] == 0
    code, _, errors = run(capsys, "keys", "revoke", key_id, *store)
    assert code == 1 and "recsys keys list" in errors


def test_users_are_forgotten_by_name_and_by_file_and_shown_before(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """All that is stored of one is JSON; without a user nothing is deleted."""
    url = f"sqlite:///{tmp_path}/store.db"
    store = Store(url)
    store.add_events([StoredEvent(f"e{user}", user, "i", "click", 1) for user in ("a", "b", "c", "d")])
    (tmp_path / "gone.csv").write_text("user_id\nb\nc\n")
    code, out, _ = run(capsys, "users", "show", "a", "--store", url)
    assert code == 0 and [event["event_id"] for event in json.loads(out)["events"]] == ["ea"]
    assert run(capsys, "users", "forget", "--store", url)[0] == 2
    code, out, _ = run(capsys, "users", "forget", "a", "--users", str(tmp_path / "gone.csv"), "--store", url)
    assert (code, out) == (0, "forgot 3 users: deleted 3 events and lists\n")
    assert [event.user_id for event in store.every_event()] == ["d"]


def test_a_port_that_is_taken_is_refused_before_anything_is_loaded(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one line, and no store is made."""
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, problem = run(capsys, "serve", "--port", str(port))
    assert code == 1 and f"--port {port}: Address already in use; choose another --port" in problem
    assert not list(tmp_path.iterdir())
