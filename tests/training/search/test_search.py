"""A search: what it logs, keeps, says and writes; one runs under Ray Tune for real."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from recsys import names
from recsys.cli.tune import print_found
from recsys.config import Config, load_config
from recsys.errors import RecsysError
from recsys.registry import mlflow_client
from tests.command_line import run
from tests.training.search.small import fit_stages, small_config, small_shop
from training.search import search as searching
from training.search.record import FAILED, FINISHED, STOPPED, Records, Trial
from training.search.run import BY_ITSELF, Limits, _Recorder, importance
from training.search.search import Found, search, write
from training.search.space import Choices, Range, Space, labelled
from training.search.trials import Job, users_of

SPACE: Space = {"ranker.leaves": Range(3, 31, log=True, whole=True), "ranker.kind": Choices(("lightgbm", "torchrec"))}
CONFIG = Config.model_validate({"encoder": {"max_tokens": 16}})
DEFAULT = {"ranker.leaves": 7, "ranker.kind": "lightgbm"}


def trial(number: int, metric: float | None = None, state: str = FINISHED, **parameters: Any) -> Trial:
    """Return a trial that began as the `number`-th."""
    own = DEFAULT | {f"ranker.{key}": value for key, value in parameters.items()}
    return Trial(f"t{number}", 1e9 + number, 2.0, state, own, metric, error="no room" if state == FAILED else "")


class Scripted:
    """Runs trials that are known before: `gains` of each by request, None for one that fails."""

    def __init__(self, *trials: tuple[Trial, float | None]) -> None:
        self.trials = trials
        self.limits: list[Limits] = []

    def __call__(
        self, job: Job, space: Space, limits: Limits, records: Records, on_trial: Callable[[Trial], None]
    ) -> None:
        self.limits.append(limits)
        requests, rng = len(users_of(job)), np.random.default_rng(0)
        noise = 0.01 * rng.random(requests)
        kept = {trial.id for trial in records.trials()}
        for one, gain in self.trials[: limits.trials]:
            if one.id not in kept:
                if gain is not None:
                    records.keep_values(one.id, gain + noise)
                records.add(one)
                on_trial(one)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a working directory with the dataset `shop`."""
    folder = tmp_path_factory.mktemp("searches")
    small_shop(folder)
    return folder


@pytest.fixture
def searched(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Found]:
    """Return a function that searches with scripted trials in place of Ray's."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(searching, "prepare_shared", lambda job: None)

    def of(
        *trials: tuple[Trial, float | None], most: int = 9, seconds: float | None = None, resume: str | None = None
    ) -> Found:
        monkeypatch.setattr(searching, "run_trials", Scripted(*trials))
        return search(Path("shop"), CONFIG, SPACE, Limits(most, seconds), 0, None, resume)

    return of


def test_the_best_is_better_only_beyond_chance_and_the_number_of_trials(
    searched: Callable[..., Found], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And else the advice is to keep the default; the file has the best all the same. A trial that fails is a line, and ends nothing."""
    trials = (
        (trial(0, 0.2), 0.2),
        (trial(1, state=FAILED, leaves=5), None),
        (trial(2, 0.3, leaves=9), 0.3),
        (trial(3, 0.1, STOPPED, leaves=20), None),
    )
    found = searched(*trials)
    assert found.better and found.best.id == "t2" and found.default.id == "t0"
    assert found.interval.value == pytest.approx(0.1) and "+0.1000 [" in found.verdict
    assert "trial 1 failed, ranker.leaves=5, ranker.kind=lightgbm: no room" in capsys.readouterr().err
    write(found, tmp_path / "best.toml")
    assert load_config(tmp_path / "best.toml") == found.config and found.config.ranker.leaves == 9
    assert (tmp_path / "best.png").read_bytes().startswith(b"\x89PNG")
    print_found(found)
    table = capsys.readouterr().out
    assert "default" in table and "stopped early" in table and "failed" in table
    same = searched((trial(0, 0.2), 0.2), (trial(1, 0.2, leaves=9), 0.2))
    assert not same.better and "keep the default" in same.verdict


def test_each_trial_is_a_nested_run_of_an_experiment_apart_from_the_trainings(
    searched: Callable[..., Found],
) -> None:
    """With its parameters, metric and seconds; the parent has the figures, the file and the picture."""
    found = searched((trial(0, 0.2), 0.2), (trial(1, state=FAILED), None), (trial(2, 0.3, leaves=9), 0.3))
    with mlflow_client() as client:
        assert client.get_experiment_by_name(names.experiment()) is None
        experiment = client.get_experiment_by_name(names.searches())
        runs = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time"])
        parent = client.get_run(found.run_id)
        files = {file.path for file in client.list_artifacts(found.run_id)}
    nested = [one for one in runs if one.data.tags.get("mlflow.parentRunId") == found.run_id]
    assert [one.info.status for one in nested] == ["FINISHED", "FAILED", "FINISHED"]
    assert nested[2].data.params == {"ranker.leaves": "9", "ranker.kind": "lightgbm"}
    assert nested[2].data.metrics == {"valid_ndcg_at_10": 0.3, "seconds": 2.0}
    assert parent.info.status == "FINISHED" and parent.data.metrics["valid_ndcg_at_10"] == 0.3
    assert files == {"best.toml", "search.png"}


