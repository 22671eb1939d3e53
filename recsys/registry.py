"""From a model's name to a folder: the reading half of MLflow's registry.

In: a bundle folder, `models:/NAME@ALIAS`, `models:/NAME/VERSION` or `runs:/RUN/bundle`. Out: a version, a local folder.
Without `MLFLOW_TRACKING_URI` everything is in `mlflow.db` and `mlartifacts/` of the working directory.
"""

import logging
import os
import warnings
from pathlib import Path

os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
OWN_STORE = "MLFLOW_TRACKING_URI" not in os.environ  # before mlflow sets it itself

import mlflow
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from recsys.errors import RecsysError

MODEL_NAME = "recsys"
CHAMPION = "champion"
DEFAULT_MODEL = f"models:/{MODEL_NAME}@{CHAMPION}"


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
            f"--model {model}: not found in {mlflow.get_tracking_uri()} ({first_line(error)}); "
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
            f"--model {model}: not found in {mlflow.get_tracking_uri()} ({first_line(error)}); "
            "train one with `recsys train DATASET`"
        ) from error


def first_line(error: Exception) -> str:
    """Return the first line of an error's text, or its form where it has none."""
    return (str(error).splitlines() or [repr(error)])[0]
