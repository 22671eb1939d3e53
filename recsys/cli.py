"""The command line: `recsys data|train|evaluate|recommend|serve`. `recsys --help` lists examples.

The door to every package: imports happen inside the commands, so that help answers at once.
Results go to stdout, progress to stderr. Exit codes: 0 done, 1 bad input, 2 wrong usage.
"""

import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import click

from recsys import __version__
from recsys.errors import RecsysError, UsageError

MODEL = "models:/recsys@champion"

Folder = click.Path(path_type=Path, file_okay=False)
File = click.Path(path_type=Path, dir_okay=False)


STORE = click.option(
    "--store",
    default="sqlite:///.recsys/store.db",
    show_default=True,
    envvar="RECSYS_STORE",
    show_envvar=True,
    help="Database of events, items, lists and keys: sqlite:///FILE or postgresql://…",
)


def _in_a_folder(ctx: click.Context, option: click.Parameter, path: Path | None) -> Path | None:
    """Refuse a file whose folder is missing before any work is done for it."""
    if path and not path.absolute().parent.is_dir():
        raise click.BadParameter(f"the folder {path.parent} does not exist; make it first")
    return path


class Commands(click.Group):
    """A group that keeps examples as they are written and lists commands in their order."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order of their definition."""
        return list(self.commands)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="recsys")
def cli() -> None:
    """Personalised recommendations from item texts and what users did.

    \b
    Examples:
      recsys data simulate --out shop
      recsys train shop
      recsys evaluate shop --yardsticks
      recsys recommend shop --k 20 --out lists
      recsys serve
    """


@cli.group(cls=Commands)
def data() -> None:
    """Import, simulate and check datasets."""


@data.command("import")
@click.argument("fmt", metavar="FORMAT")
@click.argument("src", type=click.Path(path_type=Path))
@click.option("--out", type=Folder, required=True, help="Dataset folder to write; must not exist or be empty.")
@click.option("--column", multiple=True, metavar="OURS=THEIRS", help="Name a column, e.g. user_id=visitorid.")
@click.option("--option", multiple=True, metavar="KEY=VALUE", help="An option of the format, e.g. like_from=4.")
def import_(fmt: str, src: Path, out: Path, column: tuple[str, ...], option: tuple[str, ...]) -> None:
    """Turn SRC into a dataset. FORMAT: files, movielens, mind, amazon or recbole.

    \b
    Examples:
      recsys data import movielens ml-latest-small --out ml
      recsys data import files export/ --out shop --column user_id=visitorid
    """
    from features.importers import import_dataset
    from recsys.progress import stage

    with stage(f"importing {fmt}"):
        report = import_dataset(fmt, src, out, columns=_pairs(column, "--column"), options=_pairs(option, "--option"))
    click.echo(f"{out}: {report.items:,} items, {report.events:,} events, {report.users:,} users")
    for note in report.notes:
        click.echo(f"  {note}")
    click.echo(f"next: recsys data check {out}")


@data.command()
@click.option("--out", type=Folder, required=True, help="Dataset folder to write; must not exist or be empty.")
@click.option("--users", default=2000, show_default=True, type=click.IntRange(2), help="Number of users.")
@click.option("--items", default=1500, show_default=True, type=click.IntRange(50), help="Number of items.")
@click.option("--seed", default=7, show_default=True, help="Same seed, same shop.")
def simulate(out: Path, users: int, items: int, seed: int) -> None:
    """Write a simulated shop whose true tastes are known.

    \b
    Example:
      recsys data simulate --out shop --users 2000 --items 1500 --seed 7
    """
    from features.simulator.shop import simulate as write
    from recsys.progress import stage

    with stage("simulating a shop"):
        write(out, users=users, items=items, seed=seed)
    click.echo(f"next: recsys train {out}")


