"""`recsys tune`: from a dataset to a better configuration."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from recsys.cli.common import CONFIG, SETS, File, Folder, in_a_folder, mlflow_names, require_dataset
from recsys.cli.runs import console

if TYPE_CHECKING:
    from training.search.search import Found

UNITS_S = {"s": 1, "m": 60, "h": 3600}


class Duration(click.ParamType[float]):
    """A time such as `90s`, `30m` or `2h`, in seconds."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds."""
        if isinstance(value, int | float):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", str(value))
        if not found or not float(found[1]):
            self.fail(f"{value!r} is no time; write for example 90s, 30m or 2h", param, ctx)
        return float(found[1]) * UNITS_S[found[2]]


@click.command()
@click.argument("dataset", type=Folder)
@click.option("--trials", default=20, show_default=True, type=click.IntRange(1), help="Configurations to try, in all.")
@click.option("--time-budget", type=Duration(), metavar="TIME", help="End after this time, as 90s, 30m or 2h.")
@click.option(
    "--space",
    default="ranker",
    show_default=True,
    metavar="ranker|interest|FILE",
    help="What is varied: the ranker and the sources' quotas, the interest model, or the keys of a TOML file.",
)
@CONFIG
@SETS
@click.option(
    "--out",
    default="best.toml",
    show_default=True,
    type=File,
    callback=in_a_folder,
    help="TOML file for the best configuration; a picture is written beside it.",
)
@click.option("--name", help="Name of the MLflow run.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Seed of all random draws.")
@click.option(
    "--concurrent",
    default=1,
    show_default=True,
    type=click.IntRange(1),
    help="Trials at a time, which share the cores. With more than one, a seed does not repeat a search.",
)
@mlflow_names
@click.option("--resume", metavar="RUN", help="Go on with the search of this id; the trials that ended are kept.")
def tune(
    dataset: Path,
    trials: int,
    time_budget: float | None,
    space: str,
    config: Path | None,
    sets: tuple[str, ...],
    out: Path,
    name: str | None,
    seed: int,
    concurrent: int,
    resume: str | None,
) -> None:
    """Search for a better configuration on DATASET, and write it as a TOML file for `recsys train --config`.

    Trials learn from the train split and are measured by ndcg@10 on valid; test is not looked at. The first trial is the configuration
    itself, and the report says whether the best is better than it beyond chance. --space ranker fits the interest model once; with
    --space interest each trial fits it.

    \b
    Examples:
      recsys tune shop --trials 30 --time-budget 30m
      recsys tune shop --space interest --trials 12 --out interest.toml
      recsys tune shop --space space.toml --config interest.toml
    """
    from recsys.settings import read_settings
    from training.search.space import read_space

    settings = read_settings(config, sets)
    varied = read_space(space, settings)
    require_dataset(dataset)
    from training.search.run import Limits
    from training.search.search import search, write

    found = search(dataset, settings, varied, Limits(trials, time_budget, concurrent), seed, name, resume)
    write(found, out)
    print_found(found)
    click.echo(f"run {found.run_id}")
    click.echo(f"written to {out} and {out.with_suffix('.png')}")
    asked = [f"--config {config}"] if config else []
    options = [f"--config {out}"] if found.better else [*asked, *(f"--set {one}" for one in sets)]
    click.echo(f"next: {' '.join(['recsys train', str(dataset), *options])}")


def print_found(found: "Found") -> None:
    """Print the trials, the best first, and what to make of them."""
    from rich import box
    from rich.table import Table

    from training.search.record import short

    table = Table(box=box.SIMPLE_HEAD, padding=0)
    keys = list(found.space)
    for title in ("trial", "ndcg@10", "seconds", *(key.partition(".")[2] for key in keys)):
        table.add_column(title, justify="right")
    table.add_column("")
    order = sorted(found.trials, key=lambda trial: (not trial.finished, -(trial.metric or 0.0)))
    for trial in order:
        metric = "" if trial.metric is None else f"{trial.metric:.4f}"
        note = "default" if trial == found.default else "" if trial.finished else trial.state
        values = (short(trial.parameters[key]) for key in keys)
        table.add_row(str(found.trials.index(trial)), metric, f"{trial.seconds:.0f}", *values, note)
    console().print(table)
    click.echo(
        f"{found.requests:,} requests of valid; the best, trial {found.trials.index(found.best)}: {found.verdict}"
    )
