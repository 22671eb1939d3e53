"""`recsys data`: import, simulate, export and check datasets; prune the store."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from recsys.cli.common import CONFIG, SETS, STORE, Commands, Folder
from recsys.errors import UsageError

if TYPE_CHECKING:
    import polars as pl

CELL = 18
"""Characters of a cell in the rows that an import shows."""


@click.group(cls=Commands)
def data() -> None:
    """Import, simulate, export and check datasets; prune the store."""


@data.command("import")
@click.argument("fmt", metavar="FORMAT")
@click.argument("src")
@click.option("--out", type=Folder, required=True, help="Dataset folder to write; new or empty.")
@click.option(
    "--column",
    multiple=True,
    metavar="OURS=THEIRS",
    help="Which column of SRC is which of ours, e.g. user_id=visitor or, in one table alone, items.title=label; repeatable.",
)
@click.option("--option", multiple=True, metavar="KEY=VALUE", help="Option of FORMAT, e.g. like_from=4; repeatable.")
@click.option("--no-timestamps", is_flag=True, help="The events have no times: take the order of their rows (files).")
@click.option(
    "--duplicates",
    type=click.Choice(["keep", "drop"]),
    default="keep",
    show_default=True,
    help="What becomes of events that are equal in every column.",
)
@click.option(
    "--quarantine",
    is_flag=True,
    help="Leave out lines and rows that cannot be read or violate a rule, and keep them in OUT/quarantine.",
)
def import_(
    fmt: str,
    src: str,
    out: Path,
    column: tuple[str, ...],
    option: tuple[str, ...],
    no_timestamps: bool,
    duplicates: str,
    quarantine: bool,
) -> None:
    """Convert SRC to a dataset. FORMAT is files, sql, movielens, mind, amazon or recbole.

    SRC is a folder on this machine, or in object storage: s3://bucket/folder or gs://bucket/folder. For sql it holds
    items.sql and events.sql, a SELECT each. Prints which columns were taken for which, how their values were read,
    what could not be, and the first rows of each table.

    \b
    Examples:
      recsys data import movielens ml-latest-small --out ml
      recsys data import files export/ --out shop --column user_id=visitor
      recsys data import files s3://exports/shop --out shop --quarantine
      recsys data import files export/ --out shop --no-timestamps --duplicates drop
      recsys data import sql queries/ --out shop --option url=postgresql://reader@db/shop
    """
    from features.importers import import_dataset
    from recsys.progress import stage

    columns, options = _pairs(column, "--column"), _pairs(option, "--option")
    if no_timestamps:
        options["no_timestamps"] = "true"
    with stage(f"importing {fmt}"):
        report = import_dataset(
            fmt,
            src,
            out,
            columns=columns,
            options=options,
            drop_duplicates=duplicates == "drop",
            quarantine=quarantine,
        )
    click.echo(f"{out}: {report.items:,} items, {report.events:,} events, {report.users:,} users")
    for note in report.notes:
        click.echo(f"  {note}")
    for table, rows in report.samples.items():
        _show(table, rows)
    click.echo(f"next: recsys data check {out}")


@data.command()
@click.option("--out", type=Folder, required=True, help="Dataset folder to write; new or empty.")
@click.option("--users", default=2000, show_default=True, type=click.IntRange(2), help="Number of users.")
@click.option("--items", default=1500, show_default=True, type=click.IntRange(50), help="Number of items.")
@click.option("--seed", default=7, show_default=True, help="The same seed gives the same shop.")
@click.option(
    "--labelled",
    type=click.IntRange(5),
    help="Write labelled.jsonl as well: the texts of so many items with what in them says their attributes; others.jsonl has those of all others.",
)
def simulate(out: Path, users: int, items: int, seed: int, labelled: int | None) -> None:
    """Write the dataset of a simulated shop.

    The true tastes of its users are known, so that the best possible ranking is, too.

    \b
    Examples:
      recsys data simulate --out shop --users 2000 --items 1500 --seed 7
      recsys data simulate --out shop --labelled 300
    """
    from features.simulator.shop import label
    from features.simulator.shop import simulate as write
    from recsys.progress import stage

    with stage("simulating a shop"):
        write(out, users=users, items=items, seed=seed)
    if labelled:
        for path in label(out, labelled):
            click.echo(f"labelled: {path}")
    click.echo(f"next: recsys train {out}")


@data.command()
@click.argument("dataset", type=Folder)
@click.option("--out", type=Folder, required=True, help="Dataset folder to write; new or empty.")
@STORE
def export(dataset: Path, out: Path, store: str) -> None:
    """Add what the API has stored to a dataset.

    Writes DATASET with the store's events, changed items and lists to --out, ready for `recsys train`.
    Listed items that led to no event become impressions, and searches whose items were chosen become queries. Users who
    were deleted are left out.

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
        f"{out}: {report.events:,} events, {report.impressions:,} impressions, {report.queries:,} queries and "
        f"{report.items:,} item changes beyond {dataset}"
    )
    for note in report.notes:
        click.echo(f"  {note}")
    click.echo(f"next: recsys data check {out}")


