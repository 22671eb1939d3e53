"""The report of one evaluation: as tables for people, as JSON for programs.

In: metrics with intervals. Out: what `recsys evaluate` prints and `--json` writes.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console

from recsys.atomic import atomic_file
from recsys.metrics import Interval
from recsys.shown import table_of
from training.evaluation.details import Details
from training.evaluation.new_items import ALL, NewItems

HISTORY_BINS = ((0, 0, "no history"), (1, 2, "history 1-2"), (3, 9, "history 3-9"), (10, 1 << 30, "history 10+"))
"""The fewest and the most events before a request, and what requests between them are called."""


@dataclass(frozen=True)
class SourceRecall:
    """What a candidate source proposes at its quota."""

    quota: int
    recall: float
    """Share of the targets that it proposes."""
    alone: float
    """Share of the targets that no other source proposes."""


@dataclass(frozen=True)
class Report:
    """The figures of one evaluation."""

    dataset: str
    split: str
    n: int
    """Requests."""
    metrics: dict[str, Interval]
    lists: dict[str, Interval]
    """Properties of the lists themselves: coverage, novelty, diversity, popularity share."""
    segments: dict[str, dict[str, Any]]
    baselines: dict[str, dict[str, Interval]]
    differences: dict[str, Interval]
    """ndcg@10 above each baseline (the oracle is none), paired over users."""
    sources: dict[str, SourceRecall]
    """What each candidate source brings, and `all of them`."""
    new_items: dict[str, NewItems]
    """What becomes of items without events, by age."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Baselines that could not be fitted, and why."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Requests that are not measured, by reason."""
    requests: pl.DataFrame = field(default_factory=pl.DataFrame)
    """user (a number), time, history (events before), new_item (a target had no event) and the metrics of each request."""
    details: Details = field(default_factory=Details)
    """What pictures show beyond these figures; no part of `--json`."""

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain values, the form of `--json`."""
        baselines = {name: _plain(metrics) for name, metrics in self.baselines.items()}
        return {
            "dataset": self.dataset,
            "split": self.split,
            "n": self.n,
            "metrics": _plain(self.metrics | self.lists),
            "segments": {name: {"n": part["n"], **_plain(part["metrics"])} for name, part in self.segments.items()},
            "baselines": baselines,
            "yardsticks": baselines,  # the key until 0.1, readable for one release
            "differences": _plain(self.differences),
            "sources": {name: asdict(source) for name, source in self.sources.items()},
            "new_items": {name: asdict(part) for name, part in self.new_items.items()},
            "skipped": self.skipped,
            "left_out": self.left_out,
        }

    def flat(self) -> dict[str, float]:
        """Return the figures for MLflow, each under one name: those of the model with their intervals, ndcg@10 of the others."""
        figures = {}
        for name, interval in (self.metrics | self.lists).items():
            figures[f"test_{name}"] = interval.value
            if interval.low != interval.high:  # nothing was drawn where they are equal
                figures |= {f"test_{name}_low": interval.low, f"test_{name}_high": interval.high}
        others = {f"baseline/{name}": row["ndcg@10"] for name, row in self.baselines.items()}
        others |= {f"above/{name}": difference for name, difference in self.differences.items()}
        others |= {f"segment/{name}": part["metrics"]["ndcg@10"] for name, part in self.segments.items()}
        return figures | {f"{name}_ndcg@10": interval.value for name, interval in others.items()}

    @property
    def frame(self) -> pl.DataFrame:
        """The model and the baselines as a table: what, metric, value, low, high (of the 95 % interval)."""
        rows = {"this model": self.metrics | self.lists} | self.baselines
        return pl.DataFrame(
            [
                {"what": what, "metric": metric, **interval.as_dict()}
                for what, metrics in rows.items()
                for metric, interval in metrics.items()
            ],
            schema={"what": pl.String, "metric": pl.String, "value": pl.Float64, "low": pl.Float64, "high": pl.Float64},
        )

    def as_json(self) -> str:
        """Return the report as JSON."""
        return json.dumps(self.as_dict(), indent=1)

    def write(self, path: Path) -> None:
        """Write the report as JSON, whole or not at all."""
        with atomic_file(path) as temporary:
            temporary.write_text(self.as_json() + "\n", encoding="utf-8")


def render(report: Report, console: Console) -> None:
    """Print the report as tables."""
    title = f"{report.dataset}, split {report.split}, {report.n:,} requests, full ranking, 95 % intervals"
    names = ("hr@10", "ndcg@10", "recall@50")
    table = table_of(title, "", *names)
    table.add_row("[bold]this model[/]", *(f"[bold]{show(report.metrics[name])}[/]" for name in names))
    ordered = sorted(report.baselines.items(), key=lambda row: -row[1]["ndcg@10"].value)
    for name, metrics in ordered:
        table.add_row(name, *(show(metrics[metric]) for metric in names))
    console.print(table)
    for name, reason in report.skipped.items():
        console.print(f"{name} left out: {reason}")
    for reason, count in report.left_out.items():
        console.print(f"[yellow]left out: {count:,} {reason}[/]")
    if report.differences:
        best = min(report.differences, key=lambda name: report.differences[name].value)
        gap = report.differences[best]
        colour = "green" if gap.low > 0 else "red"
        verdict = "above" if gap.low > 0 else "not above"
        console.print(f"[{colour}]ndcg@10 is {verdict} the best baseline, {best}: difference {show(gap)}[/]")
    _render_rest(report, console)


def _render_rest(report: Report, console: Console) -> None:
    segments = table_of("by kind of target and of history", "", "requests", "hr@10", "ndcg@10")
    for name, part in report.segments.items():
        segments.add_row(name, f"{part['n']:,}", show(part["metrics"]["hr@10"]), show(part["metrics"]["ndcg@10"]))
    console.print(segments)
    render_new_items(report.new_items, console)
    sources = table_of("candidate sources", "", "quota", "recall at quota", "by it alone")
    for name, source in report.sources.items():
        sources.add_row(name, f"{source.quota}", f"{source.recall:.4f}", f"{source.alone:.4f}")
    console.print(sources)
    rest = table_of("other figures of this model", "", "this model")
    for name, interval in (report.metrics | report.lists).items():
        if name not in ("hr@10", "ndcg@10", "recall@50"):
            rest.add_row(name, show(interval))
    console.print(rest)


def render_new_items(groups: dict[str, NewItems], console: Console) -> None:
    """Print what becomes of new items, and a verdict where no list shows one."""
    table = table_of(
        "items without events, by age", "", "targets", "in the first 10", "share of targets", "share of lists"
    )
    for name, part in groups.items():
        shares = (f"{part.share_of_targets:.4f}", f"{part.share_of_lists:.4f}")
        table.add_row(name, f"{part.targets:,}", f"{part.found:,}", *shares)
    console.print(table)
    if groups[ALL].targets and not groups[ALL].share_of_lists:
        console.print("[red]no list shows an item without events in its first 10, though users chose such items[/]")


def show(interval: Interval) -> str:
    """Return a figure and its interval as text; the figure alone where it has none."""
    if interval.low == interval.high:
        return f"{interval.value:.4f}"
    low, high = (f"{bound:.3f}".removeprefix("0") for bound in (interval.low, interval.high))
    return f"{interval.value:.4f} \\[{low}, {high}]"


def _plain(metrics: dict[str, Interval]) -> dict[str, dict[str, float]]:
    return {name: interval.as_dict() for name, interval in metrics.items()}
