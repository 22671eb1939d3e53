"""MLflow runs, their metrics, and new versions of the registered model: the writing half (`recsys.registry` reads).

In: parameters, metrics and bundle folders. Out: run ids and versions.

Every function raises `RecsysError` where MLflow's store is unreachable or refuses the request.
"""

import getpass
import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from importlib.resources import files
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import polars as pl
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run
from mlflow.models import ModelSignature
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.types.schema import Array, ColSpec, DataType, ParamSchema, ParamSpec, Schema
from packaging.requirements import Requirement
from packaging.version import Version

from recsys import names
from recsys.errors import RecsysError
from recsys.names import OWN_DATABASE, OWN_STORE
from recsys.packages import DISTRIBUTION, installed
from recsys.registry import OWN_ARTIFACTS, has_store, mlflow_client
from training.run_info import RunInfo

HARDWARE_EXTRAS = ("cpu", "gpu")
"""The extras of which one is installed; the other extras are not needed to recommend."""
CODE = ("recsys", "features", "serving")
"""Our packages that `training.pyfunc_model` imports."""
CUDA_FBGEMM = "fbgemm-gpu"
REQUESTS = "requests.parquet"
VIEW = "recsys"
COLUMNS = (
    "attributes.`Created`",
    "attributes.`Models`",
    *(
        f"metrics.`test_{name}`"
        for name in ("ndcg_at_10", "ndcg_at_10_low", "ndcg_at_10_high", "hr_at_10", "recall_at_50")
    ),
    "params.`fit_on`",
    "params.`seed`",
)
ABOUT_EXPERIMENT = {
    "mlflow.experimentKind": "custom_model_development",
    f"mlflow.sharedViewState.{VIEW}": json.dumps(
        {"orderByKey": "metrics.`test_ndcg_at_10`", "orderByAsc": False, "selectedColumns": COLUMNS}
    ),
}
"""Tags for MLflow's pages: these are trainings and not traces of language models, and what is shown of them at first."""
EPOCHS = "epochs.json"
"""The file of a run that holds the epochs of its fits, in order; MLflow's own metrics cannot tell two of one number apart."""
LEAST_ID = 4
"""Characters of a run's id that are enough to name it."""

TEXT_TAG = "recsys.text"
"""The tag of versions that are text heads."""


@dataclass(frozen=True)
class Kind:
    """What is registered: the script that loads it, and what that takes and returns."""

    script: str
    signature: ModelSignature


_LISTS = ModelSignature(
    inputs=Schema(
        [
            ColSpec(DataType.string, "user_id", required=False),
            ColSpec(Array(DataType.string), "history", required=False),
        ]
    ),
    outputs=Schema([ColSpec(Array(DataType.string), "items"), ColSpec(Array(DataType.double), "scores")]),
    params=ParamSchema([ParamSpec("k", DataType.long, 20)]),
)
RECOMMENDER = Kind("pyfunc_model.py", _LISTS)
TEXT_HEAD = Kind("pyfunc_text.py", ModelSignature(inputs=Schema([ColSpec(DataType.string, "text")])))


def start_run(name: str | None, params: dict[str, Any], tags: dict[str, str], experiment: str | None = None) -> str:
    """Open a run in `experiment`, that of the trainings by default, and return its id; it stays open until `end_run`."""
    with mlflow_client() as client:
        experiment_id = _experiment(client, experiment or names.experiment())
        source = {"mlflow.source.name": "recsys train", "mlflow.source.type": "LOCAL", "mlflow.user": author()}
        run = client.create_run(experiment_id, run_name=name, tags=source | tags)
        client.log_batch(run.info.run_id, params=[Param(key, str(value)[:500]) for key, value in params.items()])
    return str(run.info.run_id)


