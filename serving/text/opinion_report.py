"""What `recsys text monitor` shows: tables, and metrics for Prometheus.

In: a `Watched`. Out: what is printed, a table of every series, a file of Prometheus' text format.
"""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
from prometheus_client import CollectorRegistry, Gauge, write_to_textfile
from rich.console import Console

from recsys.shown import table_of
from serving.text.opinion import SERIES, Watched

SHOWN = 15
"""Series that are printed."""


def series_table(watched: Watched, days: float) -> pl.DataFrame:
    """Return a row per series, the most alarming first: its `texts`, the share of `negative` ones that was `usual` and that of the last `days`, the sum over its limit, and whether it has an `alarm`."""
    counts = watched.counts
    last = max(1, round(24 * days / counts.hours))
    texts, negative = counts.texts[:, -last:].sum(1), counts.negative[:, -last:].sum(1)
    alarms = watched.latest(days).select(SERIES).unique().with_columns(alarm=True)
    table = counts.series.with_columns(
        texts=counts.texts.sum(1),
        usual=watched.usual[:, -1],
        lately=np.where(texts > 0, negative / np.maximum(texts, 1), np.nan),
        sum=watched.sums[:, -last:].max(1),
        enough=watched.charted,
    ).with_columns(pl.col("usual", "lately").fill_nan(None))
    joined = table.join(alarms, on=SERIES, how="left").with_columns(pl.col("alarm").fill_null(False))
    return joined.sort("alarm", "sum", "texts", descending=True)


def render(watched: Watched, days: float, console: Console) -> None:
    """Print the most alarming series, and the alarms."""
    table = series_table(watched, days)
    count = int(watched.charted.sum())
    console.print(
        f"{watched.counts.texts.sum():,} texts; {count:,} topics and items have enough of a past",
        highlight=False,
    )
    shown = table_of(
        f"share of negative texts, usual and of the last {days:g} day(s)",
        "",
        "texts",
        "usual",
        "lately",
        "sum / limit",
        "",
    )
    for by, name, texts, usual, lately, level, enough, alarm in table.head(SHOWN).iter_rows():
        shares = ["" if share is None else f"{share:.3f}" for share in (usual, lately)]
        state = "[red]alarm[/]" if alarm else "" if enough else "too few yet"
        shown.add_row(f"{by} {name}", f"{texts:,}", *shares, f"{level:.2f}", state)
    console.print(shown)
    if watched.episodes.height:
        alarms = table_of("alarms", "", "since", "until", "texts", "negative", "usual")
        for by, name, since, until, texts, negative, usual in (
            watched.episodes.sort("since", descending=True).head(SHOWN).iter_rows()
        ):
            alarms.add_row(
                f"{by} {name}", written(since), written(until), f"{texts:,}", f"{negative:.3f}", f"{usual:.3f}"
            )
        console.print(alarms)


def written(moment: int) -> str:
    """Return microseconds since 1970 as people write a time."""
    return f"{datetime.fromtimestamp(moment / 1e6, UTC):%Y-%m-%d %H:%M}"


def write_metrics(watched: Watched, days: float, path: Path) -> None:
    """Write each series as gauges in Prometheus' text format, for a collector of text files; the file is replaced at once."""
    registry = CollectorRegistry()
    gauges = {
        "usual": Gauge("recsys_text_negative_usual", "Usual share of negative texts.", SERIES, registry=registry),
        "lately": Gauge("recsys_text_negative_lately", "Share of negative texts lately.", SERIES, registry=registry),
        "sum": Gauge("recsys_text_sum", "Cumulated sum over its limit; 1 is an alarm.", SERIES, registry=registry),
        "alarm": Gauge("recsys_text_alarm", "1 where there is an alarm.", SERIES, registry=registry),
    }
    for row in series_table(watched, days).filter("enough").iter_rows(named=True):
        for name, gauge in gauges.items():
            if row[name] is not None:
                gauge.labels(row["by"], row["name"]).set(float(row[name]))
    write_to_textfile(str(path), registry)


def alarm_lines(watched: Watched, days: float) -> list[str]:
    """Return a line per alarm of the last `days`."""
    return [
        f"{row['by']} {row['name']}: {row['negative']:.0%} of {row['texts']:,} texts are negative, usual is {row['usual']:.0%}, since {written(row['since'])}"
        for row in watched.latest(days).iter_rows(named=True)
    ]
