"""Train a text head as an MLflow run and register it: the part of `recsys text train` that all kinds share.

In: a fit and a measurement. Out: a `TrainedHead`.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recsys import names
from recsys.config import Config
from recsys.progress import Update, stage, timed
from recsys.text.bundle import TextModel, save_text_model
from training import tracking
from training.machine import machine
from training.text.lora import merge_adapters
from training.text.report import TextReport


@dataclass(frozen=True)
class TrainedHead:
    """A text head that is registered."""

    run_id: str
    model: str
    """`models:/NAME/VERSION`"""
    report: TextReport | None
    """None where nothing was measured."""


def train_head(
    kind: str,
    data: dict[str, Any],
    config: Config,
    seed: int,
    name: str,
    fit: Callable[[Update], TextModel],
    measure: Callable[[TextModel], TextReport] | None,
) -> TrainedHead:
    """Fit a head, measure it on `test`, and register it as the newest version of `name`, its champion.

    `data` says what it was fitted on.

    Raises:
        RecsysError: recommenders have that name, or MLflow's store is unreachable.
    """
    tracking.refuse_taken_name(name)
    about = {"mlflow.source.name": f"recsys text train {kind}"} | machine()
    params = {"kind": kind, "seed": seed, "encoder": config.encoder.name, **data}
    params |= {f"text.{key}": value for key, value in config.text}
    run_id = tracking.start_run(name, params, about, names.texts())
    try:
        with timed() as seconds:
            with stage(f"fitting the {kind} head") as update:
                model = fit(update)
                merge_adapters(model.encoder)
            report = None
            if measure:
                with stage("measuring it on test"):
                    report = measure(model)
        metrics = report.metrics() if report else {}
        figures = metrics | {f"seconds/{title}": value for title, value in seconds.items()}
        tracking.log_metrics(run_id, figures)
        if report:
            tracking.log_text(run_id, report.text(), "report.tsv")
        with stage("registering the model"), tempfile.TemporaryDirectory() as folder:
            bundle = Path(folder) / "bundle"
            bundle.mkdir()
            save_text_model(bundle, model, {"run_id": run_id, "seed": seed, "metrics": metrics, **data})
            version = tracking.register_text(run_id, bundle, name)
    except BaseException:
        tracking.end_run(run_id, finished=False)
        raise
    tracking.end_run(run_id, finished=True)
    return TrainedHead(run_id, f"models:/{name}/{version}", report)