def _experiment(client: mlflow.MlflowClient, name: str) -> str:
    """Return the id of the experiment, which is made where there is none."""
    experiment = client.get_experiment_by_name(name)
    if experiment is not None:
        return str(experiment.experiment_id)
    location = OWN_ARTIFACTS.resolve().as_uri() if OWN_STORE else None
    return str(client.create_experiment(name, location, ABOUT_EXPERIMENT))


def view_address() -> tuple[str, str]:
    """Return MLflow's store, and where its pages list the trainings with their figures, the best first: what follows a server's address.

    Raises:
        RecsysError: there is no store yet.
    """
    if not has_store():
        raise RecsysError(
            f"no {OWN_DATABASE} in {Path.cwd()}; go to the folder where it was trained, or set MLFLOW_TRACKING_URI"
        )
    with mlflow_client() as client:
        experiment_id = _experiment(client, names.experiment())
        for tag, value in ABOUT_EXPERIMENT.items():  # which experiments of releases before 2026-11-29 lack
            client.set_experiment_tag(experiment_id, tag, value)
    view = f"/#/experiments/{experiment_id}/runs?workflowType=machine_learning&viewStateShareKey={VIEW}"
    return mlflow.get_tracking_uri().rstrip("/"), view


def find_run(run_id: str) -> Run:
    """Return a run.

    Raises:
        RecsysError: there is no run of that id.
    """
    with mlflow_client(f"--resume {run_id}", "`recsys train` prints a run's id when it starts") as client:
        return client.get_run(run_id)


@contextmanager
def system_metrics(run_id: str) -> Iterator[None]:
    """Log what processor, memory, disk, network and GPUs do while the body runs, as MLflow's system metrics."""
    monitor = SystemMetricsMonitor(run_id, resume_logging=True)
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()


def author() -> str:
    """Return the name of whoever runs this, or the number where the machine has no name for it, as in some containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def end_run(run_id: str, finished: bool) -> None:
    """Mark a run as finished or failed."""
    with mlflow_client() as client:
        client.set_terminated(run_id, "FINISHED" if finished else "FAILED")


def resume_run(run_id: str, tags: Mapping[str, str]) -> None:
    """Mark a run as running again.

    Raises:
        RecsysError: there is no run of that id, or its `tags` were others.
    """
    before = find_run(run_id).data.tags
    differing = [key for key, value in tags.items() if before.get(key, "") != value]
    if differing:
        raise RecsysError(
            f"--resume {run_id}: {', '.join(differing)} differ from that run's; "
            "resume with the same dataset and options, or start a new run without --resume"
        )
    with mlflow_client() as client:
        client.update_run(run_id, "RUNNING")


def log_nested(
    parent: str,
    name: str,
    params: Mapping[str, Any],
    metrics: Mapping[str, Sequence[float]],
    times_s: tuple[float, float],
    status: str,
) -> None:
    """Log a run below the run `parent`, with each metric's values by step.

    It began and ended at `times_s`, in seconds since 1970.
    """
    start, end = (int(1000 * moment) for moment in times_s)
    figures = [Metric(key, value, end, step) for key, values in metrics.items() for step, value in enumerate(values, 1)]
    with mlflow_client() as client:
        experiment = client.get_run(parent).info.experiment_id
        tags = {"mlflow.parentRunId": parent, "mlflow.user": author()}
        run = client.create_run(experiment, start_time=start, tags=tags, run_name=name).info.run_id
        client.log_batch(run, figures, [Param(key, str(value)[:500]) for key, value in params.items()])
        client.set_terminated(run, status, end)


class EpochLog:
    """Logs the epochs of a run's fits as they end, each once."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self._logged: dict[str, int] = {}

    def __call__(self, fit: str, epochs: list[dict[str, float]]) -> None:
        """Log those of `epochs`, all of a fit so far, that are not logged yet, as `choose/learning_rate` and so on."""
        if self._logged.get(fit) == len(epochs):
            return
        with mlflow_client() as client:
            if fit not in self._logged:  # a run that is resumed has some
                self._logged[fit] = len(client.get_metric_history(self.run_id, f"{fit}/learning_rate"))
            now = int(time.time() * 1000)
            metrics = [
                Metric(f"{fit}/{_metric_of(key, epoch)}", value, now, step)
                for step, epoch in enumerate(epochs, start=1)
                if step > self._logged[fit]
                for key, value in epoch.items()
            ]
            client.log_batch(self.run_id, metrics=metrics)
            self._logged[fit] = len(epochs)


