"""The names under which MLflow keeps runs and versions. Two shops on one MLflow server take different ones.

They come from the environment (`RECSYS_EXPERIMENT`, `RECSYS_MODEL_NAME`) or, where a command has them, from options.
"""

import os
from pathlib import Path

EXPERIMENT_VARIABLE, MODEL_VARIABLE = "RECSYS_EXPERIMENT", "RECSYS_MODEL_NAME"
DEFAULT = "recsys"
CHAMPION = "champion"
OWN_STORE = "MLFLOW_TRACKING_URI" not in os.environ
"""Whether MLflow's store is in the working directory. Read before mlflow sets the variable itself."""
OWN_DATABASE = Path("mlflow.db")
"""That store."""


def experiment() -> str:
    """Return the name of MLflow's experiment."""
    return os.environ.get(EXPERIMENT_VARIABLE) or DEFAULT


def searches() -> str:
    """Return the name of the experiment of searches, apart from that of the trainings."""
    return f"{experiment()}-searches"


def texts() -> str:
    """Return the name of the experiment of text heads, apart from that of the trainings."""
    return f"{experiment()}-texts"


def model_name() -> str:
    """Return the name of the registered model."""
    return os.environ.get(MODEL_VARIABLE) or DEFAULT


def version_name(version: str) -> str:
    """Return how commands name a version: `models:/recsys/3`."""
    return f"models:/{model_name()}/{version}"


def default_model() -> str:
    """Return the version that commands take by themselves: `models:/recsys@champion`."""
    return f"models:/{model_name()}@{CHAMPION}"
