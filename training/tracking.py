"""MLflow runs, their metrics, and new versions of the registered model: the writing half (`recsys.registry` reads).

In: parameters, metrics and bundle folders. Out: run ids and versions.

Every function raises `RecsysError` where MLflow's store is unreachable or refuses the request.
"""

from importlib import metadata
from importlib.resources import files
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.entities import Metric, Param, Run
from mlflow.models import ModelSignature
from mlflow.types.schema import Array, ColSpec, DataType, ParamSchema, ParamSpec, Schema
from packaging.requirements import Requirement
from packaging.version import Version

from recsys.registry import CHAMPION, MODEL_NAME, OWN_STORE, mlflow_client

EXPERIMENT = "recsys"
DISTRIBUTION = "recsys-text"
HARDWARE_EXTRAS = ("cpu", "gpu")
"""The extras of which one is installed; the other extras are not needed to recommend."""
CODE = ("recsys", "features", "serving")
"""The packages that a registered model carries: those that `training.pyfunc_model` imports."""

SIGNATURE = ModelSignature(
    inputs=Schema(
        [
            ColSpec(DataType.string, "user_id", required=False),
            ColSpec(Array(DataType.string), "history", required=False),
        ]
    ),
    outputs=Schema([ColSpec(Array(DataType.string), "items"), ColSpec(Array(DataType.double), "scores")]),
    params=ParamSchema([ParamSpec("k", DataType.long, 20)]),
)


def start_run(name: str | None, params: dict[str, Any], tags: dict[str, str]) -> str:
    """Open a run and return its id; it stays open until `end_run`."""
    with mlflow_client() as client:
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            location = Path("mlartifacts").resolve().as_uri() if OWN_STORE else None
            experiment_id = client.create_experiment(EXPERIMENT, artifact_location=location)
        else:
            experiment_id = experiment.experiment_id
        run = client.create_run(experiment_id, run_name=name, tags=tags)
        client.log_batch(run.info.run_id, params=[Param(key, str(value)[:500]) for key, value in params.items()])
    return str(run.info.run_id)


def find_run(run_id: str) -> Run:
    """Return a run.

    Raises:
        RecsysError: there is no run of that id.
    """
    with mlflow_client(f"--resume {run_id}", "`recsys train` prints a run's id when it starts") as client:
        return client.get_run(run_id)


def end_run(run_id: str, finished: bool) -> None:
    """Mark a run as finished or failed."""
    with mlflow_client() as client:
        client.set_terminated(run_id, "FINISHED" if finished else "FAILED")


def reopen_run(run_id: str) -> None:
    """Mark a run as running again."""
    with mlflow_client() as client:
        client.update_run(run_id, "RUNNING")


def log_epochs(run_id: str, prefix: str, history: list[dict[str, float]]) -> None:
    """Log a metric per epoch as `prefix_loss` and `prefix_ndcg_at_10`."""
    metrics = [
        Metric(f"{prefix}_{key.replace('@', '_at_')}", value, 0, int(epoch["epoch"]))
        for epoch in history
        for key, value in epoch.items()
        if key != "epoch"
    ]
    with mlflow_client() as client:
        client.log_batch(run_id, metrics=metrics)


def log_metrics(run_id: str, metrics: dict[str, float]) -> None:
    """Log final metrics; `@` becomes `_at_`, since MLflow allows no `@` in a name."""
    with mlflow_client() as client:
        client.log_batch(run_id, [Metric(key.replace("@", "_at_"), value, 0, 0) for key, value in metrics.items()])


def log_text(run_id: str, text: str, name: str) -> None:
    """Log `text` as an artifact of the run, in the file `name`."""
    with mlflow_client() as client:
        client.log_text(run_id, text, name)


def register(run_id: str, bundle: Path) -> str:
    """Log the bundle as a pyfunc model, register it and return its version.

    The model carries this release's code and names the packages that it needs, so that it loads without
    recsys-text installed. The first version ever registered becomes `champion`; later ones have to be promoted.
    """
    with mlflow_client() as client:
        with mlflow.start_run(run_id=run_id):
            logged = mlflow.pyfunc.log_model(
                name="bundle",
                python_model=str(Path(__file__).with_name("pyfunc_model.py")),
                artifacts={"bundle": str(bundle.resolve())},
                signature=SIGNATURE,
                code_paths=[str(_package_folder(package)) for package in CODE],
                pip_requirements=requirements(),
            )
        if not client.search_registered_models(f"name = '{MODEL_NAME}'"):
            client.create_registered_model(MODEL_NAME)
        created = client.create_model_version(MODEL_NAME, logged.model_uri, run_id, model_id=logged.model_id)
        if CHAMPION not in client.get_registered_model(MODEL_NAME).aliases:
            client.set_registered_model_alias(MODEL_NAME, CHAMPION, created.version)
    return str(created.version)


def requirements() -> list[str]:
    """Return what recsys-text depends on, each package at the version installed here: `polars==2.1.0`.

    The builds of one kind of hardware are named where they are installed. Local versions (`+cpu`) are left out:
    no package index has them.
    """
    pinned = []
    for line in metadata.requires(DISTRIBUTION) or []:
        requirement = Requirement(line)
        extra = next((extra for extra in HARDWARE_EXTRAS if _only_with(requirement, extra)), None)
        if requirement.marker and extra is None:
            continue
        try:
            version = Version(metadata.version(requirement.name)).public
        except metadata.PackageNotFoundError:
            if extra is None:
                raise
            continue
        extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
        pinned.append(f"{requirement.name}{extras}=={version}")
    return pinned


def _only_with(requirement: Requirement, extra: str) -> bool:
    marker = requirement.marker
    return marker is not None and not marker.evaluate({"extra": ""}) and marker.evaluate({"extra": extra})


def _package_folder(package: str) -> Path:
    return Path(str(files(package)))


def predict(model: str, rows: pd.DataFrame, k: int) -> pd.DataFrame:
    """Return what the registered model answers for `rows`, through MLflow's own interface."""
    with mlflow_client():
        answer: pd.DataFrame = mlflow.pyfunc.load_model(model).predict(rows, params={"k": k})
    return answer