def _metric_of(key: str, epoch: dict[str, float]) -> str:
    """Return the name of an epoch's figure. The loss of fine-tuning has a part more, so that it has a name of its own."""
    if key == "loss":
        return "loss_fine_tuned_encoder" if epoch.get("tuned") else "loss_frozen_encoder"
    return {"ndcg@10": "valid_ndcg_at_10", "epoch": "passes", "tuned": "encoder_is_tuned"}.get(key, key)


def log_metrics(run_id: str, metrics: dict[str, float]) -> None:
    """Log final metrics."""
    now = int(time.time() * 1000)
    allowed = {_mlflow_name(key): value for key, value in metrics.items()}
    with mlflow_client() as client:
        client.log_batch(run_id, [Metric(key, value, now, 0) for key, value in allowed.items()])


def _mlflow_name(metric: str) -> str:
    """Return a metric's name as MLflow allows it: without `@` and `+`."""
    return metric.replace("@", "_at_").replace(" + ", " and ").replace("+", " or more")


def set_tag(run_id: str, name: str, value: str) -> None:
    """Give a run a tag."""
    with mlflow_client() as client:
        client.set_tag(run_id, name, value)


def log_text(run_id: str, text: str, name: str) -> None:
    """Log `text` as an artifact of the run, in the file `name`."""
    with mlflow_client() as client:
        client.log_text(run_id, text, name)


def log_files(run_id: str, files: Mapping[str, bytes], folder: str | None = None) -> None:
    """Log `files` by their paths as artifacts of the run, in `folder` of its artifacts."""
    with mlflow_client() as client, tempfile.TemporaryDirectory() as temporary:
        for name, content in files.items():
            path = Path(temporary) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        client.log_artifacts(run_id, temporary, folder)


def read_epochs(run_id: str) -> dict[str, list[dict[str, float]]]:
    """Return the epochs of a run's fits by the fit; empty for runs of releases that kept none."""
    with mlflow_client() as client:
        if EPOCHS not in [file.path for file in client.list_artifacts(run_id)]:
            return {}
        uri = f"{client.get_run(run_id).info.artifact_uri}/{EPOCHS}"
        epochs: dict[str, list[dict[str, float]]] = mlflow.artifacts.load_dict(uri)
    return epochs


def log_requests(run_id: str, requests: pl.DataFrame) -> None:
    """Keep the results by request with the run, so that runs can be compared request by request."""
    with mlflow_client() as client, tempfile.TemporaryDirectory() as folder:
        requests.write_parquet(Path(folder) / REQUESTS)
        client.log_artifact(run_id, str(Path(folder) / REQUESTS))


def read_requests(run: RunInfo) -> pl.DataFrame:
    """Return what `log_requests` kept.

    Raises:
        RecsysError: the run kept nothing, since it measured nothing or was made by a release before 2026-11-28.
    """
    hint = "runs without a test split, and those of releases before 2026-11-28, kept no results by request; train again"
    with mlflow_client(run.label, hint), tempfile.TemporaryDirectory() as folder:
        return pl.read_parquet(
            mlflow.artifacts.download_artifacts(run_id=run.id, artifact_path=REQUESTS, dst_path=folder)
        )


