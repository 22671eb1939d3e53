"""The report of `recsys monitor`: as tables, as a page without network, as metrics.

In: a `Watch`. Out: what is printed, an HTML file, a file of Prometheus' text format.
"""

from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, write_to_textfile
from rich.console import Console

from recsys.atomic import atomic_file
from recsys.metrics import Interval
from recsys.shown import table_of, templates_of
from serving.monitor.watch import MEANING, Watch

SHOWN = 10
"""Features that are printed; the page has all."""


def render(watch: Watch, console: Console) -> None:
    """Print a watch as tables."""
    console.print(f"{watch.model}: {watch.lists:,} lists of the last {watch.days:g} days", highlight=False)
    figures = table_of("figures", "", "value", "limit", "")
    for name, value in watch.figures.items():
        limit = f"{watch.limits[name]:g}" if name in watch.limits else ""
        figures.add_row(MEANING[name], f"{value:.4f}", limit, "[red]too much[/]" if name in watch.exceeded else "")
    console.print(figures)
    if watch.drifts:
        drifts = table_of(
            f"features that drifted most, {watch.described:,} lists described", "", "PSI", "mean before", "now"
        )
        for drift in watch.drifts[:SHOWN]:
            drifts.add_row(drift.feature, f"{drift.psi:.3f}", f"{drift.before:.3f}", f"{drift.now:.3f}")
        console.print(drifts)
    else:
        console.print("too few lists of known users to speak of drift")
    for title, rows in (("by model", watch.by_model), ("by position", watch.by_position)):
        table = table_of(title, "", "shown", "click-through", "purchases")
        for row in rows:
            table.add_row(row.what, f"{row.shown:,}", _interval(row.clicks), _interval(row.purchases))
        console.print(table)


def write_page(watch: Watch, path: Path) -> None:
    """Write a watch as one HTML page that needs no network."""
    page = templates_of("serving.monitor", ".").get_template("page.html").render(watch=watch, meaning=MEANING)
    with atomic_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def write_metrics(watch: Watch, path: Path) -> None:
    """Write the figures as gauges in Prometheus' text format, for a collector of text files; the file is replaced at once."""
    registry = CollectorRegistry()
    value = Gauge("recsys_monitor_value", "A figure of recsys monitor.", ["figure", "model"], registry=registry)
    limit = Gauge("recsys_monitor_limit", "What the figure may be.", ["figure", "model"], registry=registry)
    psi = Gauge("recsys_monitor_feature_psi", "Drift of a ranking feature.", ["feature", "model"], registry=registry)
    for name, figure in watch.figures.items():
        value.labels(name, watch.model).set(figure)
    for name, most in watch.limits.items():
        limit.labels(name, watch.model).set(most)
    for drift in watch.drifts:
        psi.labels(drift.feature, watch.model).set(drift.psi)
    shown = Gauge("recsys_monitor_lists", "Lists in the time looked at.", ["model"], registry=registry)
    shown.labels(watch.model).set(watch.lists)
    write_to_textfile(str(path), registry)


def _interval(interval: Interval) -> str:
    return f"{interval.value:.4f} \\[{interval.low:.4f}, {interval.high:.4f}]"
