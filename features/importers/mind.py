"""MIND: news impressions with click labels (`behaviors.tsv`, `news.tsv`).

In: a folder with both files, or with subfolders of train and dev, whose requests become the splits
train (its last day: valid) and test. Out: clicks and impressions by request; histories as clicks.

A history has no times: its clicks are placed a second apart before the user's first request.
Positions stay empty, since MIND shuffles the items of a list.
"""

from pathlib import Path

import polars as pl

from features.importers.base import Imported, Importer, find_file, scan_text
from recsys.errors import RecsysError
from recsys.events import DAY_US
from recsys.schema import DatasetInfo

NEWS = ["item_id", "category", "subcategory", "title", "description", "url", "title_entities", "abstract_entities"]
BEHAVIORS = ["impression", "user_id", "time", "history", "impressions"]
SECOND_US = 1_000_000
INFO = DatasetInfo(name="mind", source="MIND (Microsoft News)", licence="Microsoft Research License Terms")


class MindImporter(Importer):
    """Reads one or two parts of MIND."""

    name = "mind"
    description = "MIND news, a folder with behaviors.tsv and news.tsv, or with a train and a dev folder"

    def read(self, src: Path) -> Imported:
        parts = _parts(src)
        news = pl.concat([scan_text(find_file(part, ["news.tsv"], "news"), "\t", NEWS) for part in parts.values()])
        items = news.unique("item_id", keep="first", maintain_order=True).select(
            "item_id", "title", "description", "category", tags=pl.concat_list("subcategory")
        )
        behaviors = pl.concat([_requests(part, split) for split, part in parts.items()]).collect().lazy()
        events = pl.concat([_past(behaviors), _impressions(behaviors)])
        known = items.select("item_id").with_columns(known=True)
        joined = events.join(known, on="item_id", how="left", maintain_order="left").collect()
        lacking = joined.filter(pl.col("known").is_null())["item_id"]
        notes = []
        if len(lacking):
            notes.append(
                f"news ids in behaviors.tsv that news.tsv lacks: {lacking.n_unique():,} ids in {len(lacking):,} events, "
                f"left out, for example {lacking[0]}"
            )
        kept = joined.filter(pl.col("known")).drop("known")
        users, left = (
            frame.select(pl.col("user_id").n_unique()).collect().item() for frame in (behaviors, kept.lazy())
        )
        if left < users:
            notes.append(
                f"users without a single event on news that news.tsv has, left out: {users - left:,} of {users:,}"
            )
        if len(parts) == 1:
            return Imported(items, kept.drop("split").lazy(), None, INFO, notes)
        trained = pl.col("split") == "train"
        newest = pl.col("timestamp").filter(trained).max()
        late = trained & (pl.col("timestamp") > newest - DAY_US)
        split = pl.when(late).then(pl.lit("valid")).otherwise("split")
        info = INFO.model_copy(update={"split": "column"})
        return Imported(items, kept.with_columns(split=split).lazy(), None, info, notes)


def _parts(src: Path) -> dict[str, Path]:
    if (src / "behaviors.tsv").is_file():
        return {"train": src}
    folders = sorted(path for path in src.iterdir() if path.is_dir()) if src.is_dir() else []
    train = [path for path in folders if "train" in path.name.lower()]
    test = [path for path in folders if "dev" in path.name.lower()]
    if not (train and test):
        there = ", ".join(path.name for path in folders) or "no folders"
        raise RecsysError(f"{src}: no behaviors.tsv, nor folders named *train* and *dev*; found {there}")
    return {"train": train[0], "test": test[0]}


def _requests(part: Path, split: str) -> pl.LazyFrame:
    """Return a part's requests: request_id, user_id, timestamp, history, impressions, split."""
    path = find_file(part, ["behaviors.tsv"], "requests")
    time = pl.col("time").str.to_datetime("%m/%d/%Y %I:%M:%S %p", time_unit="us", strict=False)
    return scan_text(path, "\t", BEHAVIORS).select(
        "user_id",
        request_id=pl.concat_str(pl.lit(f"{split}-"), "impression"),
        timestamp=time.dt.timestamp("us"),
        history=pl.col("history").fill_null("").str.strip_chars().str.split(" "),
        impressions=pl.col("impressions").fill_null("").str.strip_chars().str.split(" "),
        split=pl.lit(split),
    )


def _past(behaviors: pl.LazyFrame) -> pl.LazyFrame:
    """Return the history of each user's first request as clicks before it."""
    first = behaviors.sort("timestamp", maintain_order=True).group_by("user_id", maintain_order=True).first()
    steps = pl.col("history").list.len().cast(pl.Int64)
    return (
        first.with_columns(back=pl.int_ranges(steps, 0, -1))
        .explode("history", "back")
        .filter(pl.col("history") != "")
        .select(
            "user_id",
            item_id="history",
            event_type=pl.lit("click"),
            timestamp=pl.col("timestamp") - pl.col("back") * SECOND_US,
            request_id=pl.lit(None, pl.String),
            split=pl.lit("train"),
        )
    )


def _impressions(behaviors: pl.LazyFrame) -> pl.LazyFrame:
    """Return the items of each request as clicks and impressions."""
    clicked = pl.col("impressions").str.ends_with("-1")
    return (
        behaviors.explode("impressions")
        .filter(pl.col("impressions") != "")
        .select(
            "user_id",
            item_id=pl.col("impressions").str.replace(r"-[01]$", ""),
            event_type=pl.when(clicked).then(pl.lit("click")).otherwise(pl.lit("impression")),
            timestamp="timestamp",
            request_id="request_id",
            split="split",
        )
    )