def runs(limit: int = 1000) -> list[RunInfo]:
    """Return the trainings, newest first, at most `limit` of them."""
    if not has_store():
        return []
    with mlflow_client() as client:
        experiment = client.get_experiment_by_name(names.experiment())
        if experiment is None:
            return []
        found = client.search_runs([experiment.experiment_id], max_results=limit)
        made: dict[str, list[str]] = {}
        for version in sorted(
            client.search_model_versions(f"name = '{names.model_name()}'"), key=lambda one: int(one.version)
        ):
            made.setdefault(version.run_id, []).append(str(version.version))
        aliases = aliases_of(client)
    return [_run_info(run, tuple(made.get(run.info.run_id, ())), aliases) for run in found]


def _run_info(run: Run, versions: tuple[str, ...], aliases: dict[str, str]) -> RunInfo:
    about = (run.info.run_id, run.info.run_name, run.info.start_time, run.info.status)
    return RunInfo.of(about, run.data.params, run.data.tags, run.data.metrics, versions, aliases)


def aliases_of(client: mlflow.MlflowClient) -> dict[str, str]:
    """Return the aliases of the registered model, and the version of each."""
    registered = client.search_registered_models(f"name = '{names.model_name()}'")
    return {alias: str(version) for alias, version in registered[0].aliases.items()} if registered else {}


def find(name: str) -> RunInfo:
    """Return the training that `name` means: a version's number, an alias, or the beginning of a run's id.

    Raises:
        RecsysError: nothing has that name, or several runs have.
    """
    name = name.removeprefix(names.version_name("")).removeprefix(f"models:/{names.model_name()}@")
    every = runs()
    named = [run for run in every if name in run.versions or name in run.aliases or name == run.name]
    named = named or [run for run in every if len(name) >= LEAST_ID and run.id.startswith(name)]
    if len(named) != 1:
        problem = "nothing has that name" if not named else f"{len(named)} runs have that name"
        raise RecsysError(f"{name}: {problem}; `recsys runs list` shows runs and versions")
    return named[0]


def version_of(run: RunInfo) -> str:
    """Return how commands name the newest version of a run.

    Raises:
        RecsysError: it has none.
    """
    if not run.versions:
        raise RecsysError(f"{run.label} has no registered version; `recsys runs list` shows which have")
    return names.version_name(run.versions[-1])


def log_dataset(run_id: str, name: str, fingerprint: str, folder: Path, counts: dict[str, int | str]) -> None:
    """Name the dataset of a run, with its `counts`, as MLflow shows it in its list of runs."""
    source = json.dumps({"uri": folder.resolve().as_uri()})
    dataset = Dataset(name, fingerprint[:36], "local", source, profile=json.dumps(counts))
    with mlflow_client() as client:
        client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])


def register(run_id: str, bundle: Path, description: str = "", tags: dict[str, str] | None = None) -> str:
    """Log the bundle as a pyfunc model, register it with a `description` and `tags`, and return its version.

    The model carries the code of this release and names the packages that it needs, so that it loads where
    recsys-text is not installed. The first version ever registered becomes `champion`; later ones have to be promoted.
    """
    with mlflow_client() as client:
        version = _register(client, run_id, bundle, names.model_name(), RECOMMENDER, description, tags)
        if names.CHAMPION not in client.get_registered_model(names.model_name()).aliases:
            client.set_registered_model_alias(names.model_name(), names.CHAMPION, version)
    return version


def refuse_taken_name(name: str) -> None:
    """Raise RecsysError where MLflow takes no such `name`, or it is that of recommenders, whose champion a text head would replace."""
    if not name or set(name) & set("/:'\""):
        raise RecsysError(f"--name {name!r}: a name of a model has letters, numbers, - and _, such as sentiment")
    taken = name == names.model_name()
    if not taken and has_store():
        with mlflow_client() as client:
            versions = client.search_model_versions(f"name = '{name}'", max_results=1)
            taken = any(TEXT_TAG not in version.tags for version in versions)
    if taken:
        raise RecsysError(f"--name {name}: the name of other models than text heads; give another, such as {name}-text")


