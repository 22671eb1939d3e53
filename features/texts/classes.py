"""Texts with classes, from a file.

In: `.csv`, `.tsv`, `.jsonl` or `.parquet` with the columns `text` and `label`, or `labels` where a text may have several (a list, or
`|` between them); or `.tsv` without names, of text and label. Out: `LabelledTexts`.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from features.data.formats import kind_of, scan
from recsys.errors import RecsysError

TEXT, LABEL, LABELS = "text", "label", "labels"
BETWEEN = "|"
LEAST = 5
"""Texts that each class needs, so that each part of the split can have one."""
SHOWN = 60


@dataclass(frozen=True)
class LabelledTexts:
    """N texts with their classes."""

    texts: list[str]
    labels: list[tuple[str, ...]]
    """The classes of each text."""
    multi: bool
    """Whether a text may have several classes, or none."""

    @property
    def classes(self) -> list[str]:
        """The names of the classes, sorted."""
        return sorted({label for labels in self.labels for label in labels})


def read_classes(path: Path, least: int = LEAST) -> LabelledTexts:
    """Return the texts of a file with their classes.

    Raises:
        RecsysError: the file is not of these columns, a text or label is empty, there is one class alone, or a class has fewer than
            `least` texts.
    """
    frame = _read(path)
    multi = LABELS in frame.columns
    texts = frame[TEXT].to_list()
    labels: list[tuple[str, ...]] = (
        [tuple(row) for row in frame[LABELS].to_list()] if multi else [(label,) for label in frame[LABEL].to_list()]
    )
    _refuse(path, [row for row, text in enumerate(texts) if not (text or "").strip()], "have no text", texts, labels)
    empty = [row for row, names in enumerate(labels) if not all((name or "").strip() for name in names)]
    _refuse(path, empty, "have no label", texts, labels)
    counts = Counter(label for names in labels for label in names)
    if len(counts) < (1 if multi else 2):
        raise RecsysError(
            f"{path}: {len(counts)} class among {len(texts):,} texts ({next(iter(counts), 'none')!r}); label texts of others, too"
        )
    rare = sorted(name for name, count in counts.items() if count < least)
    if rare:
        raise RecsysError(
            f"{path}: {len(rare)} of {len(counts)} classes have fewer than {least} texts, for example {rare[0]!r} with {counts[rare[0]]}; "
            "label more texts of them, or merge them with others"
        )
    return LabelledTexts(texts, labels, multi)


def _read(path: Path) -> pl.DataFrame:
    """Return the columns `text` and `label` or `labels`, as text and lists of text."""
    if not path.is_file():
        raise RecsysError(f"{path}: no such file; give one with a text and a label in each row")
    frame = scan(path).collect()
    if kind_of(path) == "tsv" and frame.width == 2 and TEXT not in frame.columns:
        first = pl.DataFrame([frame.columns], schema=frame.columns, orient="row")
        frame = pl.concat([first, frame]).rename(dict(zip(frame.columns, (TEXT, LABEL), strict=True)))
    label = LABELS if LABELS in frame.columns else LABEL
    missing = [name for name in (TEXT, label) if name not in frame.columns]
    if missing:
        raise RecsysError(
            f"{path}: no column {missing[0]!r} among {', '.join(frame.columns)}; name the columns {TEXT} and {LABEL}, or {LABELS} for several classes a text"
        )
    frame = frame.select(TEXT, label)
    if label == LABEL:
        return frame.cast(pl.String)
    if frame.schema[LABELS] == pl.String:
        split = pl.col(LABELS).fill_null("").str.split(BETWEEN)
        frame = frame.with_columns(pl.when(pl.col(LABELS).fill_null("") == "").then([]).otherwise(split).alias(LABELS))
    return frame.cast({TEXT: pl.String, LABELS: pl.List(pl.String)}).with_columns(pl.col(LABELS).fill_null([]))


def _refuse(path: Path, rows: list[int], problem: str, texts: list[str], labels: list[tuple[str, ...]]) -> None:
    if rows:
        example = f"row {rows[0] + 1}, {(texts[rows[0]] or '')[:SHOWN]!r} with {labels[rows[0]]!r}"
        raise RecsysError(
            f"{path}: {len(rows):,} of {len(texts):,} rows {problem}, for example {example}; complete or remove them"
        )
