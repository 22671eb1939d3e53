"""`recsys models`: which versions there are, which serves, and how that changes."""

import click

from recsys.cli.common import Commands, mlflow_names

ALIAS = click.option("--alias", default="champion", show_default=True, help="The name that servers and jobs follow.")


@click.group(cls=Commands)
def models() -> None:
    """List versions, promote one, go back, and see what changed."""


@models.command("list")
@mlflow_names
def list_models() -> None:
    """List the registered versions, newest first, with their aliases and figures on test.

    \b
    Example:
      recsys models list
    """
    from recsys.cli.runs import print_runs
    from training.run_list import runs

    registered = [run for run in runs(1000) if run.versions]
    if registered:
        print_runs(registered)
    else:
        click.echo("no version yet; next: recsys train DATASET")


@models.command()
@click.argument("version")
@ALIAS
@mlflow_names
@click.option(
    "--max-ms", type=click.FloatRange(0), metavar="MS", help="Refuse it where a list takes longer here, alone."
)
@click.option("--max-mib", type=click.FloatRange(0), metavar="MIB", help="Refuse it where its bundle is larger.")
@click.option(
    "--force", metavar="REASON", help="Promote it whatever the checks say; the reason is kept with the change."
)
def promote(version: str, alias: str, max_ms: float | None, max_mib: float | None, force: str | None) -> None:
    """Let the alias name VERSION, if it is not worse than the present one.

    Its bundle is verified, loaded and makes lists. On the same requests it must not be worse than the present version beyond the
    interval of the difference, overall or in a segment (`recsys runs compare`). Servers follow within seconds.

    \b
    Examples:
      recsys models promote 3
      recsys models promote 3 --alias challenger
      recsys models promote 3 --max-ms 20 --max-mib 500
      recsys models promote 3 --force "the data changed, see ticket 812"
    """
    from recsys.cli.runs import print_comparison
    from recsys.errors import RecsysError
    from training.promotion import MIB, MS, check
    from training.promotion import promote as move
    from training.tracking import find

    run = find(version)
    if alias in run.aliases:
        click.echo(f"{alias} is {version} already")
        return
    budgets = {name: most for name, most in ((MS, max_ms), (MIB, max_mib)) if most is not None}
    gate = check(run, alias, budgets)
    if gate.before and gate.comparison:
        print_comparison(gate.before.label, gate.comparison)
    for name, figure in gate.figures.items():
        click.echo(f"  {name}: {figure:.4g}")
    if gate.problems and not force:
        raise RecsysError(
            f"{gate.run.label} is not promoted: {'; '.join(gate.problems)}; --force REASON promotes it all the same"
        )
    change = move(gate, alias, force or "passed the checks")
    click.echo(f"{alias} is version {change.after} now, after {change.before or 'none'}; back: recsys models rollback")


@models.command()
@ALIAS
@mlflow_names
def rollback(alias: str) -> None:
    """Let the alias name the version that it named before its last change.

    \b
    Example:
      recsys models rollback
    """
    from training.promotion import roll_back

    change = roll_back(alias)
    click.echo(f"{alias} is version {change.after} again, after {change.before}")


@models.command()
@mlflow_names
def history() -> None:
    """Show every change of an alias: when, by whom, from which version to which, and why.

    \b
    Example:
      recsys models history
    """
    from rich import box
    from rich.table import Table

    from recsys.cli.runs import console
    from training.promotion import history as changes

    table = Table(box=box.SIMPLE_HEAD, padding=0)
    for name in ("when", "alias", "from", "to", "by", "why", "figures"):
        table.add_column(name)
    for change in changes():
        figures = ", ".join(f"{name} {figure:.4g}" for name, figure in change.figures.items())
        table.add_row(change.at, change.alias, change.before or "", change.after, change.by, change.why, figures)
    console().print(table)
