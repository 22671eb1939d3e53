"""MLflow: one store for all runs, versions that have to be promoted, a model that loads without this repository."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from time import sleep

import httpx
import mlflow
import pandas as pd
import pytest
from mlflow.pyfunc import PyFuncModel
from packaging.requirements import Requirement

from recsys.errors import RecsysError
from recsys.registry import bundle_folder, mlflow_client, resolve
from tests.command_line import free_port
from training import run_list, tracking
from training.demo import refuse_to_delete_others

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Registered:
    """A working directory with an MLflow store and the versions that were registered in it, in this order."""

    folder: Path
    versions: list[str]


@pytest.fixture(scope="module")
def registered(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registered]:
    """Register one bundle twice."""
    folder = tmp_path_factory.mktemp("mlflow")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield Registered(folder, [tracking.register(tracking.start_run(None, {}, {}), tiny) for _ in range(2)])


@pytest.fixture
def inside(registered: Registered, monkeypatch: pytest.MonkeyPatch) -> Registered:
    """Return the registered versions, with their folder as the working directory."""
    monkeypatch.chdir(registered.folder)
    return registered


def test_two_first_runs_at_once_share_one_store(tmp_path: Path) -> None:
    """Neither meets the other's half-made tables."""
    code = "from training.tracking import start_run; print(start_run(None, {'a': 1}, {}))"
    both = [subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE) for _ in range(2)]
    runs = [process.communicate()[0].strip() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert len(set(runs)) == 2


def test_the_first_version_is_champion_until_a_person_promotes_another(inside: Registered) -> None:
    """A second version does not take the alias by itself."""
    assert inside.versions == ["1", "2"]
    assert resolve("models:/recsys@champion") == "models:/recsys/1"
    assert (
        bundle_folder("models:/recsys@champion")
        == bundle_folder("models:/recsys/1")
        != bundle_folder("models:/recsys/2")
    )
    with mlflow_client() as client:
        client.set_registered_model_alias("recsys", "champion", "2")
        assert resolve("models:/recsys@champion") == "models:/recsys/2"
        client.set_registered_model_alias("recsys", "champion", "1")


@pytest.mark.parametrize(
    "model", ["models:/nope@champion", "models:/recsys@best", "models:/recsys/99", "runs:/none/bundle"]
)
def test_what_is_not_registered_is_one_line_with_the_command_that_trains(inside: Registered, model: str) -> None:
    """The line names the model, the store and what to do."""
    with pytest.raises(
        RecsysError, match=rf"^--model {model}: .*mlflow\.db .*not found.*; .*`recsys train DATASET`"
    ) as raised:
        bundle_folder(resolve(model))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("how", ["moved", "copied"])
def test_a_store_that_is_moved_or_copied_takes_its_models_along(
    how: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what is registered there later is written there."""
    (tmp_path / "before").mkdir()
    monkeypatch.chdir(tmp_path / "before")
    tracking.register(tracking.start_run(None, {}, {}), tiny)
    monkeypatch.chdir(tmp_path)
    if how == "moved":
        (tmp_path / "before").rename("after")
    else:
        shutil.copytree("before", "after")
    kept = sorted((tmp_path / "before").rglob("*")) if how == "copied" else []
    monkeypatch.chdir(tmp_path / "after")
    assert bundle_folder("models:/recsys/1").is_relative_to(tmp_path / "after")
    tracking.register(tracking.start_run(None, {}, {}), tiny)
    assert bundle_folder("models:/recsys/2").is_relative_to(tmp_path / "after")
    assert (sorted((tmp_path / "before").rglob("*")) if how == "copied" else []) == kept


def test_the_demonstration_deletes_no_runs_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own are made anew; a folder that is not there holds none."""
    refuse_to_delete_others(tmp_path / "nowhere")
    monkeypatch.chdir(tmp_path)
    tracking.start_run("demo", {}, {})
    refuse_to_delete_others(tmp_path)
    tracking.start_run("mine", {}, {})
    with pytest.raises(RecsysError, match="1 runs besides the demonstration's, for example 'mine'"):
        refuse_to_delete_others(tmp_path)


def test_a_folder_without_a_store_is_told_so_and_stays_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No database is made by a command that only reads."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        RecsysError, match=r"--model models:/recsys@champion: no mlflow\.db in .*`recsys train DATASET`"
    ):
        resolve("models:/recsys@champion")
    assert not list(tmp_path.iterdir())


def test_an_unknown_run_is_one_line(inside: Registered) -> None:
    """It names the option and where a run's id comes from."""
    with pytest.raises(RecsysError, match=r"^--resume none: .*not found.*`recsys train` prints"):
        tracking.find_run("none")


def test_every_requirement_of_a_registered_model_is_what_is_installed(inside: Registered) -> None:
    """Name and version, public and pinned; recsys-text, which no index has, is not among them."""
    lines = (bundle_folder("models:/recsys/1").parents[1] / "requirements.txt").read_text().splitlines()
    requirements = [Requirement(line) for line in lines]
    names = {requirement.name for requirement in requirements}
    assert {"torch", "polars", "transformers", "mlflow"} <= names and "recsys-text" not in names
    assert any(name.startswith("faiss-") for name in names)
    for requirement in requirements:
        assert str(requirement.specifier).startswith("==") and "+" not in str(requirement.specifier)
        assert requirement.specifier.contains(metadata.version(requirement.name)), requirement


def test_no_requirement_brings_both_builds_of_fbgemm(inside: Registered) -> None:
    """They overwrite each other: torchrec, which asks for CUDA's, is a requirement only beside that."""
    folder = bundle_folder("models:/recsys/1").parents[1]
    names = {Requirement(line).name for line in (folder / "requirements.txt").read_text().splitlines()}
    on_cpu = "fbgemm-gpu-cpu" in names
    assert ("fbgemm-gpu" in names) != on_cpu
    assert ("torchrec" in names) != on_cpu
    assert (folder / "code" / "torchrec").is_dir() == on_cpu
    assert bool(list((folder / "code").glob("torchrec-*.dist-info/licenses/LICENSE"))) == on_cpu


ELSEWHERE = """
import importlib.util, json, sys
sys.path.append(sys.argv[1])
assert not any(map(importlib.util.find_spec, ("recsys", "features", "serving", "training")))
import mlflow, pandas
model = mlflow.pyfunc.load_model(sys.argv[2])
answer = model.predict(pandas.DataFrame({"user_id": ["u0", "nobody"]}), params={"k": 5})
import recsys
assert recsys.__file__.startswith(sys.argv[2]), recsys.__file__
print(json.dumps(answer["items"].to_list()))
"""


def test_a_registered_model_answers_where_this_repository_is_not_installed(inside: Registered, tmp_path: Path) -> None:
    """It brings its own code: a process that sees only the installed packages gets the same lists."""
    model = bundle_folder("models:/recsys/1").parents[1]
    packages = sysconfig.get_path("purelib")
    # Without `site`, Python reads no .pth file, so that an editable install is not found.
    command = [sys.executable, "-S", "-P", "-c", ELSEWHERE, packages, str(model)]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    here = tracking.predict("models:/recsys/1", pd.DataFrame({"user_id": ["u0", "nobody"]}), k=5)
    assert json.loads(process.stdout.splitlines()[-1]) == here["items"].to_list()


def test_a_registered_model_carries_code_and_no_more_than_its_bundle(inside: Registered, tiny: Path) -> None:
    """The code adds less than 10 MB."""
    model = bundle_folder("models:/recsys/1").parents[1]
    code = sum(path.stat().st_size for path in (model / "code").rglob("*") if path.is_file())
    assert 0 < code < 10_000_000
    kept = {path.relative_to(model / "artifacts" / "bundle") for path in (model / "artifacts" / "bundle").rglob("*")}
    assert kept == {path.relative_to(tiny) for path in tiny.rglob("*")}


def test_epochs_are_logged_once_as_they_come(inside: Registered) -> None:
    """Also those of a run that is resumed; the loss of fine-tuning has a name of its own."""
    run = tracking.start_run(None, {}, {})
    epochs = [
        {"epoch": float(n), "loss": 3.0 - n, "learning_rate": 0.1, "ndcg@10": 0.1 * n, "tuned": 0.0} for n in (1, 2)
    ]
    log = tracking.EpochLog(run)
    for count in (0, 1, 1, 2):
        log("choose", epochs[:count])
    tracking.EpochLog(run)("choose", [*epochs, {"epoch": 2.0, "loss": 9.0, "learning_rate": 0.1, "tuned": 1.0}])
    with mlflow_client() as client:
        steps = [(point.step, point.value) for point in client.get_metric_history(run, "choose/loss_frozen_encoder")]
        [tuned] = client.get_metric_history(run, "choose/loss_fine_tuned_encoder")
        rates = client.get_metric_history(run, "choose/learning_rate")
    assert steps == [(1, 2.0), (2, 1.0)]
    assert (tuned.step, tuned.value) == (3, 9.0)
    assert len(rates) == 3


def test_two_shops_keep_their_runs_and_models_apart(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one store, under names from the environment."""
    monkeypatch.chdir(tmp_path)
    made = {}
    for shop in ("books", "toys"):
        monkeypatch.setenv("RECSYS_EXPERIMENT", f"{shop} trainings")
        monkeypatch.setenv("RECSYS_MODEL_NAME", shop)
        made[shop] = tracking.start_run(shop, {}, {})
        tracking.register(made[shop], tiny)
        assert [run.id for run in tracking.runs()] == [made[shop]]
        assert tracking.find("champion").id == made[shop]
        assert resolve(f"models:/{shop}@champion") == f"models:/{shop}/1"
    command = [sys.executable, "-m", "recsys", "runs", "list", "--json"]
    options = ["--experiment", "books trainings", "--model-name", "books"]
    monkeypatch.delenv("RECSYS_EXPERIMENT")
    monkeypatch.delenv("RECSYS_MODEL_NAME")
    listed = subprocess.run([*command, *options], check=True, capture_output=True, text=True)
    [run] = json.loads(listed.stdout)
    assert (run["id"], run["versions"]) == (made["books"], ["1"])


def test_the_pages_of_mlflow_open_on_the_trainings(inside: Registered) -> None:
    """The experiment says that it holds trainings, and which of their figures are shown at first, also one of an earlier release."""
    with mlflow_client() as client:
        experiment = client.get_experiment_by_name("recsys").experiment_id
        client.set_experiment_tag(experiment, "mlflow.experimentKind", "genai_development")
    store, view = tracking.view_address()
    assert store == f"sqlite:///{inside.folder}/mlflow.db"
    assert view.startswith(f"/#/experiments/{experiment}/runs?workflowType=machine_learning&viewStateShareKey=")
    with mlflow_client() as client:
        tags = client.get_experiment(experiment).tags
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    shared = json.loads(tags[f"mlflow.sharedViewState.{view.rpartition('=')[2]}"])
    assert "metrics.`test_ndcg_at_10`" in shared["selectedColumns"]


def test_the_list_of_trainings_is_what_mlflow_says(inside: Registered) -> None:
    """To the last figure, though it is read from the tables; and no run beyond the limit."""
    run = tracking.start_run(
        "measured", {"dataset": "shop", "seed": 3}, {"fit_on": "train", "dataset.fingerprint": "f" * 16}
    )
    tracking.log_metrics(run, {"test_ndcg@10": 0.25, "segment/history 10+_ndcg@10": 0.5})
    tracking.end_run(run, finished=True)
    told = tracking.runs()
    assert run_list.read_tables(f"sqlite:///{inside.folder}/mlflow.db", 1000) == told
    assert run_list.runs(1000) == told
    assert run_list.runs(1) == told[:1]
    assert told[0].metrics["ndcg@10"] == 0.25
    assert [one.aliases for one in told if one.versions == ("1",)] == [("champion",)]


def test_listing_trainings_does_not_wait_for_mlflow(inside: Registered) -> None:
    """Which takes longer to be imported than hundreds of runs to be read."""
    code = "import sys; from recsys.cli import main; sys.argv = ['recsys', 'runs', 'list']\ntry: main()\nfinally: assert 'mlflow' not in sys.modules"
    listed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert listed.returncode == 0, listed.stderr
    assert "champion" in listed.stdout


@pytest.fixture
def pyfunc(inside: Registered) -> PyFuncModel:
    """Return the registered model behind MLflow's interface."""
    return mlflow.pyfunc.load_model("models:/recsys/1")


@pytest.mark.parametrize(
    "rows",
    [
        pd.DataFrame({"user_id": ["u0", None, "nobody"]}, index=[7, 3, 5]),
        pd.DataFrame({"history": [["i1"], [], None]}),
        pd.DataFrame({"user_id": ["u0", "u1"], "history": [None, ["i1", "i2"]]}),
        pd.DataFrame({"user_id": pd.Series([], dtype=str)}),
    ],
)
def test_rows_out_are_rows_in(pyfunc: PyFuncModel, rows: pd.DataFrame) -> None:
    """Under the same index, with a list for everybody."""
    answer = pyfunc.predict(rows, params={"k": 3})
    assert answer.index.equals(rows.index)
    assert [len(items) for items in answer["items"]] == [3] * len(rows)


def test_a_wrong_column_or_length_is_one_clear_line(pyfunc: PyFuncModel) -> None:
    """Instead of an answer without rows."""
    with pytest.raises(RecsysError, match="neither user_id nor history"):
        pyfunc.predict(pd.DataFrame({"user": ["u0"]}))
    for k in (0, 1001):
        with pytest.raises(RecsysError, match=f"params k={k}: lists have 1 to 1,000 items"):
            pyfunc.predict(pd.DataFrame({"user_id": ["u0"]}), params={"k": k})


def test_mlflow_serves_the_registered_model(inside: Registered) -> None:
    """`mlflow models serve` answers like the model in this process."""
    port = free_port()
    command = ["mlflow", "models", "serve", "-m", "models:/recsys/1", "-p", str(port), "--env-manager", "local"]
    programs = Path(sys.executable).parent  # where MLflow looks for uvicorn
    store = {"MLFLOW_TRACKING_URI": f"sqlite:///{inside.folder}/mlflow.db"}
    environment = os.environ | store | {"PATH": f"{programs}:{os.environ['PATH']}"}
    body = {"dataframe_records": [{"user_id": "u0"}, {"user_id": "nobody"}], "params": {"k": 5}}
    with subprocess.Popen(command, executable=programs / command[0], env=environment, start_new_session=True) as server:
        try:
            answer = _invoked(server, f"http://127.0.0.1:{port}", body)
        finally:
            os.killpg(server.pid, signal.SIGTERM)
    here = tracking.predict("models:/recsys/1", pd.DataFrame({"user_id": ["u0", "nobody"]}), k=5)
    assert [row["items"] for row in answer["predictions"]] == here["items"].to_list()


def _invoked(
    server: subprocess.Popen[bytes], address: str, body: Mapping[str, object]
) -> dict[str, list[dict[str, object]]]:
    """Return what the `server` at `address` answers to `body`, once it is there."""
    while server.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            httpx.get(f"{address}/ping").raise_for_status()
            break
        sleep(0.5)
    answer = httpx.post(f"{address}/invocations", json=body, timeout=60)
    answer.raise_for_status()
    told: dict[str, list[dict[str, object]]] = answer.json()
    return told
