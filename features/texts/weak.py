"""Weak labels: what the catalogue's own columns say of some items, found again in these items' texts.

In: items, names of columns of text. Out: `TaggedTexts` of the items in whose text a value of theirs stands.

An item whose text says none of its values, or that has none, teaches nothing and is left out.
"""

import re

import polars as pl

from features.texts.items import entity_texts
from features.texts.spans import Span, tagged
from features.texts.tagged import LEAST, TaggedTexts
from recsys.errors import RecsysError, suggest


def weakly_tagged(items: pl.DataFrame, columns: tuple[str, ...], where: str) -> TaggedTexts:
    """Return the texts of `items` in which the values of `columns` are entities, each column a type.

    Raises:
        RecsysError: there is no such column, it holds other things than text, or its values stand in fewer than `LEAST` texts.
    """
    for name in columns:
        if name not in items.columns:
            raise RecsysError(f"{where}: the items have no column {name!r}{suggest(name, items.columns)}")
        if items.schema[name] != pl.String:
            raise RecsysError(f"{where}: the column {name!r} holds {items.schema[name]}; name columns of text")
    texts, counts = TaggedTexts([], []), dict.fromkeys(columns, 0)
    rows = items.select(columns).iter_rows(named=True)
    for text, values in zip(entity_texts(items), rows, strict=True):
        spans = _spans(text, {name: value for name, value in values.items() if (value or "").strip()})
        for name in {span.label for span in spans}:
            counts[name] += 1
        if spans:
            words, tags = tagged(text, spans)
            texts.words.append(words)
            texts.tags.append(tags)
    rare = [name for name, count in counts.items() if count < LEAST]
    if rare:
        raise RecsysError(
            f"{where}: values of {rare[0]!r} stand in the texts of {counts[rare[0]]:,} of {items.height:,} items; at least {LEAST} are needed"
        )
    return texts


def _spans(text: str, values: dict[str, str]) -> list[Span]:
    """Return where the `values` stand in `text` as whole words, in any letters, longer ones first and none over another."""
    spans: list[Span] = []
    for name, value in sorted(values.items(), key=lambda pair: -len(pair[1])):
        for match in re.finditer(rf"(?<!\w){re.escape(value.strip())}(?!\w)", text, re.IGNORECASE):
            if all(match.end() <= span.start or match.start() >= span.end for span in spans):
                spans.append(Span(match.start(), match.end(), name))
    return sorted(spans)
