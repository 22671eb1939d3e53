"""`recsys train`: from a dataset to a registered model."""

from pathlib import Path
from typing import Any

import click

from recsys.cli.common import CONFIG, SETS, Folder, mlflow_names, require_dataset


@click.command()
@click.argument("dataset", type=Folder)
@CONFIG
@SETS
@click.option("--name", help="Name of the MLflow run.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Seed of all random draws.")
@click.option(
    "--fit-on",
    type=click.Choice(["train", "train+valid", "all"]),
    default="train+valid",
    show_default=True,
    help="Splits that the registered model is fitted on. Epochs are always chosen on valid.",
)
@mlflow_names
@click.option("--resume", metavar="RUN", help="Continue the stopped run with this id.")
@click.option(
    "--from",
    "start",
    metavar="MODEL",
    help="Update this model with the events since, instead of training from nothing; its configuration is the default.",
)
def train(
    dataset: Path,
    config: Path | None,
    sets: tuple[str, ...],
    name: str | None,
    seed: int,
    fit_on: Any,
    resume: str | None,
    start: str | None,
) -> None:
    """Train a model on DATASET and register it.

    Fine-tunes the text encoder, trains the ranker, evaluates the model on the test split, and registers it in
    MLflow. The first model becomes the champion, which the other commands use by default.

    With --from, the fits start from the weights of a model and learn from what came since; where the result is worse than that model on
    the valid split, everything is trained from nothing.

    \b
    Examples:
      recsys train shop
      recsys train shop --set interest.epochs=4 --name short
      recsys train shop --fit-on all
      recsys train shop --from models:/recsys@champion
      recsys train books --experiment books --model-name books
    """
    from rich.console import Console

    from recsys.settings import read_settings

    settings = read_settings(config, sets)
    require_dataset(dataset)
    from training.evaluation.report import render
    from training.pipeline import train as run
    from training.update import Start

    before = Start.of(start) if start else None
    if before:
        settings = read_settings(config, sets, before.config)
    trained = run(dataset, settings, name, seed, fit_on, resume, before)
    if trained.report:
        render(trained.report, Console())
        click.echo(
            f"these figures are of the models fitted on {fit_on}, with what was known then; the registered version has"
        )
        click.echo("the same models over the counts, candidate sources and histories of all events")
    click.echo(f"run {trained.run_id}")
    click.echo(f"registered {trained.model}")
    model = f"--model {trained.model}"
    if trained.report:
        click.echo(f"next: recsys evaluate {dataset} {model} --baselines")
    else:
        click.echo(f"next: recsys recommend {dataset} {model} --out lists")