@data.command()
@click.argument("dataset", type=Folder)
@click.option("--out", type=Folder, required=True, help="Dataset folder to write; must not exist or be empty.")
@STORE
def export(dataset: Path, out: Path, store: str) -> None:
    """Add to DATASET what the API was told and what it showed, ready for `recsys train`.

    Events of the store follow those of DATASET. Places of answered lists on which nobody acted become
    impressions. Users who were deleted are left out.

    \b
    Example:
      recsys data export shop --out shop-2
    """
    from recsys.progress import stage
    from serving.store.export import export as write
    from serving.store.store import Store

    with stage(f"exporting to {out}"):
        report = write(dataset, Store(store), out)
    click.echo(
        f"{out}: {report.events:,} events, {report.impressions:,} impressions and {report.items:,} item changes "
        f"beyond {dataset}"
    )
    for note in report.notes:
        click.echo(f"  {note}")
    click.echo(f"next: recsys data check {out}")


@data.command()
@click.option("--days", type=click.IntRange(1), required=True, help="Keep the latest days.")
@STORE
def prune(days: int, store: str) -> None:
    """Delete events and lists of the store that are older than some days.

    \b
    Example:
      recsys data prune --days 365
    """
    import time

    from recsys.events import DAY_US
    from serving.store.store import Store

    events, lists = Store(store).prune(time.time_ns() // 1000 - days * DAY_US)
    click.echo(f"deleted {events:,} events and {lists:,} lists older than {days} days")


@data.command()
@click.argument("dataset", type=Folder)
def check(dataset: Path) -> None:
    """Report counts and every violated rule of DATASET; exit code 1 when a rule is violated.

    \b
    Example:
      recsys data check shop
    """
    from rich.console import Console

    from features.data.validate import check as validate

    report = validate(dataset)
    report.render(Console())
    if not report.ok:
        sys.exit(1)


@cli.command()
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
    from training.evaluation.evaluate import render
    from training.pipeline import train as run

    trained = run(dataset, settings, name, seed, fit_on, resume)
    if trained.report:
        render(trained.report, Console())
    click.echo(f"run {trained.run_id}")
    click.echo(f"registered models:/recsys/{trained.version}")
    click.echo(f"next: recsys evaluate {dataset} --model models:/recsys/{trained.version} --yardsticks")


@cli.command()
@click.argument("dataset", type=Folder)
@click.option("--model", default=MODEL, show_default=True, help="Registered model or bundle folder.")
@click.option(
    "--split", type=click.Choice(["valid", "test"]), default="test", show_default=True, help="What to measure on."
)
@click.option("--json", "json_file", type=File, callback=_in_a_folder, help="Write the report to this file.")
@click.option("--yardsticks", is_flag=True, help="Fit and measure the yardsticks as well.")
def evaluate(dataset: Path, model: str, split: str, json_file: Path | None, yardsticks: bool) -> None:
    """Measure a model's lists on DATASET, with 95 % intervals.

    \b
    Example:
      recsys evaluate shop --split test --yardsticks --json report.json
    """
    from rich.console import Console

    from training.compare import evaluate_model
    from training.evaluation.evaluate import render

    report = evaluate_model(dataset, model, split, yardsticks)
    render(report, Console())
    if json_file:
        report.write(json_file)


@cli.command()
@click.argument("dataset", type=Folder)
@click.option("--model", default=MODEL, show_default=True, help="Registered model or bundle folder.")
@click.option("--k", default=20, show_default=True, type=click.IntRange(1, 1000), help="Items per list.")
@click.option("--out", type=Folder, required=True, callback=_in_a_folder, help="Folder to write; must not exist.")
@click.option("--users", type=File, help="File of user ids (.parquet, .csv or one a line); all users by default.")
@click.option("--resume", is_flag=True, help="Go on with a run that was stopped.")
def recommend(dataset: Path, model: str, k: int, out: Path, users: Path | None, resume: bool) -> None:
    """Write a ranked list for every user of DATASET, complete or not at all.

    The folder has Parquet files and a _report.json. Ray makes the lists, on the cluster of RAY_ADDRESS or on
    all cores of this machine.

    \b
    Examples:
      recsys recommend shop --k 20 --out lists
      recsys recommend shop --k 20 --out lists --resume
    """
    from training.compare import recommend_lists

    written = recommend_lists(dataset, model, k, out, users, resume)
    click.echo(f"{out}: {written.rows:,} rows, lists for {written.lists:,} of {written.users:,} users")
    for reason, count in written.shorter.items():
        click.echo(f"  {count:,} with fewer than {k}: {reason}")


@cli.command()
@click.option("--model", default=MODEL, show_default=True, help="Registered model or bundle folder.")
@STORE
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(1, 65535), help="Port to listen on.")
@click.option(
    "--rate", default=1000, show_default=True, type=click.IntRange(1), help="Requests a second per key and process."
)
@click.option("--ray", is_flag=True, help="Answer from several processes or machines; needs PostgreSQL as the store.")
@click.option(
    "--replicas", type=click.IntRange(1), help="Processes with a model of their own under --ray.  [default: 2]"
)
def serve(model: str, store: str, host: str, port: int, rate: int, ray: bool, replicas: int | None) -> None:
    """Answer over HTTP: lists, search, events, items; GET /docs explains them all.

    Without keys it listens on this machine alone. When the alias of the model moves, the new version
    is loaded behind the old one.

    \b
    Examples:
      recsys serve --port 8000
      recsys keys add shop --scope read --scope write
      recsys serve --host 0.0.0.0 --store postgresql://recsys@db/recsys
      recsys serve --ray --replicas 4 --store postgresql://recsys@db/recsys
    """
    if ray:
        _serve_replicas(model, store, host, port, rate, replicas or 2)
        return
    if replicas:
        raise UsageError(f"--replicas {replicas}: several processes need --ray")
    # Requests run beside each other: threads within one would only wait for each other.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from recsys.progress import stage
    from serving.api.server import open_live, run
    from serving.store.store import Store
    from training.tracking import bundle_folder, resolve

    with stage(f"loading {model}"):
        bundle_folder(resolve(model))  # a wrong name is refused before a store is made
        opened = Store(store)
        live = open_live(model, opened, resolve, bundle_folder)
    run(live, opened, host, port, rate)


