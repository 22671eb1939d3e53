"""Runs, metrics and new versions of models: the writing half of MLflow (`recsys.registry` reads).

In: parameters, metrics and bundle folders. Out: run ids and versions.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types.schema import Array, ColSpec, DataType, ParamSchema, ParamSpec, Schema
from sqlalchemy.exc import SQLAlchemyError

from recsys import __version__
from recsys.errors import RecsysError
from recsys.registry import CHAMPION, MODEL_NAME, OWN_STORE, connect, first_line

EXPERIMENT = "recsys"

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


@contextmanager
def answering() -> Iterator[MlflowClient]:
    """Give the body a client; what MLflow's store refuses becomes one clear line."""
    try:
        yield connect()
    except (MlflowException, SQLAlchemyError) as error:
        raise RecsysError(
            f"MLflow at {mlflow.get_tracking_uri()} refused: {first_line(error)}; "
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


def predict(model: str, rows: pd.DataFrame, k: int) -> pd.DataFrame:
    """Return what the registered model answers for `rows`, through MLflow's own interface."""
    connect()
    answer: pd.DataFrame = mlflow.pyfunc.load_model(model).predict(rows, params={"k": k})
    return answer
