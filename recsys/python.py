"""The functions for notebooks: `recsys.load`, `recsys.train` and `recsys.evaluate`.

They do what the commands of the same name do. What they need is imported when they are called, so that `import recsys` is quick.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from recsys import names

if TYPE_CHECKING:
    from serving.model import Model
    from training.evaluation.report import Report
    from training.pipeline import Trained


def load(model: str | None = None) -> "Model":
    """Load a registered model or a bundle folder, the champion by default, to ask it for lists.

    Raises:
        RecsysError: no such model, or its bundle is damaged.
    """
    from serving.model import Model

    return Model(model or names.default_model())


def train(
    dataset: str | Path,
    settings: Mapping[str, Any] | None = None,
    *,
    config: str | Path | None = None,
    name: str | None = None,
    seed: int = 0,
    fit_on: Literal["train", "train+valid", "all"] = "train+valid",
    start: str | None = None,
) -> "Trained":
    """Train on the dataset folder and register the model.

    `settings` are configuration keys, `{"interest.epochs": 4}`, and take precedence over those of the TOML file `config`. With
    `start`, a registered model or a bundle folder, that model is updated, and what neither says is as in its configuration.

    Raises:
        RecsysError: the data, a setting or the model to start from is invalid.
    """
    from recsys.settings import read_settings
    from training.pipeline import train
    from training.update import Start

    sets = tuple(f"{key}={json.dumps(value)}" for key, value in (settings or {}).items())
    before = Start.of(start) if start else None
    resolved = read_settings(Path(config) if config else None, sets, before.config if before else None)
    return train(Path(dataset), resolved, name, seed, fit_on, start=before)


def evaluate(
    dataset: str | Path,
    model: str | None = None,
    *,
    split: Literal["valid", "test"] = "test",
    slow_baselines: bool = False,
) -> "Report":
    """Measure a model, the champion by default, on a split of the dataset folder, by full ranking; `frame` of the report is a table.

    Raises:
        RecsysError: the model or the dataset cannot be read, or the split is empty or was fitted.
    """
    from training.evaluation.registered import evaluate_model

    return evaluate_model(Path(dataset), model or names.default_model(), split, slow_baselines)
