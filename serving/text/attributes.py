"""Attributes of items that a head finds in their texts: columns of a new dataset.

In: a `Tagger`, a dataset folder or items that are put. Out: the same, whose items have two more columns for each type of entity: what the text
says, and with which confidence.

A column that the items have already keeps its values, with confidence 1; its gaps are filled.
"""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from features.data.dataset import load_dataset
from features.texts.items import entity_texts
from recsys.atomic import atomic_folder
from recsys.errors import RecsysError
from serving.text.tokens import Found, Tagger

CONFIDENCE = "_confidence"
"""What the name of a column of confidences ends in."""
SETTINGS = "attributes.toml"
"""File of the new dataset: the configuration by which `recsys train` makes features of all confidences."""


def extract(tagger: Tagger, folder: Path, out: Path) -> dict[str, int]:
    """Write the dataset in `folder` with what `tagger` finds to `out`, complete or not at all; return the number of items with each attribute.

    Raises:
        RecsysError: the dataset is invalid, a column of an attribute's name holds no text, or `out` is not empty.
    """
    dataset = load_dataset(folder)
    items = with_attributes(dataset.items, tagger)
    kept = [name for name in items.columns if name not in dataset.items.columns or not items[name].is_null().all()]
    with atomic_folder(out) as temporary:
        path = temporary / "items.parquet"
        items.select(kept).write_parquet(path)
        # When the items were as they are is when their file was written.
        os.utime(path, ns=(dataset.items_as_of * 1000, dataset.items_as_of * 1000))
        others = [path for table, path in dataset.paths.items() if table != "items"]
        for other in (*others, *(folder / name for name in ("dataset.json", "truth.npz"))):
            if other.is_file():
                shutil.copy2(other, temporary / other.name)
            elif other.is_dir():
                shutil.copytree(other, temporary / other.name)
        names = [label + CONFIDENCE for label in labels(tagger)]
        (temporary / SETTINGS).write_text(f"[ranker]\nattributes = {json.dumps(names)}\n", "utf-8")
    return {label: int((items[label + CONFIDENCE] > 0).sum()) for label in labels(tagger)}


def labels(tagger: Tagger) -> list[str]:
    """Return the types of entities that `tagger` finds, sorted."""
    return sorted({tag[2:] for tag in tagger.tags if tag[2:]})


def with_attributes(items: pl.DataFrame, tagger: Tagger) -> pl.DataFrame:
    """Return `items` with the columns `TYPE` and `TYPE_confidence` of each type: of several entities of an item the surest.

    Raises:
        RecsysError: a column of that name holds no text.
    """
    found = tagger.found(entity_texts(items))
    for label in labels(tagger):
        if label in items.columns and items.schema[label] not in (pl.String, pl.Null):
            raise RecsysError(
                f"items: the column {label!r} holds {items.schema[label]}, and the model finds texts; rename the one or the other"
            )
        best = [max((one for one in row if one.label == label), key=_confidence, default=None) for row in found]
        values = pl.Series(label, [one.text if one else None for one in best], pl.String)
        sure = pl.Series(label + CONFIDENCE, [one.confidence if one else 0.0 for one in best], pl.Float64)
        if label in items.columns:
            given = items[label].cast(pl.String)
            known = given.is_not_null() & (given != "")
            values, sure = (
                values.zip_with(~known, given).alias(label),
                sure.zip_with(~known, sure * 0 + 1).alias(sure.name),
            )
        items = items.with_columns(values, sure)
    return items


def with_read_attributes(bodies: Sequence[dict[str, Any]], tagger: Tagger) -> list[dict[str, Any]]:
    """Return items, each as its columns, with what `tagger` finds in their texts; what one of them says of itself stays."""
    said = [{name: value for name, value in body.items() if value is not None} for body in bodies]
    columns = {
        name: [None if own.get(name) is None else str(own[name]) for own in said]
        for name in ("title", "description", *labels(tagger))
    }
    items = with_attributes(pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String)), tagger)
    rows = items.drop("title", "description").iter_rows(named=True)
    return [
        {name: value for name, value in row.items() if value is not None} | own
        for row, own in zip(rows, said, strict=True)
    ]


def _confidence(one: Found) -> float:
    return one.confidence
