"""Texts in which words are tagged: what token heads learn from.

In: a file of CoNLL columns or JSONL. Out: `TaggedTexts`, in BIO: `B-TYPE` begins an entity, `I-TYPE` continues it, `O` is outside.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from recsys.arrays import Ints
from recsys.errors import RecsysError

OUTSIDE, BEGINS, CONTINUES = "O", "B-", "I-"
LEAST = 5
"""Texts that a file needs, so that each part of a split has one."""


class Entity(NamedTuple):
    """Words that are one thing."""

    label: str
    """Its type."""
    start: int
    """Index of its first word."""
    stop: int
    """Index after its last word."""


@dataclass(frozen=True)
class TaggedTexts:
    """N texts as words, each with its tag."""

    words: list[list[str]]
    tags: list[list[str]]
    """A tag for each word."""

    def __len__(self) -> int:
        return len(self.words)

    @property
    def labels(self) -> list[str]:
        """The types of entities, sorted."""
        return sorted({tag[2:] for tags in self.tags for tag in tags if tag != OUTSIDE})

    def of(self, rows: Iterable[int] | Ints) -> "TaggedTexts":
        """Return some of the texts."""
        rows = list(rows)
        return TaggedTexts([self.words[row] for row in rows], [self.tags[row] for row in rows])

    def parts(self, shares: Sequence[float], seed: int = 0) -> "list[TaggedTexts]":
        """Return the texts shuffled by `seed` and divided: a part for each of `shares`, and the rest."""
        rows = np.random.default_rng(seed).permutation(len(self))
        return [self.of(part) for part in np.split(rows, np.cumsum([round(share * len(self)) for share in shares]))]


def entities(tags: Sequence[str]) -> list[Entity]:
    """Return the entities of one text by its BIO `tags`."""
    found: list[Entity] = []
    for index, tag in enumerate(tags):
        if tag.startswith(BEGINS):
            found.append(Entity(tag[2:], index, index + 1))
        elif tag.startswith(CONTINUES):
            found[-1] = found[-1]._replace(stop=index + 1)
    return found


def tags_of(found: Iterable[Entity], words: int) -> list[str]:
    """Return the BIO tags of a text of so many `words` in which the entities `found` are."""
    tags = [OUTSIDE] * words
    for label, start, stop in found:
        tags[start:stop] = [BEGINS + label] + [CONTINUES + label] * (stop - start - 1)
    return tags


def is_tag(tag: str) -> bool:
    """Return whether `tag` is one of BIO."""
    return tag == OUTSIDE or (tag[:2] in (BEGINS, CONTINUES) and len(tag) > 2)


def begun(tags: Sequence[str]) -> list[str]:
    """Return `tags` in which every entity has its `B-`: in some files an `I-` begins one that follows no other."""
    before, made = OUTSIDE, []
    for tag in tags:
        goes_on = tag.startswith(CONTINUES) and before[2:] == tag[2:]
        made.append(BEGINS + tag[2:] if tag.startswith(CONTINUES) and not goes_on else tag)
        before = tag
    return made


def read_tagged(path: Path) -> TaggedTexts:
    """Return the tagged texts of a file: JSONL by its name, else CoNLL columns.

    Raises:
        RecsysError: the file is missing, unreadable, wrongly labelled, or has fewer than `LEAST` texts or no entity.
    """
    from features.texts.conll import read_conll
    from features.texts.spans import read_spans

    if path.is_dir():
        raise RecsysError(f"{path}: a folder; of a dataset, name the columns to learn from: --weak brand,colour")
    if not path.is_file():
        raise RecsysError(f"{path}: no such file; give one of CoNLL columns, or .jsonl with text and spans")
    texts = read_spans(path) if path.suffix == ".jsonl" else read_conll(path)
    if len(texts) < LEAST:
        raise RecsysError(f"{path}: {len(texts)} texts; label at least {LEAST}")
    if not texts.labels:
        raise RecsysError(f"{path}: no entity is labelled in {len(texts):,} texts; every word is outside")
    return texts
