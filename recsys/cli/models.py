"""`recsys evaluate` and `recsys recommend`: measure a model, and write its lists."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from recsys.cli.common import MODEL, File, Folder, in_a_folder, require_dataset

if TYPE_CHECKING:
    from serving.lists import Extra, Format
    from training.evaluation.report import Report


@click.command()
@click.argument("dataset", type=Folder)
@MODEL
@click.option(
    "--split", type=click.Choice(["valid", "test"]), default="test", show_default=True, help="Split to evaluate on."
)
@click.option("--json", "json_file", type=File, callback=in_a_folder, help="Write the report to this JSON file.")
@click.option("--baselines", is_flag=True, help="Measure the slow baselines as well: als and the frozen encoder.")
@click.option("--yardsticks", "baselines", is_flag=True, hidden=True)  # the name until 0.1
def evaluate(dataset: Path, model: str, split: str, json_file: Path | None, baselines: bool) -> None:
    """Evaluate a model's lists on DATASET, with 95 % confidence intervals.

    The report of a registered model is kept with its MLflow run, too.

    \b
    Example:
      recsys evaluate shop --split test --baselines --json report.json
    """
    from rich.console import Console

    require_dataset(dataset)
    from training.evaluation.registered import evaluate_model
    from training.evaluation.report import render

    report = evaluate_model(dataset, model, split, baselines)
    render(report, Console())
    if json_file:
        report.write(json_file)
    if model.startswith("models:/"):
        _keep(report, model, split)


def _keep(report: "Report", model: str, split: str) -> None:
    """Keep `report` with the run of `model`; where that cannot be done, say so: it has been printed."""
    from recsys.errors import RecsysError
    from training.tracking import find, log_text

    name = f"evaluation-{re.sub(r'[^a-zA-Z0-9_.-]', '-', report.dataset)}-{split}.json"
    try:
        run = find(model)
        log_text(run.id, report.as_json(), name)
        click.echo(f"kept with run {run.id} as {name}")
    except RecsysError as error:
        click.echo(f"not kept with a run: {error}", err=True)


@click.command()
@click.argument("dataset", type=Folder)
@MODEL
@click.option("--k", default=20, show_default=True, type=click.IntRange(1, 1000), help="Items per list.")
@click.option("--out", type=Folder, required=True, callback=in_a_folder, help="Folder to write; it must not exist yet.")
@click.option(
    "--users", type=File, help="File of user ids (a table with user_id, or one id per line).  [default: all users]"
)
@click.option("--active-since", metavar="TIME", help="Only users with an event since, for example 2026-01-31.")
@click.option(
    "--where",
    multiple=True,
    metavar="CONDITION",
    help="Only items with NAME=VALUE, NAME>=NUMBER or NAME<=NUMBER; all conditions must hold, of several values of one NAME one.",
)
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["parquet", "csv", "jsonl"]),
    default="parquet",
    show_default=True,
    help="Kind of the files.",
)
@click.option(
    "--add", multiple=True, type=click.Choice(["title", "model", "written_at"]), help="A further column; repeatable."
)
@click.option("--explain", is_flag=True, help="Add reasons: the nearest items of the history, the strongest features.")
@click.option("--resume", is_flag=True, help="Continue a run that was stopped.")
def recommend(
    *,
    dataset: Path,
    model: str,
    k: int,
    out: Path,
    users: Path | None,
    active_since: str | None,
    where: tuple[str, ...],
    file_format: "Format",
    add: "tuple[Extra, ...]",
    explain: bool,
    resume: bool,
) -> None:
    """Write a ranked list for every user of DATASET.

    Writes the lists, as one file where they are few, and a _report.json, which also says what each column holds. The
    folder appears when all lists are complete. Many users are shared among the cores of this machine, or of the cluster
    at RAY_ADDRESS.

    \b
    Examples:
      recsys recommend shop --k 20 --out lists
      recsys recommend shop --k 20 --out lists --resume
      recsys recommend shop --out mail --format csv --add title --active-since 2026-01-31
      recsys recommend shop --out offers --where category=skincare --where "price<=100" --explain
    """
    require_dataset(dataset)
    from serving.batch import recommend_lists
    from serving.lists import FileOptions

    written = recommend_lists(
        dataset,
        model,
        k,
        out,
        where=where,
        explain=explain,
        users_file=users,
        active_since=active_since,
        files=FileOptions(file_format, add),
        resume=resume,
    )
    click.echo(f"{out}: {written.rows:,} rows, lists for {written.lists:,} of {written.users:,} users")
    if written.unknown:
        examples = ", ".join(written.unknown_examples)
        click.echo(
            f"  users without any event, who get what is popular and new: {written.unknown:,}, for example {examples}"
        )
    for reason, count in written.shorter.items():
        click.echo(f"  {count:,} with fewer than {k}: {reason}")
