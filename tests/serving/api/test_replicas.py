"""Replicas behind one port: one is killed under load, and no acknowledged event is lost."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
import pytest

from recsys.errors import RecsysError
from serving.api import replicas
from serving.api.access.limits import Limits
from serving.api.replicas import Plan, _check_reach
from serving.store.store import Store
from serving.text.heads import HeadNames
from tests.command_line import run
from tests.machines import two_machines
from tests.worlds import empty_database, tiny_bundle

POSTGRES = os.environ.get("RECSYS_TEST_POSTGRES", "")
START_S, BACK_S, STOP_S = 240, 120, 120
"""Seconds that suffice even on a busy machine."""


@dataclass
class Served:
    """A server with two replicas, as a user starts it."""

    process: subprocess.Popen[str]
    url: str
    store: str
    errors: Path

    def replicas(self) -> dict[int, psutil.Process]:
        """Return the processes of the replicas, by process id."""
        below = psutil.Process(self.process.pid).children(recursive=True)
        return {process.pid: process for process in below if "ServeReplica" in "".join(process.cmdline())}

    def answering(self, requests: int = 20) -> set[str]:
        """Return the start times of the replicas that answer, which tell them apart."""
        started = set()
        for _ in range(requests):
            text = httpx.get(f"{self.url}/metrics", timeout=30).text
            started |= set(re.findall(r"^recsys_events_created (\S+)$", text, re.MULTILINE))
        return started


@contextmanager
def serving(folder: Path, env: dict[str, str]) -> Iterator[Served]:
    """Start two replicas in `folder` on a free port and an empty database; stop them if the body does not."""
    if not POSTGRES:
        pytest.skip("RECSYS_TEST_POSTGRES is not set; `.ci/run` starts a server and sets it")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with empty_database(POSTGRES) as store, (folder / "stderr").open("w") as errors:
        arguments = ["--model", str(tiny_bundle(folder)), "--store", store, "--port", str(port), "--replicas", "2"]
        process = subprocess.Popen(
            [sys.executable, "-c", "from recsys.cli import main; main()", "serve", "--ray", *arguments],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=folder,
            env=env,
            start_new_session=True,
        )
        below: list[psutil.Process] = []
        try:
            yield Served(process, f"http://127.0.0.1:{port}", store, folder / "stderr")
            below = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        finally:
            for left in [*below, process]:
                left.kill()
            process.wait()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """Start two replicas on this machine."""
    env = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    with serving(tmp_path, env | {"PYTHONPATH": str(Path(__file__).parents[3])}) as started:
        yield started


@dataclass
class Clients:
    """Threads that send events, each once, and request lists, until they are stopped."""

    url: str
    acknowledged: list[str] = field(default_factory=list)
    listed: int = 0
    failed: list[str] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    def run(self, client: int) -> None:
        """Send requests one after another."""
        with httpx.Client(base_url=self.url, timeout=30) as http:
            for number in range(10**6):
                if self.stopped.is_set():
                    return
                event = {"event_id": f"{client}-{number}", "user_id": f"u{number % 12}", "item_id": f"i{number % 40}"}
                try:
                    http.post("/v1/events", json={"events": [event]}).raise_for_status()
                    self.acknowledged.append(event["event_id"])
                    http.post("/v1/recommend", json={"user_id": event["user_id"], "k": 5}).raise_for_status()
                    self.listed += 1
                except httpx.HTTPError as error:
                    self.failed.append(str(error))


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    """Wait until the condition holds, or fail after that time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds:g} s"
        time.sleep(0.1)


def first_line(process: "subprocess.Popen[str]", seconds: float) -> str:
    """Return the first line that the process prints; kill it if there is none in time."""
    assert process.stdout is not None
    timer = threading.Timer(seconds, process.kill)
    timer.start()
    line = process.stdout.readline()
    timer.cancel()
    return line