def test_a_resumed_search_keeps_what_ended_and_tries_again_what_failed(searched: Callable[..., Found]) -> None:
    """By the same dataset and options; the time and the number of trials may be others."""
    trials = ((trial(0, 0.2), 0.2), (trial(1, state=FAILED), None))
    found = searched(*trials)
    again = searched(*trials, (trial(2, 0.3, leaves=9), 0.3), resume=found.run_id)
    assert again.run_id == found.run_id and [one.id for one in again.trials] == ["t0", "t1", "t2"]
    work = Path(".recsys/searches") / found.run_id / "trials"
    assert sorted(path.name for path in work.glob("*.json")) == ["t0.json", "t1.json", "t2.json"]
    with pytest.raises(RecsysError, match="space differ"):
        search(
            Path("shop"),
            Config(),
            {"ranker.trees": Choices((1, 2))},
            Limits(2),
            0,
            None,
            found.run_id,
        )


@pytest.mark.parametrize(
    ("trials", "problem"),
    [((), "did not end in time"), (((trial(0, state=FAILED), None),), "failed: no room")],
)
def test_without_a_figure_of_the_default_there_is_no_best(
    trials: tuple[Any, ...], problem: str, searched: Callable[..., Found]
) -> None:
    """As where the time is over in the first trial; what to do is in the line."""
    with pytest.raises(RecsysError, match=rf"^the first trial, .* {problem}; `recsys tune shop --resume \w+`"):
        searched(*trials, seconds=1e9)


def test_time_that_is_over_before_the_first_trial_starts_none(
    searched: Callable[..., Found],
) -> None:
    """What trials share may take all of it."""
    with pytest.raises(RecsysError, match="did not end in time"):
        searched((trial(0, 0.2), 0.2), seconds=1e-9)


def test_a_trial_that_the_time_stops_is_not_kept(tmp_path: Path) -> None:
    """One that ASHA stops is, with its best until then; so is one whose process ends."""
    ended: list[Trial] = []
    records, parameters = Records(tmp_path), labelled(SPACE, DEFAULT)
    for seconds in (1e9, 1e-9):
        recorder = _Recorder(SPACE, Limits(3, seconds), records, ended.append)
        time.sleep(0.01)
        for name, whole in (("whole", True), ("part", False)):
            result = {"ndcg@10": 0.2, BY_ITSELF: whole}
            one: Any = SimpleNamespace(trial_id=f"{name}{seconds}", config=parameters, last_result=result)
            recorder.on_trial_start(0, [], one)
            recorder.on_trial_result(0, [], one, result)
            recorder.on_trial_complete(0, [], one)
    crashed: Any = SimpleNamespace(trial_id="crashed", config=parameters, error_file=str(tmp_path / "error.txt"))
    recorder.on_trial_error(0, [], crashed)
    assert [one.state for one in ended] == [FINISHED, STOPPED, FINISHED, FAILED]
    assert ended[1].epochs == (0.2,) and ended[0].parameters == DEFAULT and "process was killed" in ended[3].error
    assert sorted(one.id for one in records.trials()) == sorted(one.id for one in ended)


def test_importance_names_the_key_that_decides() -> None:
    """Of few trials nothing is said."""
    rng = np.random.default_rng(0)
    leaves = rng.integers(3, 31, 40)
    trials = [trial(row, 0.01 * int(count), leaves=int(count)) for row, count in enumerate(leaves)]
    shares = importance(SPACE, trials)
    assert next(iter(shares)) == "ranker.leaves" and shares["ranker.leaves"] > 0.8
    assert importance(SPACE, trials[:3]) == {}


def test_a_full_disk_is_an_error_and_leaves_no_half_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was kept before stays."""
    records = Records(tmp_path)
    records.add(trial(0, 0.2))

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        records.add(trial(1, 0.3))
    assert [one.id for one in records.trials()] == ["t0"]


@pytest.mark.parametrize("duration", ["0s", "30", "-3m", "soon"])
def test_a_time_is_a_number_with_a_unit(duration: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Anything else is a wrong usage."""
    code, _, errors = run(capsys, "tune", "shop", "--time-budget", duration)
    assert code == 2 and "write for example 90s, 30m or 2h" in errors


@pytest.mark.slow
def test_a_search_runs_under_ray_tune_and_goes_on_where_it_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first trial is the configuration, a failing one ends nothing, and `recsys train` reads the file."""
    monkeypatch.chdir(tmp_path)
    dataset, config = small_shop(tmp_path), small_config(tmp_path)
    monkeypatch.setattr(searching, "prepare_shared", lambda job: fit_stages(dataset, config, job.folder))
    space: Space = {
        "ranker.trees": Range(2, 9, whole=True),
        "ranker.attributes": Choices(((), ("colour",))),  # of which there is none
    }
    found = search(dataset, config, space, Limits(4), 1, None, None)
    states = [one.state for one in found.trials]
    assert len(states) == 4 and states[0] == FINISHED and found.trials[0] == found.default
    assert found.default.parameters == {"ranker.trees": 5, "ranker.attributes": []}
    for one in found.trials:
        assert (one.state == FAILED) == (one.parameters["ranker.attributes"] == ["colour"])
    failures = states.count(FAILED)
    assert capsys.readouterr().err.count("ranker.attributes=['colour']: ") == failures > 0
    assert all("colour" in one.error and "\n" not in one.error for one in found.trials if one.state == FAILED)
    kept = {one.id for one in found.trials if one.finished}
    monkeypatch.setattr(searching, "prepare_shared", lambda job: None)
    again = search(dataset, config, space, Limits(len(kept) + 1), 1, None, found.run_id)
    assert kept < {one.id for one in again.trials} and len(again.trials) == len(kept) + 1
    write(again, tmp_path / "best.toml")
    assert load_config(tmp_path / "best.toml") == again.config
    assert json.loads(Config.model_dump_json(again.config)) == again.config.model_dump(mode="json")
