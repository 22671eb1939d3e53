"""The opinion of the texts of events, as a column of theirs: `recsys text score`, and what `recsys serve --opinion` reads.

In: a head that tells positive texts, and a dataset folder or events. Out: a folder with the same tables, or the same events, with the column.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from features.data.formats import scan
from features.data.tables import find_tables
from features.texts.opinions import POSITIVE, named_label
from recsys.atomic import atomic_folder
from recsys.errors import RecsysError, suggest
from recsys.progress import Update
from serving.text.classes import Classifier

OPINION, TEXT = "opinion", "text"
AT_ONCE = 2048
"""Texts between two steps of the bar."""


def score_events(
    reader: Classifier,
    dataset: Path,
    out: Path,
    column: str,
    positive: str | None,
    update: Update = lambda share, note: None,
) -> tuple[int, int]:
    """Write `dataset` to the new folder `out` with the probability that the text in `column` of an event is positive.

    Returns how many events have one, and how many there are.

    Raises:
        RecsysError: there is no such column, the head tells no such label, or `out` is not empty.
    """
    label = named_label(reader.classes, positive, POSITIVE)
    tables = find_tables(dataset)
    events = scan(tables["events"]).collect()
    if column not in events.columns:
        raise RecsysError(
            f"{tables['events']}: no column {column!r}{suggest(column, events.columns)}; --column names the one of texts"
        )
    text = pl.col(column).cast(pl.String).str.strip_chars()
    texts = events.select(pl.when(text != "").then(text).alias(column)).to_series()
    distinct = texts.drop_nulls().unique(maintain_order=True)
    if not len(distinct):
        raise RecsysError(f"{tables['events']}: no event has a text in {column!r}; --column names the one of texts")
    values = [np.empty(0, np.float32)]
    for start in range(0, len(distinct), AT_ONCE):
        some = distinct[start : start + AT_ONCE].to_list()
        values.append(reader.probabilities(some)[:, reader.classes.index(label)])
        update(min(1.0, (start + AT_ONCE) / len(distinct)), f"{start + len(some):,} texts")
    opinions = texts.replace_strict(
        distinct, np.concatenate(values).astype(np.float64), default=None, return_dtype=pl.Float64
    )
    with atomic_folder(out) as folder:
        for path in sorted(dataset.iterdir()):
            if path.is_file() and path != tables["events"]:
                shutil.copy2(path, folder / path.name)
        events.with_columns(opinions.alias(OPINION)).write_parquet(folder / "events.parquet")
    return int(opinions.count()), events.height


def with_read_opinions(attributes: Sequence[dict[str, Any]], reader: Classifier, column: str) -> list[dict[str, Any]]:
    """Return the attributes of events, each with the opinion of its `text` in `column`; what an event says of itself stays."""
    rows = [row for row, own in enumerate(attributes) if isinstance(own.get(TEXT), str) and own.get(column) is None]
    if not rows:
        return list(attributes)
    positive = reader.classes.index(named_label(reader.classes, None, POSITIVE))
    values = reader.probabilities([attributes[row][TEXT] for row in rows])[:, positive]
    read = dict(zip(rows, values.tolist(), strict=True))
    return [own | {column: read[row]} if row in read else own for row, own in enumerate(attributes)]