@pytest.mark.slow
def test_a_replica_killed_under_load_is_replaced_and_no_acknowledged_event_is_lost(served: Served) -> None:
    """The port keeps answering; in the end there are two replicas again, and Ctrl-C leaves no process behind."""
    assert "listening on" in first_line(served.process, START_S), served.errors.read_text()
    before = served.answering()
    assert len(before) == 2
    clients = Clients(served.url)
    threads = [threading.Thread(target=clients.run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: len(clients.acknowledged) > 50, 60)
        killed = next(iter(served.replicas()))
        os.kill(killed, signal.SIGKILL)
        count = len(clients.acknowledged)
        wait_until(lambda: len(clients.acknowledged) > count + 50, 60)
        wait_until(lambda: len(served.answering() - before) == 1 and len(served.answering()) == 2, BACK_S)
        count = clients.listed
        wait_until(lambda: clients.listed > count + 50, 60)
    finally:
        clients.stopped.set()
        for thread in threads:
            thread.join()
    replicas = served.replicas()
    assert len(replicas) == 2 and killed not in replicas
    os.killpg(served.process.pid, signal.SIGINT)  # as a terminal does
    assert served.process.wait(timeout=STOP_S) == 0
    assert not any(replica.is_running() for replica in replicas.values())
    store = Store(served.store)
    kept = {event.event_id for event in store.every_event()}
    store.close()
    print(f"{len(clients.acknowledged)} events acknowledged, {len(kept)} kept; {len(clients.failed)} requests failed")
    assert kept >= set(clients.acknowledged)
    assert len(clients.failed) < 50, clients.failed[:5]
    assert "Traceback" not in served.errors.read_text(), served.errors.read_text()


@pytest.mark.slow
def test_replicas_on_two_machines_need_no_folder_that_both_reach(tmp_path: Path) -> None:
    """Each of the two has the cores for one; the bundle reaches the second, and Ctrl-C leaves the cluster without them."""
    folder = tmp_path / "driver"
    folder.mkdir()
    with two_machines(folder, {}) as env, serving(folder, env) as served:
        assert "listening on" in first_line(served.process, START_S), served.errors.read_text()
        assert len(served.answering()) == 2
        answer = httpx.post(f"{served.url}/v1/recommend", json={"user_id": "new", "k": 3}, timeout=30)
        assert len(answer.raise_for_status().json()["items"]) == 3
        os.killpg(served.process.pid, signal.SIGINT)
        assert served.process.wait(timeout=STOP_S) == 0
        assert "Traceback" not in served.errors.read_text(), served.errors.read_text()


@pytest.mark.parametrize("name", ["models:/recsys@champion", "runs:/1/bundle"])
def test_a_model_that_only_one_of_several_machines_can_read_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text head as well; an MLflow server is reached by all, and folders are sent."""
    plans = [Plan(name, "", Limits()), Plan("bundle", "", Limits(), heads=HeadNames(answers=name))]
    for plan in plans:
        _check_reach(plan, 1)
        with pytest.raises(
            RecsysError, match=r"2 machines, and .* is in mlflow\.db of this one; set MLFLOW_TRACKING_URI"
        ):
            _check_reach(plan, 2)
    _check_reach(Plan("bundle", "", Limits()), 2)
    monkeypatch.setattr(replicas, "OWN_STORE", False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    for plan in plans:
        _check_reach(plan, 2)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    with pytest.raises(RecsysError, match=r"is in sqlite:///mlflow\.db of this one"):
        _check_reach(plans[0], 2)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--ray"], 2, "--store postgresql://user@host/name"),
        (["--replicas", "2"], 2, "need --ray"),
        (["--ray", "--model", "nowhere"], 1, "no such folder"),
    ],
)
def test_an_impossible_command_is_refused_in_one_line_with_a_hint(
    arguments: list[str], code: int, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before Ray starts or a store is created."""
    ended, _, errors = run(capsys, "serve", "--model", str(tmp_path), *arguments)
    assert ended == code and says in errors and errors.count("\n") == 1


@pytest.mark.skipif(not POSTGRES, reason="RECSYS_TEST_POSTGRES is not set; `.ci/run` starts a server and sets it")
def test_a_host_without_keys_and_a_port_in_use_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In one line, before Ray starts; other machines need a key."""
    with empty_database(POSTGRES) as store, socket.create_server(("127.0.0.1", 0)) as taken:
        common = ["serve", "--ray", "--model", str(tmp_path), "--store", store]
        ended, _, errors = run(capsys, *common, "--host", "0.0.0.0")
        assert ended == 1 and "recsys keys add" in errors and errors.count("\n") == 1
        ended, _, errors = run(capsys, *common, "--port", str(taken.getsockname()[1]))
        assert ended == 1 and "in use; name another" in errors and errors.count("\n") == 1
