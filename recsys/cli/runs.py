"""`recsys runs`: list trainings, show one, and say which is better."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from recsys.cli.common import Commands, File, in_a_folder, mlflow_names

if TYPE_CHECKING:
    from rich.console import Console

    from training.evaluation.compare import Comparison, Difference
    from training.run_info import RunInfo

SHOWN = ("ndcg@10", "hr@10", "recall@50")
SHOWN_TITLES = 5
WIDE = 200
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")


@click.group(cls=Commands)
def runs() -> None:
    """List trainings, show one, and say which is better."""


@runs.command("list")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1), help="Trainings to list.")
@AS_JSON
@mlflow_names
def list_runs(limit: int, as_json: bool) -> None:
    """List trainings, newest first, with their versions and figures on test.

    \b
    Example:
      recsys runs list --limit 50
    """
    from training.run_list import runs

    found = runs(limit)
    if as_json:
        click.echo(json.dumps([_plain(run) for run in found], indent=1))
    elif not found:
        click.echo("no training yet; next: recsys train DATASET")
    else:
        print_runs(found)


def print_runs(found: "list[RunInfo]") -> None:
    """Print trainings as a table."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=0)
    updates = ["from"] if any(run.updated_from for run in found) else []
    for name in ("run", "version", *updates, "alias", "started", "status", "data", "fit on", "seed", *SHOWN):
        table.add_column(name, justify="right" if name in SHOWN else "left", no_wrap=True)
    for run in found:
        figures = (f"{run.metrics[name]:.4f}" if name in run.metrics else "" for name in SHOWN)
        about = (run.dataset, run.parameters.get("fit_on", ""), run.parameters.get("seed", ""))
        started = run.started.strftime("%Y-%m-%d %H:%M")
        before = [_short(run.updated_from[0]) if run.updated_from else ""] if updates else []
        versions = ", ".join(run.versions)
        table.add_row(run.id[:8], versions, *before, ", ".join(run.aliases), started, run.status, *about, *figures)
    console().print(table)


@runs.command()
@click.argument("run")
@AS_JSON
@mlflow_names
def show(run: str, as_json: bool) -> None:
    """Show everything that is kept of a training.

    RUN is a version's number, an alias, a run's name, or the beginning of its id.

    \b
    Examples:
      recsys runs show champion
      recsys runs show 3 --json
    """
    from training.tracking import find

    found = find(run)
    if as_json:
        click.echo(json.dumps(_plain(found), indent=1))
        return
    click.echo(f"{found.label}, run {found.id} ({found.name}), {found.status}, {found.started:%Y-%m-%d %H:%M} UTC")
    click.echo(f"data: {found.dataset}, fingerprint {found.fingerprint}")
    if found.updated_from:
        click.echo(f"updated from: {' ← '.join(map(_short, found.updated_from))}")
    for title, rows in (("metrics", found.metrics), ("parameters", found.parameters)):
        click.echo(f"{title}:")
        for name in sorted(rows):
            click.echo(f"  {name:44} {rows[name]:.4f}" if title == "metrics" else f"  {name:44} {rows[name]}")


@runs.command()
@click.argument("run", nargs=-1, required=True)
@click.option("--examples", default=0, type=click.IntRange(0), help="Also show so many users whose lists changed most.")
@click.option("--force", is_flag=True, help="Compare runs on other data or requests, too, unpaired.")
@AS_JSON
@click.option(
    "--html", "html_file", type=File, callback=in_a_folder, help="Write the comparison to this HTML page, too."
)
@mlflow_names
def compare(run: tuple[str, ...], as_json: bool, force: bool, examples: int, html_file: Path | None) -> None:
    """Say of each further RUN whether it is better than the first.

    Differences are paired over the same requests of the same data, with intervals that allow for the number of differences looked
    at. A difference is real where its interval leaves out 0. Runs that differ in their seed alone are taken together: named beside
    those of another configuration, they count as one by their mean.

    \b
    Examples:
      recsys runs compare champion 4 --examples 3
      recsys runs compare 1 2 3 4 5 6
      recsys runs compare 2 3 4 --json
      recsys runs compare champion 4 --html comparison.html
    """
    from recsys.errors import UsageError
    from training.evaluation.compare import Evaluated, pool_seeds
    from training.evaluation.compare import compare as compare_runs
    from training.tracking import find, read_requests

    if len(run) < 2:
        raise UsageError(f"runs compare {run[0]}: name at least two runs; `recsys runs list` shows them")
    first, *others = pool_seeds([Evaluated(found, read_requests(found)) for found in map(find, run)])
    comparisons = compare_runs(first, others, force=force)
    if html_file:
        from training.pictures.page import comparison_page, write_page

        write_page(comparison_page(first, comparisons), html_file)
        click.echo(f"written to {html_file}", err=True)
    if as_json:
        click.echo(json.dumps([_plain_comparison(one) for one in comparisons], indent=1))
        return
    for one in comparisons:
        print_comparison(first.label, one)
        if examples:
            _print_examples(first.run, one.run, examples)


