"""`recsys evaluate`, `recsys recommend` and `recsys audience`: measure a model, and write its lists of items and of users."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from recsys.cli.common import MODEL, STORE, File, Folder, in_a_folder, require_dataset

if TYPE_CHECKING:
    from serving.audience import By
    from serving.lists import Extra, Format
    from serving.scenarios.definition import Scenario
    from training.evaluation.off_policy_report import OffPolicyReport
    from training.evaluation.report import Report
    from training.pictures.charts import Epochs
    from training.run_info import RunInfo


@click.command()
@click.argument("dataset", type=Folder)
@MODEL
@click.option(
    "--split", type=click.Choice(["valid", "test"]), default="test", show_default=True, help="Split to evaluate on."
)
@click.option("--json", "json_file", type=File, callback=in_a_folder, help="Write the report to this JSON file.")
@click.option("--html", "html_file", type=File, callback=in_a_folder, help="Write the report to this HTML page.")
@click.option("--baselines", is_flag=True, help="Measure the slow baselines as well: als and the frozen encoder.")
@click.option("--yardsticks", "baselines", is_flag=True, hidden=True)  # the name until 0.1
@click.option("--off-policy", is_flag=True, help="Estimate what the model would have brought at explored positions.")
@click.option("--against", help="With --off-policy: a second model to compare with.")
@click.option(
    "--top-share",
    default=0.25,
    show_default=True,
    type=click.FloatRange(0, 1, min_open=True),
    help="With --off-policy: the share of what a position was drawn from that a model would have drawn from.",
)
def evaluate(
    *,
    dataset: Path,
    model: str,
    split: str,
    json_file: Path | None,
    html_file: Path | None,
    baselines: bool,
    off_policy: bool,
    against: str | None,
    top_share: float,
) -> None:
    """Evaluate a model's lists on DATASET, with 95 % confidence intervals.

    With --off-policy, DATASET is an export with explored positions, and the figures are clicks and purchases that the
    model would have had there. The report of a registered model is kept with its MLflow run, too,
    with pictures and as a page.

    \b
    Examples:
      recsys evaluate shop --split test --baselines --json report.json
      recsys evaluate shop --baselines --html report.html
      recsys evaluate shop-2 --off-policy --model models:/recsys/2 --against models:/recsys@champion
    """
    from rich.console import Console

    _refuse_mixed(off_policy)
    require_dataset(dataset)
    if off_policy:
        from training.evaluation.explored import evaluate_off_policy
        from training.evaluation.off_policy_report import render_off_policy

        estimated = evaluate_off_policy(dataset, model, against, top_share)
        render_off_policy(estimated, Console())
        if json_file:
            estimated.write(json_file)
        run, _ = _run_of(model)
        if run:
            _keep(estimated, "off-policy", run, {})
        return
    from training.evaluation.registered import evaluate_model
    from training.evaluation.report import render
    from training.pictures.charts import pictures
    from training.pictures.page import as_files, report_page, write_page

    report = evaluate_model(dataset, model, split, baselines)
    render(report, Console())
    if json_file:
        report.write(json_file)
    run, epochs = _run_of(model)
    if not (run or html_file):
        return
    drawn = pictures(report, epochs)
    page = report_page(report, drawn, run.label if run else model)
    if html_file:
        write_page(page, html_file)
        click.echo(f"written to {html_file}")
    if run:
        _keep(report, split, run, as_files(page, drawn))


def _refuse_mixed(off_policy: bool) -> None:
    """Raise UsageError for options of the other kind of evaluation."""
    from recsys.errors import UsageError

    context = click.get_current_context()
    others = ("split", "baselines", "html_file") if off_policy else ("against", "top_share")
    given = [name for name in others if context.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE]
    if given:
        rule = "does not go with" if off_policy else "needs"
        option = given[0].removesuffix("_file").replace("_", "-")
        raise UsageError(f"--{option} {rule} --off-policy; see `recsys evaluate --help`")


def _run_of(model: str) -> "tuple[RunInfo | None, dict[str, Epochs]]":
    """Return the run of a registered `model` and the epochs of its fits; where there is none, say so: the report was printed."""
    from recsys.errors import RecsysError
    from training.tracking import find, read_epochs

    if not model.startswith("models:/"):
        return None, {}
    try:
        run = find(model)
        return run, read_epochs(run.id)
    except RecsysError as error:
        click.echo(f"not kept with a run: {error}", err=True)
        return None, {}


def _keep(report: "Report | OffPolicyReport", kind: str, run: "RunInfo", files: Mapping[str, bytes]) -> None:
    """Keep `report` with the `run` of its model, as JSON and in `files`; where that cannot be done, say so."""
    from recsys.errors import RecsysError
    from training.tracking import log_files, log_text

    name = f"evaluation-{re.sub(r'[^a-zA-Z0-9_.-]', '-', report.dataset)}-{kind}"
    try:
        log_text(run.id, report.as_json(), f"{name}.json")
        if files:
            log_files(run.id, files, name)
        click.echo(f"kept with run {run.id} as {name}.json" + (f", and with pictures in {name}/" if files else ""))
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
@click.option("--scenario", metavar="NAME", help="Make lists by this scenario, which is on in the store.")
@STORE
@click.option(
    "--scenario-file", type=File, help="Make lists by the scenario in this file (TOML or JSON); no store is read."
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
    scenario: str | None,
    store: str,
    scenario_file: Path | None,
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
      recsys recommend shop --out mail --scenario email --store sqlite:///shop.db
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
        scenario=_scenario(scenario, store, scenario_file),
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
    for note in written.notes:
        click.echo(f"  {note}")
    for reason, count in written.shorter.items():
        click.echo(f"  {count:,} with fewer than {k}: {reason}")


@click.command()
@click.argument("dataset", type=Folder)
@click.argument("items", metavar="ITEM...", nargs=-1, required=True)
@MODEL
@click.option("--k", default=1000, show_default=True, type=click.IntRange(1), help="Users per item.")
@click.option(
    "--by",
    type=click.Choice(["p_click", "p_purchase", "interest"]),
    default="p_click",
    show_default=True,
    help="What the users are sorted by.",
)
@click.option("--out", type=File, required=True, callback=in_a_folder, help="File to write: .csv, .jsonl or .parquet.")
def audience(*, dataset: Path, items: tuple[str, ...], model: str, k: int, by: "By", out: Path) -> None:
    """Write the users of DATASET who care most for each ITEM.

    Writes a row per item and user, best first, with the interest of the user, the probabilities of a click and of a
    purchase, and whether the user has seen the item. Users without any event are left out.

    \b
    Examples:
      recsys audience shop i000001 --k 500 --out audience.csv
      recsys audience shop i000001 i000002 --by p_purchase --out audience.parquet
    """
    require_dataset(dataset)
    from serving.audience import write_audience

    written = write_audience(dataset, model, items, k, by, out)
    click.echo(f"{out}: {written.height:,} rows, users for {written['item_id'].n_unique():,} items")


def _scenario(name: str | None, store: str, file: Path | None) -> "Scenario | None":
    """Return the scenario of the options, None where there is none."""
    from recsys.errors import UsageError
    from serving.scenarios.definition import read_scenario

    if name and file:
        raise UsageError("--scenario and --scenario-file are both given; keep one")
    if name is None:
        return read_scenario(file) if file else None
    from serving.scenarios.kept import active, active_scenario
    from serving.store.store import Store

    return active_scenario(active(Store(store)), name).scenario
