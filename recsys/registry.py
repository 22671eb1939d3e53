"""The reading half of MLflow's registry: from a model's name to a folder on this machine.

In: a bundle folder, `models:/NAME@ALIAS`, `models:/NAME/VERSION` or `runs:/RUN/bundle`. Out: the version that
the name stands for now, and the folder of its bundle. `training.tracking` is the writing half.

Without `MLFLOW_TRACKING_URI`, MLflow keeps everything in `mlflow.db` and `mlartifacts/` of the working directory. Both can be
moved or copied together.
"""

import hashlib
import logging
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

import mlflow
import sqlalchemy as sa
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from recsys import names
from recsys.atomic import atomic_folder
from recsys.bundle import MANIFEST
from recsys.config import WORK
from recsys.errors import RecsysError, first_line
from recsys.names import OWN_DATABASE, OWN_STORE

OWN_ARTIFACTS = Path("mlartifacts")
ENCODERS = WORK / "encoders"
LOCATIONS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Tables and columns in which MLflow keeps absolute addresses of artefacts."""
STORE_HINT = "check that it is reachable (MLFLOW_TRACKING_URI) and that its disk has room"


@contextmanager
def mlflow_client(subject: str = "", hint: str = STORE_HINT) -> Iterator[MlflowClient]:
    """Give the body a client of MLflow's store. An error of MLflow becomes one line: `subject`, its message, `hint`.

    Raises:
        RecsysError: the store is unreachable, or lacks what the body asks for.
    """
    try:
        yield _connect()
    except (MlflowException, SQLAlchemyError, OSError) as error:
        message = first_line(error)
        where = f"{subject}: " if subject else ""
        raise RecsysError(f"{where}MLflow at {mlflow.get_tracking_uri()} answers: {message}; {hint}") from error


def bundle_folder(model: str, option: str = "--model") -> Path:
    """Return the local folder of the bundle that `model` names.

    `model` is a folder, or `models:/NAME@ALIAS`, `models:/NAME/VERSION`, `runs:/RUN/bundle`. Errors name the `option`.

    Raises:
        RecsysError: no model with that name is registered, its files are gone, or MLflow is unreachable.
    """
    if ":/" not in model:
        folder = Path(model)
        if not folder.is_dir():
            raise RecsysError(
                f"{option} {model}: no such folder; name a bundle folder or a registered model, such as {names.default_model()}"
            )
        return folder
    with _client_for(model, option):
        return Path(mlflow.artifacts.download_artifacts(model)) / "artifacts" / "bundle"


def encoder_folder(model: str, option: str) -> Path:
    """Return a folder with the text encoder of the registered `model`: a copy in the working folder, where `--resume` finds it.

    Errors name the `option`.

    Raises:
        RecsysError: no model with that name is registered, its files are gone, or MLflow is unreachable.
    """
    version = resolve(model, option)
    bundle = bundle_folder(version, option)
    digest = hashlib.sha256((bundle / MANIFEST).read_bytes()).hexdigest()[:8]
    folder = ENCODERS / f"{version.removeprefix('models:/').replace('/', '-')}-{digest}"
    ENCODERS.mkdir(parents=True, exist_ok=True)
    with FileLock(ENCODERS / "lock"):  # two commands at once
        if not folder.exists():
            with atomic_folder(folder) as temporary:
                shutil.copytree(bundle / "encoder", temporary, dirs_exist_ok=True)
    return folder.resolve()


def resolve(model: str, option: str = "--model") -> str:
    """Return the version that `model` names now: `models:/NAME/VERSION` for an alias, else `model` itself. Errors name the `option`.

    Raises:
        RecsysError: no model with that name is registered, or MLflow is unreachable.
    """
    name, at, alias = model.removeprefix("models:/").partition("@")
    if not (at and model.startswith("models:/")):
        return model
    with _client_for(model, option) as client:
        return f"models:/{name}/{client.get_model_version_by_alias(name, alias).version}"


def has_store() -> bool:
    """Return whether there is anything to read: a command that only reads makes no store."""
    return not OWN_STORE or OWN_DATABASE.exists()


def _client_for(model: str, option: str) -> AbstractContextManager[MlflowClient]:
    if not has_store():
        raise RecsysError(
            f"{option} {model}: no {OWN_DATABASE} in {Path.cwd()}; go to the folder where it was trained, train a model with "
            "`recsys train DATASET`, or set MLFLOW_TRACKING_URI"
        )
    return mlflow_client(f"{option} {model}", "train a model with `recsys train DATASET`, or set MLFLOW_TRACKING_URI")


def _connect() -> MlflowClient:
    """Point MLflow at its store, silence its log, and return a client."""
    warnings.filterwarnings("ignore", module="mlflow")
    for name in (
        "mlflow",
        "alembic",
        "mlflow.tracking._model_registry.client",
        "mlflow.tracking._model_registry.fluent",
    ):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if OWN_STORE:
        mlflow.set_tracking_uri(f"sqlite:///{OWN_DATABASE.resolve()}")
        with FileLock(f"{OWN_DATABASE}.lock"):  # two first runs at once would both create the tables
            MlflowClient().search_experiments(max_results=1)
            _follow_a_move()
    return MlflowClient()


def _follow_a_move() -> None:
    """Let the store in the working directory name the artefacts beside it, not those where both were before."""
    here = OWN_ARTIFACTS.resolve().as_uri()
    experiments = sa.table("experiments", sa.column("name"), sa.column("artifact_location"))
    engine = sa.create_engine(f"sqlite:///{OWN_DATABASE}")
    with engine.begin() as store:
        before = store.scalar(
            sa.select(experiments.c.artifact_location).where(experiments.c.name == names.experiment())
        )
        if before and before != here and before.endswith(f"/{OWN_ARTIFACTS}") and OWN_ARTIFACTS.is_dir():
            for table, address in LOCATIONS:
                column: sa.ColumnClause[str] = sa.column(address)
                moved = sa.literal(here).concat(sa.func.substr(column, len(before) + 1))
                inside = sa.func.substr(column, 1, len(before)) == before
                store.execute(sa.update(sa.table(table, column)).values({address: moved}).where(inside))
    engine.dispose()
