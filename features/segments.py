"""Item texts cut into segments, each of which says one thing.

In: the catalogue. Out: `Segments`: the title, brand and category, each tag and each clause of the description, every
distinct text once, however many items share it; and the item's whole text.

A mean over a whole text drowns what one clause says among delivery, guarantee and the product's name; a segment has a
vector of its own (`recsys.models.taste`).

Shapes: N items, M distinct segments, E pairs of item and segment.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

from recsys.arrays import Ints, offsets_of
from recsys.models.taste import KINDS

TITLE, BRAND, TAG, CLAUSE, WHOLE = range(len(KINDS))

CLAUSES = re.compile(r"[.!?;:]+\s+|[。！？；，、،؛؟।]+|,\s+|\s[-–—|/]\s|[\n()\[\]]|\s(?:and|und|et|y|e)\s")
"""Ends of sentences and clauses, of scripts with other full stops as well; a full stop within a number is none."""

MOST_CLAUSES = 10
"""Clauses of a description that are read, the first ones."""

MOST_TAGS = 6
MOST_CHARACTERS = 200
"""Of a segment; its encoder reads `SEGMENT_TOKENS` of it."""

SEGMENT_TOKENS = 32


@dataclass(frozen=True)
class Segments:
    """The segments of N items; item i has the pairs `offsets[i]:offsets[i + 1]`."""

    texts: list[str]
    """M distinct texts."""
    rows: Ints
    """`[E]` row of `texts` of each pair; M + i is the whole text of item i."""
    kinds: Ints
    """`[E]` index of `KINDS`."""
    offsets: Ints
    """`[N + 1]`"""


def cut(items: pl.DataFrame) -> Segments:
    """Return the segments of `items`."""
    columns = items.select("title", "brand", "category", "tags", "description")
    numbers: dict[str, int] = {}
    pairs, counts = [], []
    for values in columns.iter_rows():
        found = list(_segments(*values))
        pairs += [*((numbers.setdefault(text, len(numbers)), kind) for kind, text in found), (0, WHOLE)]
        counts.append(len(found) + 1)
    table = np.array(pairs, np.int64).reshape(-1, 2)
    rows, kinds = table[:, 0], table[:, 1]
    rows[kinds == WHOLE] = len(numbers) + np.arange(items.height)
    return Segments(list(numbers), rows, kinds, offsets_of(np.array(counts, np.int64)))


def _segments(
    title: str, brand: str | None, category: str | None, tags: list[str] | None, description: str | None
) -> Iterator[tuple[int, str]]:
    """Yield kind and text of each segment of an item."""
    yield TITLE, title[:MOST_CHARACTERS]
    if brand or category:
        yield BRAND, " ".join(part for part in (brand, category) if part)[:MOST_CHARACTERS]
    named = [tag for tag in (tags or [])[:MOST_TAGS] if tag]
    for tag in named:
        yield TAG, tag[:MOST_CHARACTERS]
    for clause in _clauses(description or "", named):
        yield CLAUSE, clause


def _clauses(description: str, tags: list[str]) -> list[str]:
    """Return the clauses of `description`, without the words of the item's own tags, which say nothing new."""
    parts = CLAUSES.split(description[: MOST_CLAUSES * MOST_CHARACTERS])
    if tags:
        # Longer tags first, as `lamp shade` before `lamp`; a tag may end in a sign, as `c++`, where no word ends.
        names = "|".join(map(re.escape, sorted(tags, key=len, reverse=True)))
        own = re.compile(rf"(?<!\w)(?:(?:this|the|a|an)\s)?(?:{names})(?!\w)", re.IGNORECASE)
        parts = [own.sub("", part) for part in parts]
    kept = [part.strip(" \t'\"*•.,;:-")[:MOST_CHARACTERS] for part in parts]
    return [part for part in kept if len(part) > 2][:MOST_CLAUSES]
