"""`recsys monitor`: whether what the API serves is still what its model was trained for."""

import json
import time
from pathlib import Path

import click

from recsys.cli.common import MODEL, STORE, File, in_a_folder


def _read_limits(ctx: click.Context, option: click.Parameter, texts: tuple[str, ...]) -> dict[str, float]:
    limits = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            limits[name.strip()] = float(value)
        except ValueError:
            raise click.BadParameter(f"{text}: write NAME=NUMBER, for example feature_psi=0.3") from None
    return limits


@click.command()
@MODEL
@STORE
@click.option(
    "--days", default=7.0, show_default=True, type=click.FloatRange(0, min_open=True), help="Days to look back."
)
@click.option(
    "--limit",
    "limits",
    multiple=True,
    metavar="NAME=NUMBER",
    callback=_read_limits,
    help="What a figure may be; repeatable.",
)
@click.option("--html", type=File, callback=in_a_folder, help="Write the report as a page that needs no network.")
@click.option("--json", "json_file", type=File, callback=in_a_folder, help="Write the report to this JSON file.")
@click.option("--metrics", type=File, callback=in_a_folder, help="Write the figures in Prometheus' text format.")
def monitor(
    model: str,
    store: str,
    days: float,
    limits: dict[str, float],
    html: Path | None,
    json_file: Path | None,
    metrics: Path | None,
) -> None:
    """Compare what the API served lately with what MODEL was trained on.

    Features and p(click) of the items listed, against those that the model would have listed for the latest requests that it knows; users and
    items that it does not know; clicks and purchases by version and position. Exits with 1 where a figure is beyond its limit, after writing the
    reports.

    \b
    Examples:
      recsys monitor --days 1
      recsys monitor --html monitor.html --metrics /var/lib/node_exporter/recsys.prom
      recsys monitor --limit feature_psi=0.5 --limit unknown_users=0.3
    """
    from rich.console import Console

    from recsys.atomic import atomic_file
    from recsys.errors import RecsysError
    from serving.monitor.report import render, write_metrics, write_page
    from serving.monitor.watch import limits_of, watch
    from serving.store.store import Store

    allowed = limits_of(limits)
    found = watch(model, Store(store), days, allowed, now=int(time.time() * 1e6))
    render(found, Console())
    if html:
        write_page(found, html)
    if metrics:
        write_metrics(found, metrics)
    if json_file:
        with atomic_file(json_file) as temporary:
            temporary.write_text(json.dumps(found.as_dict(), indent=1) + "\n", encoding="utf-8")
    if found.exceeded:
        raise RecsysError("; ".join(found.exceeded.values()))
