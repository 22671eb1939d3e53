"""Read and write JSONL with spans: a text a line, and where in it entities are.

In: lines `{"text": "red shoe", "spans": [{"start": 0, "end": 3, "label": "colour"}]}`, where `start` and `end` count characters; or
`{"words": ["red", "shoe"], "tags": ["B-colour", "O"]}`. Out: `TaggedTexts`.

A span that ends within a word takes the whole word.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from features.data.formats import check_utf8
from features.texts.tagged import Entity, TaggedTexts, begun, is_tag, tags_of
from recsys.atomic import atomic_file
from recsys.errors import RecsysError
from recsys.text.words import spelt


class Span(NamedTuple):
    """Characters of a text that are an entity."""

    start: int
    end: int
    """Offset after its last character."""
    label: str


class _WrongError(Exception):
    """What is wrong with a line."""


def read_spans(path: Path) -> TaggedTexts:
    """Return the texts of a file.

    Raises:
        RecsysError: a line is not of this form, or its labels do not fit its text.
    """
    check_utf8(path)
    texts, wrong, count = TaggedTexts([], []), [], 0
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), 1):
        if not line.strip():
            continue
        count += 1
        try:
            words, tags = _read(line)
        except _WrongError as problem:
            wrong.append(f"line {number}: {problem}")
            continue
        texts.words.append(words)
        texts.tags.append(tags)
    if wrong:
        raise RecsysError(f"{path}: {len(wrong):,} of {count:,} lines are wrongly labelled, for example {wrong[0]}")
    return texts


def write_spans(path: Path, texts: Sequence[str], spans: Sequence[Sequence[Span]]) -> None:
    """Write the texts with their spans, complete or not at all."""
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for text, own in zip(texts, spans, strict=True):
            row = {"text": text, "spans": [span._asdict() for span in own]}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def tagged(text: str, spans: Sequence[Span]) -> tuple[list[str], list[str]]:
    """Return the words of `text` and their tags; `spans` do not overlap."""
    cut = spelt(text)
    found = []
    for start, end, label in spans:
        own = [index for index in range(len(cut.words)) if cut.starts[index] < end and cut.stops[index] > start]
        if own:
            found.append(Entity(label, own[0], own[-1] + 1))
    return cut.words, tags_of(found, len(cut.words))


def _read(line: str) -> tuple[list[str], list[str]]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise _WrongError(f"not JSON ({error.msg})") from error
    if isinstance(row, dict) and "words" in row and "tags" in row:
        return _of_words(row["words"], row["tags"])
    if isinstance(row, dict) and isinstance(row.get("text"), str) and isinstance(row.get("spans"), list):
        return tagged(row["text"], list(_spans(row["text"], row["spans"])))
    raise _WrongError(f"{line[:60]!r} has not the keys text and spans, or words and tags")


def _of_words(words: Any, tags: Any) -> tuple[list[str], list[str]]:
    if not all(isinstance(part, list) and all(isinstance(one, str) for one in part) for part in (words, tags)):
        raise _WrongError("words and tags are not lists of texts")
    if len(words) != len(tags):
        raise _WrongError(f"{len(words)} words and {len(tags)} tags; give each word its tag")
    empty = [index for index, word in enumerate(words) if not word.strip()]
    if empty:
        raise _WrongError(f"word {empty[0] + 1} is empty; remove it and its tag")
    unknown = [tag for tag in tags if not is_tag(tag)]
    if unknown:
        raise _WrongError(f"the tag {unknown[0]!r} is not of BIO; write O, B-TYPE or I-TYPE")
    return words, begun(tags)


def _spans(text: str, rows: list[Any]) -> Iterator[Span]:
    """Yield the spans of `rows`, in order."""
    if not all(_is_span(row) for row in rows):
        raise _WrongError('a span is not like {"start": 0, "end": 3, "label": "colour"}')
    last = 0
    for span in sorted(Span(row["start"], row["end"], row["label"]) for row in rows):
        if not 0 <= span.start < span.end <= len(text) or not text[span.start : span.end].strip():
            raise _WrongError(
                f"the span {span.start} to {span.end} is not within the {len(text)} characters of {text[:40]!r}"
            )
        if span.start < last:
            raise _WrongError(f"the span {span.start} to {span.end} overlaps with another; keep one")
        last = span.end
        yield span


def _is_span(row: Any) -> bool:
    """Return whether `row` has the keys of a span, with values of their kinds."""
    if not isinstance(row, dict) or not all(type(row.get(key)) is int for key in ("start", "end")):
        return False
    return isinstance(row.get("label"), str) and bool(row["label"].strip())