def _serve_replicas(model: str, store: str, host: str, port: int, rate: int, replicas: int) -> None:
    from serving.api.guard import Limits
    from serving.api.replicas import Plan, run
    from training.tracking import bundle_folder, resolve

    bundle_folder(resolve(model))  # a wrong name is refused before Ray starts
    if ":/" not in model:
        model = str(Path(model).absolute())
    run(Plan(model, store, resolve, bundle_folder, Limits(per_second=rate)), host, port, replicas)


@cli.group(cls=Commands)
def keys() -> None:
    """Make, list and revoke the keys of the API."""


@keys.command("add")
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice(["read", "write", "admin"]),
    default=("read",),
    show_default=True,
    help="What the key may do; may be given more than once.",
)
@STORE
def add_key(name: str, scopes: tuple[str, ...], store: str) -> None:
    """Make a key called NAME and print it: it is shown this once.

    \b
    Example:
      recsys keys add shop --scope read --scope write
    """
    from serving.api.keys import create_key
    from serving.store.store import Store

    click.echo(create_key(Store(store), name, scopes))


@keys.command("list")
@STORE
def list_keys(store: str) -> None:
    """List all keys, without their secrets."""
    from rich.console import Console

    from serving.api.keys import table_of
    from serving.store.store import Store

    Console().print(table_of(Store(store)))


@keys.command("revoke")
@click.argument("key_id")
@STORE
def revoke(key_id: str, store: str) -> None:
    """Revoke the key KEY_ID; servers refuse it two seconds later.

    \b
    Example:
      recsys keys revoke 1a2b3c4d
    """
    from serving.api.keys import revoke_key
    from serving.store.store import Store

    revoke_key(Store(store), key_id)
    click.echo(f"key {key_id} is revoked")


def _pairs(texts: tuple[str, ...], option: str) -> dict[str, str]:
    pairs = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (equals and key and value):
            raise UsageError(f"{option} {text}: expected KEY=VALUE")
        pairs[key] = value
    return pairs


def main() -> NoReturn:
    """Run the command line; problems that users can mend become one line on stderr."""
    try:
        cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit("stopped")
    except RecsysError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        click.echo(f"error: {error.filename or ''} {error.strerror or error}", err=True)
        sys.exit(1)
    sys.exit(0)
