"""Argument types and options that several commands share."""

import os
from collections.abc import Callable
from pathlib import Path

import click

from recsys import names

Folder = click.Path(path_type=Path, file_okay=False)
File = click.Path(path_type=Path, dir_okay=False)

MODEL = click.option(
    "--model",
    default=names.default_model,
    show_default=names.default_model(),
    help="Registered model or bundle folder.",
)
CONFIG = click.option("--config", type=File, help="TOML file with configuration keys (see docs/configuration.md).")
SETS = click.option(
    "--set", "sets", multiple=True, metavar="SECTION.KEY=VALUE", help="Set one configuration key; can be repeated."
)
STORE = click.option(
    "--store",
    default="sqlite:///.recsys/store.db",
    show_default=True,
    envvar="RECSYS_STORE",
    show_envvar=True,
    help="Database of events, items, lists and keys: sqlite:///FILE or postgresql://…",
)


def _named(variable: str) -> Callable[[click.Context, click.Parameter, str | None], None]:
    """Return a callback that puts an option's value into the environment, where `recsys.names` looks."""

    def keep(ctx: click.Context, option: click.Parameter, value: str | None) -> None:
        if value:
            os.environ[variable] = value

    return keep


def mlflow_names(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options `--experiment` and `--model-name`."""
    for option, variable, what in (
        ("--model-name", names.MODEL_VARIABLE, "Name of the registered model."),
        ("--experiment", names.EXPERIMENT_VARIABLE, "Name of the MLflow experiment."),
    ):
        command = click.option(
            option,
            metavar="NAME",
            envvar=variable,
            show_envvar=True,
            expose_value=False,
            callback=_named(variable),
            help=f"{what}  [default: {names.DEFAULT}]",
        )(command)
    return command


class Commands(click.Group):
    """A group that lists its commands in the order of their definition."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order of their definition."""
        return list(self.commands)


def in_a_folder(ctx: click.Context, option: click.Parameter, path: Path | None) -> Path | None:
    """Refuse a path whose parent folder does not exist, before any work is done for it."""
    if path and not path.absolute().parent.is_dir():
        raise click.BadParameter(f"the folder {path.parent} does not exist; create it first")
    return path


def require_dataset(folder: Path) -> None:
    """Raise RecsysError where `folder` holds no tables, before anything slow is imported."""
    from features.data.tables import find_tables

    find_tables(folder)