def register_text(run_id: str, bundle: Path, name: str) -> str:
    """Log the bundle of a text head as a pyfunc model, register it as the champion of `name`, and return its version."""
    with mlflow_client() as client:
        version = _register(client, run_id, bundle, name, TEXT_HEAD, tags={TEXT_TAG: "yes"})
        client.set_registered_model_alias(name, names.CHAMPION, version)
    return version


def text_versions() -> list[tuple[str, str, dict[str, str], dict[str, float]]]:
    """Return name, version, parameters and metrics of the registered text heads, the newest of each name first."""
    if not has_store():
        return []
    found = []
    with mlflow_client() as client:
        for version in client.search_model_versions(f"tag.`{TEXT_TAG}` = 'yes'", order_by=["creation_timestamp DESC"]):
            run = client.get_run(version.run_id).data
            found.append((version.name, str(version.version), dict(run.params), dict(run.metrics)))
    return found


def _register(
    client: mlflow.MlflowClient,
    run_id: str,
    bundle: Path,
    name: str,
    kind: "Kind",
    description: str = "",
    tags: dict[str, str] | None = None,
) -> str:
    with mlflow.start_run(run_id=run_id):
        logged = mlflow.pyfunc.log_model(
            name="bundle",
            python_model=str(Path(__file__).with_name(kind.script)),
            artifacts={"bundle": str(bundle.resolve())},
            signature=kind.signature,
            code_paths=[str(path) for path in carried_code()],
            pip_requirements=requirements(),
        )
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    created = client.create_model_version(
        name, logged.model_uri, run_id, tags=tags, description=description, model_id=logged.model_id
    )
    return str(created.version)


def carried_code() -> list[Path]:
    """Return the folders of Python code that a registered model carries: ours, and on a CPU torchrec's.

    Whoever installs torchrec with pip gets the CUDA build of fbgemm, which overwrites the CPU's and cannot be
    imported without CUDA. So where the CPU's is installed, the model brings torchrec (6.5 MB, with its licence).
    """
    folders = [Path(str(files(package))) for package in CODE]
    if not _carries_torchrec():
        return folders
    info = next(path for path in metadata.files("torchrec") or [] if path.name == "METADATA")
    return [*folders, Path(str(files("torchrec"))), Path(str(info.locate())).parent]


def requirements() -> list[str]:
    """Return what a registered model needs beside its own code, at the versions installed here: `polars==2.1.0`.

    These are the dependencies of recsys-text, and of torchrec where the model carries it. The builds for one kind
    of hardware are named where they are installed. Local versions (`+cpu`) are left out: no index has them.
    """
    needed = _dependencies(DISTRIBUTION, HARDWARE_EXTRAS)
    if _carries_torchrec():
        needed += _dependencies("torchrec", ())
        needed = [requirement for requirement in needed if requirement.name not in ("torchrec", CUDA_FBGEMM)]
    return list(dict.fromkeys(_pinned(requirement) for requirement in needed))


def _carries_torchrec() -> bool:
    return not installed(CUDA_FBGEMM)


def _dependencies(distribution: str, extras: tuple[str, ...]) -> list[Requirement]:
    """Return the dependencies of an installed distribution, and those of `extras` that are installed."""
    every = [Requirement(line) for line in metadata.requires(distribution) or []]
    plain = [one for one in every if one.marker is None or one.marker.evaluate({"extra": ""})]
    optional = [one for one in every if one not in plain and installed(one.name)]
    return plain + [one for one in optional if any(str(one.marker) == f'extra == "{extra}"' for extra in extras)]


def _pinned(requirement: Requirement) -> str:
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    return f"{requirement.name}{extras}=={Version(metadata.version(requirement.name)).public}"


def predict(model: str, rows: pd.DataFrame, k: int) -> pd.DataFrame:
    """Return what the registered model answers for `rows`, through MLflow's own interface."""
    with mlflow_client():
        answer: pd.DataFrame = mlflow.pyfunc.load_model(model).predict(rows, params={"k": k})
    return answer