@data.command()
@click.option("--days", type=click.IntRange(1), required=True, help="Days to keep, counted back from now.")
@click.option("--model", help="Registered model or bundle folder; item changes that it knows are deleted too.")
@STORE
def prune(days: int, model: str | None, store: str) -> None:
    """Delete old events and lists from the store, and item changes that a model knows.

    A running server does the same every hour with `recsys serve --keep-days DAYS`.

    \b
    Examples:
      recsys data prune --days 365
      recsys data prune --days 365 --model models:/recsys@champion
    """
    import time

    from recsys.bundle import verify
    from recsys.events import DAY_US
    from recsys.registry import bundle_folder, resolve
    from serving.loading import read_items
    from serving.store.retention import prune as delete
    from serving.store.store import Store

    bundle = bundle_folder(resolve(model)) if model else None
    items, as_of = (read_items(bundle), verify(bundle).get("items_as_of")) if bundle else (None, None)
    deleted = delete(Store(store), time.time_ns() // 1000 - days * DAY_US, items, as_of)
    click.echo(f"deleted {deleted} older than {days} days")
    if not model:
        click.echo("item changes stay; --model NAME deletes those that the model knows")


@data.command()
@click.argument("dataset", type=Folder)
@CONFIG
@SETS
def check(dataset: Path, config: Path | None, sets: tuple[str, ...]) -> None:
    """Print every rule that DATASET violates.

    Prints counts as well, and how much of the texts the configured encoder can read. The exit code is 1 if a rule is
    violated.

    \b
    Examples:
      recsys data check shop
      recsys data check shop --set encoder.name=intfloat/multilingual-e5-small
    """
    from rich.console import Console

    from recsys.settings import read_settings

    encoder = read_settings(config, sets).encoder.name
    from features.data.validate import check as validate

    report = validate(dataset, encoder)
    report.render(Console())
    if not report.ok:
        sys.exit(1)


def _show(title: str, rows: "pl.DataFrame") -> None:
    """Print the first rows of a table, a line for each of its columns."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"{title}: the first rows", title_justify="left", title_style="", show_header=False)
    table.add_column(style="bold", no_wrap=True, min_width=len("description"))
    for _ in range(rows.height):
        table.add_column(no_wrap=True, max_width=CELL)
    for column in rows:
        table.add_row(column.name, *("" if value is None else escape(str(value)) for value in column))
    Console().print(table)


def _pairs(texts: tuple[str, ...], option: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (equals and key and value):
            raise UsageError(f"{option} {text}: expected KEY=VALUE")
        if key in pairs:
            raise UsageError(f"{option} {text}: {key} is given twice, before as {pairs[key]}; keep one")
        pairs[key] = value
    return pairs
