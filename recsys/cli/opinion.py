"""`recsys text monitor`: whether the opinion of a topic or an item leaves what its own past explains."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from recsys.cli.common import File, Folder, in_a_folder

if TYPE_CHECKING:
    import polars as pl


@click.command()
@click.argument("table", type=File)
@click.option(
    "--model", default="models:/sentiment@champion", show_default=True, help="Text head that reads column text."
)
@click.option("--negative", metavar="LABEL", help="Label of negative texts.  [default: negative or 0]")
@click.option(
    "--false-alarms",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0.001, 1000),
    help="False alarms a month, all series together.",
)
@click.option(
    "--days",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0, min_open=True),
    help="Alarms of the last days count.",
)
@click.option(
    "--out", type=File, callback=in_a_folder, help="File for a table of every series (.parquet, .csv or .jsonl)."
)
@click.option("--picture", type=File, callback=in_a_folder, help="Draw the most alarming series to this PNG.")
@click.option("--metrics", type=File, callback=in_a_folder, help="Write the figures in Prometheus' text format.")
def monitor(
    *,
    table: Path,
    model: str,
    negative: str | None,
    false_alarms: float,
    days: float,
    out: Path | None,
    picture: Path | None,
    metrics: Path | None,
) -> None:
    """Watch the share of negative texts by topic and item, and exit with 1 where it rises beyond what its own past explains.

    TABLE has the columns timestamp, topic or item_id or both, and text, which the head MODEL reads. Where a head has read it already, it has label or
    negative instead. Reports are written before the exit.

    \b
    Examples:
      recsys text monitor comments.csv --picture opinion.png
      recsys text monitor comments.csv --false-alarms 0.5 --metrics /var/lib/node_exporter/opinion.prom
    """
    from features.texts.opinions import SCORED, by_series, negative_of, read_opinions
    from recsys.atomic import atomic_file
    from recsys.cli.runs import console
    from recsys.errors import RecsysError
    from serving.text.opinion import counted, watch_opinion
    from serving.text.opinion_report import alarm_lines, render, series_table, write_metrics
    from serving.text.tables import require_known_kind, write_table

    if out:
        require_known_kind(out)
    texts = read_opinions(table)
    if not any(name in texts.columns for name in SCORED):
        texts = texts.with_columns(_read(model, texts["text"].to_list()))
    texts = by_series(texts.with_columns(negative_of(texts, negative).alias("negative")))
    watched = watch_opinion(counted(texts), false_alarms)
    render(watched, days, console())
    if out:
        write_table(series_table(watched, days), out)
    if metrics:
        write_metrics(watched, days, metrics)
    if picture:
        from training.pictures.opinion import opinion_picture

        with atomic_file(picture) as temporary:
            temporary.write_bytes(opinion_picture(watched, days).png)
    lines = alarm_lines(watched, days)
    if lines:
        raise RecsysError("; ".join(lines))


@click.command()
@click.argument("model")
@click.argument("dataset", type=Folder)
@click.option("--out", type=Folder, required=True, help="Dataset folder to write; new or empty.")
@click.option("--column", default="text", show_default=True, help="Column of the events with their texts.")
@click.option("--positive", metavar="LABEL", help="Label of positive texts.  [default: positive or 1]")
def score(model: str, dataset: Path, out: Path, column: str, positive: str | None) -> None:
    """Write DATASET with the opinion of each event's text, by the text head MODEL, to --out.

    The column opinion holds the probability that the text is positive, null without a text. `recsys train --set ranker.opinion=opinion` makes its mean, count and
    trend by item features of the ranker, each as of the request.

    \b
    Example:
      recsys text score models:/sentiment@champion shop --column comment --out shop-scored
    """
    from recsys.cli.common import require_dataset
    from recsys.progress import stage
    from recsys.registry import bundle_folder
    from serving.text.classes import Classifier
    from serving.text.loading import load_reader
    from serving.text.score import score_events

    require_dataset(dataset)
    reader = load_reader(bundle_folder(model, "MODEL"), "classes")
    assert isinstance(reader, Classifier)
    with stage(f"reading the texts of {dataset}") as update:
        scored, total = score_events(reader, dataset, out, column, positive, update)
    click.echo(f"{out}: {scored:,} of {total:,} events have an opinion")
    click.echo(f"next: recsys train {out} --set ranker.opinion=opinion")


def _read(model: str, texts: list[str]) -> "pl.Series":
    """Return the label of each text by a head."""
    from recsys.registry import bundle_folder
    from serving.text.loading import load_reader

    return load_reader(bundle_folder(model), "classes").table(texts)["label"]
