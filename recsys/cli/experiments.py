"""`recsys experiments`: give a share of users another model, and see what came of it."""

from pathlib import Path

import click

from recsys.cli.common import STORE, Commands, File


@click.group(cls=Commands)
def experiments() -> None:
    """Give a share of users another model, and see what came of it."""


@experiments.command("start")
@click.argument("file", type=File)
@STORE
def start(file: Path, store: str) -> None:
    """Start the experiment of FILE. Running servers take it up as soon as its models are loaded.

    \b
    FILE is TOML; the first arm is what the others are compared with:
      name = "champion-or-seven"
      minimum_days = 14            # before that, the report gives no verdict
      interleave = false           # true: one list is drawn from both arms in turn

    \b
      [arms.champion]              # no model: the one that the server has
      share = 0.5
      [arms.seven]
      share = 0.5
      model = "models:/recsys/7"   # or scenario = "NAME", or both

    \b
    Example:
      recsys experiments start seven.toml
    """
    from serving.experiments.running import start_experiment
    from serving.store.store import Store

    experiment = start_experiment(Store(store), file)
    shares = ", ".join(f"{name} {arm.share:.0%}" for name, arm in experiment.arms.items())
    click.echo(f"{experiment.name} runs: {shares}")
    click.echo(f"next: recsys experiments report {experiment.name}")


@experiments.command("list")
@STORE
def list_experiments(store: str) -> None:
    """List all experiments, those that were stopped among them."""
    from rich.console import Console

    from serving.experiments.running import shown_experiments
    from serving.store.store import Store

    Console().print(shown_experiments(Store(store)))


@experiments.command("report")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print plain values.")
@STORE
def report(name: str, as_json: bool, store: str) -> None:
    """Show clicks, purchases and value of each arm of the experiment NAME.

    Intervals are over users and hold 95 % of the time. Before the minimum of days there is no verdict, and none where the
    numbers of users contradict the shares.

    \b
    Example:
      recsys experiments report champion-or-seven
    """
    import json
    import time
    from dataclasses import asdict

    from rich.console import Console

    from serving.experiments.results import notes, read_outcome, shown_outcome
    from serving.store.store import Store

    found = read_outcome(Store(store), name, time.time_ns() // 1000)
    if as_json:
        click.echo(json.dumps(asdict(found) | {"notes": notes(found)}, indent=1))
        return
    console = Console()
    console.print(shown_outcome(found))
    for note in notes(found):
        console.print(note, highlight=False, soft_wrap=True)


@experiments.command("stop")
@click.argument("name")
@STORE
def stop(name: str, store: str) -> None:
    """Stop the experiment NAME. Its report stays; within a second all users get the lists of the server's own model.

    \b
    Example:
      recsys experiments stop champion-or-seven
    """
    from serving.experiments.running import stop_experiment
    from serving.store.store import Store

    stop_experiment(Store(store), name)
    click.echo(f"{name} is stopped; recsys experiments report {name} says what came of it")
