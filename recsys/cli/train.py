"""`recsys train`: from a dataset to a registered model."""

from pathlib import Path
from typing import Any

import click

from recsys.cli.common import File, Folder


@click.command()
@click.argument("dataset", type=Folder)
@click.option("--config", type=File, help="TOML file; `docs/configuration.md` lists its keys.")
@click.option("--set", "sets", multiple=True, metavar="SECTION.KEY=VALUE", help="Override one configuration key.")
@click.option("--name", help="Name of the MLflow run.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Same seed, same model.")
@click.option(
    "--fit-on",
    type=click.Choice(["train", "train+valid", "all"]),
    default="train+valid",
    show_default=True,
    help="What the registered model is fitted on; choices are always made on valid.",
)
@click.option("--resume", metavar="RUN", help="Go on with a run that was stopped.")
def train(
    dataset: Path,
    config: Path | None,
    sets: tuple[str, ...],
    name: str | None,
    seed: int,
    fit_on: Any,
    resume: str | None,
) -> None:
    """Fine-tune the encoder, train the ranker, evaluate on test, and register the model.

    \b
    Examples:
      recsys train shop
      recsys train shop --set interest.epochs=4 --name short
      recsys train shop --fit-on all
    """
    from rich.console import Console

    from recsys.config import load_config

    settings = load_config(config, sets)
    from training.evaluation.report import render
    from training.pipeline import train as run

    trained = run(dataset, settings, name, seed, fit_on, resume)
    if trained.report:
        render(trained.report, Console())
    click.echo(f"run {trained.run_id}")
    click.echo(f"registered models:/recsys/{trained.version}")
    click.echo(f"next: recsys evaluate {dataset} --model models:/recsys/{trained.version} --baselines")
