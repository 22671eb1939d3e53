"""Runs, metrics and registered models: the door to MLflow.

In: parameters, metrics and bundle folders. Out: run ids, versions, and local folders of bundles.
Without `MLFLOW_TRACKING_URI` everything goes to `mlflow.db` and `mlartifacts/` in the working
directory.
"""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
OWN_STORE = "MLFLOW_TRACKING_URI" not in os.environ  # before mlflow sets it itself

import mlflow
import pandas as pd
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types.schema import Array, ColSpec, DataType, ParamSchema, ParamSpec, Schema
from sqlalchemy.exc import SQLAlchemyError

from recsys import __version__
from recsys.errors import RecsysError

MODEL_NAME = "recsys"
CHAMPION = "champion"
EXPERIMENT = "recsys"
DEFAULT_MODEL = f"models:/{MODEL_NAME}@{CHAMPION}"

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


def connect() -> MlflowClient:
    """Point MLflow at its store, quietly, and return a client."""
    warnings.filterwarnings("ignore", module="mlflow")
    for name in (
        "mlflow",
        "alembic",
        "mlflow.tracking._model_registry.client",
        "mlflow.tracking._model_registry.fluent",
    ):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if OWN_STORE:
        mlflow.set_tracking_uri(f"sqlite:///{Path('mlflow.db').resolve()}")
        with FileLock("mlflow.db.lock"):  # two first runs at once would both make the tables
            MlflowClient().search_experiments(max_results=1)
    return MlflowClient()


@contextmanager
def answering() -> Iterator[MlflowClient]:
    """Give the body a client; what MLflow's store refuses becomes one clear line."""
    try:
        yield connect()
    except (MlflowException, SQLAlchemyError) as error:
        raise RecsysError(
            f"MLflow at {mlflow.get_tracking_uri()} refused: {_first_line(error)}; "
            "see that it is reachable (MLFLOW_TRACKING_URI) and that its disk has room"
        ) from error


def start_run(name: str | None, params: dict[str, Any], tags: dict[str, str]) -> str:
    """Open a run and return its id; it stays open until `end_run`."""
    with answering() as client:
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            place = Path("mlartifacts").resolve().as_uri() if OWN_STORE else None
            experiment_id = client.create_experiment(EXPERIMENT, artifact_location=place)
        else:
            experiment_id = experiment.experiment_id
        run = client.create_run(experiment_id, run_name=name, tags=tags)
        client.log_batch(run.info.run_id, params=[Param(key, str(value)[:500]) for key, value in params.items()])
    return str(run.info.run_id)


def find_run(run_id: str) -> Run:
    """Return a run.

    Raises:
        RecsysError: there is none of that id.
    """
    try:
        return connect().get_run(run_id)
    except MlflowException as error:
        raise RecsysError(
            f"--resume {run_id}: no such run in {mlflow.get_tracking_uri()}; `recsys train` prints a run's id"
        ) from error


def end_run(run_id: str, finished: bool) -> None:
    """Close a run as finished or failed."""
    with answering() as client:
        client.set_terminated(run_id, "FINISHED" if finished else "FAILED")


def reopen_run(run_id: str) -> None:
    """Mark a run as running again."""
    with answering() as client:
        client.update_run(run_id, "RUNNING")


def log_epochs(run_id: str, prefix: str, history: list[dict[str, float]]) -> None:
    """Log a metric per epoch as `prefix_loss` and `prefix_ndcg_at_10`."""
    metrics = [
        Metric(f"{prefix}_{key.replace('@', '_at_')}", value, 0, int(epoch["epoch"]))
        for epoch in history
        for key, value in epoch.items()
        if key != "epoch"
    ]
    with answering() as client:
        client.log_batch(run_id, metrics=metrics)


def log_metrics(run_id: str, metrics: dict[str, float]) -> None:
    """Log final metrics; `@` becomes `_at_`, since MLflow's names lack it."""
    with answering() as client:
        client.log_batch(run_id, [Metric(key.replace("@", "_at_"), value, 0, 0) for key, value in metrics.items()])


def log_text(run_id: str, text: str, name: str) -> None:
    """Keep `text` as an artifact of the run."""
    with answering() as client:
        client.log_text(run_id, text, name)


def register(run_id: str, bundle: Path) -> str:
    """Log the bundle as a pyfunc model, register it and return its version.

    The first version of all becomes `champion`.
    """
    with answering() as client:
        with mlflow.start_run(run_id=run_id):
            logged = mlflow.pyfunc.log_model(
                name="bundle",
                python_model=str(Path(__file__).with_name("pyfunc_model.py")),
                artifacts={"bundle": str(bundle.resolve())},
                signature=SIGNATURE,
                pip_requirements=[f"recsys-text=={__version__}"],
            )
        if not client.search_registered_models(f"name = '{MODEL_NAME}'"):
            client.create_registered_model(MODEL_NAME)
        created = client.create_model_version(MODEL_NAME, logged.model_uri, run_id, model_id=logged.model_id)
        if CHAMPION not in client.get_registered_model(MODEL_NAME).aliases:
            client.set_registered_model_alias(MODEL_NAME, CHAMPION, created.version)
    return str(created.version)


def bundle_folder(model: str) -> Path:
    """Return the local folder of the bundle that `model` names.

    `model` is a folder, or `models:/NAME@ALIAS`, `models:/NAME/VERSION`, `runs:/RUN/bundle`.

    Raises:
        RecsysError: nothing of that name is registered, or its files are gone.
    """
    if ":/" not in model:
        folder = Path(model)
        if not folder.is_dir():
            raise RecsysError(f"--model {model}: no such folder; name a bundle or a registered model ({DEFAULT_MODEL})")
        return folder
    connect()
    try:
        local = Path(mlflow.artifacts.download_artifacts(model))
    except (MlflowException, OSError) as error:
        raise RecsysError(
            f"--model {model}: not found in {mlflow.get_tracking_uri()} ({_first_line(error)}); "
            "train one with `recsys train DATASET`"
        ) from error
    return local / "artifacts" / "bundle"


def resolve(model: str) -> str:
    """Return the version that `model` names now: `models:/NAME/VERSION` for an alias, else `model` itself.

    Raises:
        RecsysError: nothing of that name is registered.
    """
    name, at, alias = model.removeprefix("models:/").partition("@")
    if not (at and model.startswith("models:/")):
        return model
    try:
        return f"models:/{name}/{connect().get_model_version_by_alias(name, alias).version}"
    except MlflowException as error:
        raise RecsysError(
            f"--model {model}: not found in {mlflow.get_tracking_uri()} ({_first_line(error)}); "
            "train one with `recsys train DATASET`"
        ) from error


def predict(model: str, rows: pd.DataFrame, k: int) -> pd.DataFrame:
    """Return what the registered model answers for `rows`, through MLflow's own interface."""
    connect()
    answer: pd.DataFrame = mlflow.pyfunc.load_model(model).predict(rows, params={"k": k})
    return answer


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [repr(error)])[0]
