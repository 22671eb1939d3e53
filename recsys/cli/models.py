"""`recsys evaluate` and `recsys recommend`: measure a model, and write its lists."""

from pathlib import Path

import click

from recsys.cli.common import MODEL, File, Folder, in_a_folder, require_dataset


@click.command()
@click.argument("dataset", type=Folder)
@MODEL
@click.option(
    "--split", type=click.Choice(["valid", "test"]), default="test", show_default=True, help="Split to evaluate on."
)
@click.option("--json", "json_file", type=File, callback=in_a_folder, help="Write the report to this JSON file.")
@click.option("--baselines", is_flag=True, help="Also fit and evaluate the baselines.")
@click.option("--yardsticks", "baselines", is_flag=True, hidden=True)  # the name until 0.1
def evaluate(dataset: Path, model: str, split: str, json_file: Path | None, baselines: bool) -> None:
    """Evaluate a model's lists on DATASET, with 95 % confidence intervals.

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


@click.command()
@click.argument("dataset", type=Folder)
@MODEL
@click.option("--k", default=20, show_default=True, type=click.IntRange(1, 1000), help="Items per list.")
@click.option("--out", type=Folder, required=True, callback=in_a_folder, help="Folder to write; it must not exist yet.")
@click.option(
    "--users", type=File, help="File of user ids (a table with user_id, or one id per line).  [default: all users]"
)
@click.option("--resume", is_flag=True, help="Continue a run that was stopped.")
def recommend(dataset: Path, model: str, k: int, out: Path, users: Path | None, resume: bool) -> None:
    """Write a ranked list for every user of DATASET.

    Writes Parquet files and a _report.json. The folder appears when all lists are complete. The work runs on Ray:
    on the cluster at RAY_ADDRESS, or on all cores of this machine.

    \b
    Examples:
      recsys recommend shop --k 20 --out lists
      recsys recommend shop --k 20 --out lists --resume
    """
    require_dataset(dataset)
    from serving.batch import recommend_lists

    written = recommend_lists(dataset, model, k, out, users, resume)
    click.echo(f"{out}: {written.rows:,} rows, lists for {written.lists:,} of {written.users:,} users")
    if written.unknown:
        examples = ", ".join(written.unknown_examples)
        click.echo(
            f"  users without any event, who get what is popular and new: {written.unknown:,}, for example {examples}"
        )
    for reason, count in written.shorter.items():
        click.echo(f"  {count:,} with fewer than {k}: {reason}")