@runs.command()
@click.option("--port", default=5000, show_default=True, type=click.IntRange(1, 65535), help="Port to listen on.")
@mlflow_names
def ui(port: int) -> None:
    """Show the trainings in MLflow's pages.

    Prints the address of the list of trainings with their figures, and serves it until Ctrl-C; where MLFLOW_TRACKING_URI names a
    server, that one has it.

    \b
    Examples:
      recsys runs ui
      recsys runs ui --port 5001
    """
    import subprocess

    from training.tracking import view_address

    store, address = view_address()
    if store.startswith("http"):
        click.echo(f"{store}{address}")
        return
    click.echo(f"http://127.0.0.1:{port}{address}")
    server = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", store, "--port", str(port)]
    sys.exit(subprocess.run(server, check=False).returncode)


def print_comparison(first: str, one: "Comparison") -> None:
    """Print how much a run is above the first."""
    from rich import box
    from rich.table import Table

    table = Table(title=f"{one.label} against {first}", box=box.SIMPLE_HEAD, title_justify="left", padding=0)
    for name in ("", "requests", "difference", ""):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    for name, difference in (one.metrics | {f"ndcg@10, {part}": value for part, value in one.segments.items()}).items():
        table.add_row(name, f"{difference.requests:,}", _interval(difference), _verdict(difference))
    console().print(table)
    if not one.paired:
        console().print("not the same requests: the differences are not paired, and those between the data are in them")
    if not any(difference.real for difference in (*one.metrics.values(), *one.segments.values())):
        console().print("no difference is real: choose by something else, or measure on more requests")
    for name, (before, after) in one.parameters.items():
        console().print(f"  {name}: {before or 'not set'} → {after or 'not set'}", highlight=False)


def _print_examples(first: "RunInfo", other: "RunInfo", count: int) -> None:
    """Print users whose lists changed most; what is new in a list has a plus."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from serving.model import Model
    from training.evaluation.examples import most_changed
    from training.tracking import version_of

    changed = most_changed(Model(version_of(first)), Model(version_of(other)), count)
    table = Table(title="users whose lists changed most", box=box.SIMPLE_HEAD, title_justify="left", show_lines=True)
    for name in ("user", "did last", first.label, other.label):
        table.add_column(name)
    for one in changed:
        after = [f"{' ' if item in one.before else '+'} {title}" for item, title in one.after.items()]
        columns = (one.history, list(one.before.values()), after)
        cells = ("\n".join(titles[:SHOWN_TITLES]) for titles in columns)
        table.add_row(*map(Text, (f"{one.user_id}\n{one.shared} of {len(one.after)} stay", *cells)))
    console().print(table)


def _interval(difference: "Difference") -> str:
    interval = difference.interval
    return f"{interval.value:+.4f} \\[{interval.low:+.4f}, {interval.high:+.4f}]"


def _verdict(difference: "Difference") -> str:
    if not difference.real:
        return ""
    return "[red]worse[/]" if difference.worse else "[green]better[/]"


def console() -> "Console":
    """Return a console; where nobody reads it in a terminal, it is wide enough for every column."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=WIDE)


def _short(model: str) -> str:
    """Return the number of a version of the registered model, and any other model as it is."""
    from recsys import names

    return model.removeprefix(names.version_name(""))


def _plain(run: "RunInfo") -> dict[str, object]:
    from dataclasses import asdict

    return asdict(run) | {"started": run.started.isoformat()}


def _plain_comparison(one: "Comparison") -> dict[str, object]:
    def plain(differences: "dict[str, Difference]") -> dict[str, object]:
        return {
            name: {"requests": part.requests, **part.interval.as_dict(), "real": part.real}
            for name, part in differences.items()
        }

    return {
        "run": one.run.id,
        "label": one.label,
        "paired": one.paired,
        "metrics": plain(one.metrics),
        "segments": plain(one.segments),
        "parameters": {name: {"first": pair[0], "this": pair[1]} for name, pair in one.parameters.items()},
    }
