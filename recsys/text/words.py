"""Texts as words, and words as what a token head reads: sub-words, whose word each is, and how the word is written.

In: texts, or words. Out: `Spelt` words with their offsets; a `WordBatch` of tensors.

An encoder that lowers its letters cannot tell `Apple` from `apple`; the shapes say what it no longer sees.

Shapes: B texts, T sub-words, W words, S kinds of shape.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recsys.arrays import Ints

WORD = re.compile(r"[@#]?\w+|[^\w\s]")
"""A word: letters and digits, with what marks a name or a topic, or one sign."""

CASES = (
    "lower",
    "Initial",
    "UPPER",
    "X",
    "miXed",
    "digits",
    "digits and letters",
    "sign",
    "@name",
    "#topic",
    "address",
    "other script",
)
"""How a word is written."""
NEIGHBOURS = ("first", "after small letters", "after capitals", "after a sign")
"""What comes before a word."""
TEXTS = ("none", "few", "half", "all")
"""How many words of the text begin with a capital."""
SHAPES = (len(CASES), len(NEIGHBOURS), len(TEXTS))
"""Number of codes of each kind of shape."""


@dataclass(frozen=True)
class Spelt:
    """A text cut into words."""

    words: list[str]
    starts: list[int]
    """Offset of each word's first character in the text."""
    stops: list[int]
    """Offset after each word's last character."""


def spelt(text: str) -> Spelt:
    """Return the words of a text."""
    found = list(WORD.finditer(text))
    return Spelt([match[0] for match in found], [match.start() for match in found], [match.end() for match in found])


def case(word: str) -> int:
    """Return the index in `CASES` of how a word is written."""
    if word.startswith("@") and len(word) > 1:
        return 8
    if word.startswith("#") and len(word) > 1:
        return 9
    if word.startswith(("http:", "https:", "www.")):
        return 10
    letters = [sign for sign in word if sign.isalpha()]
    if not letters:
        return 5 if any(sign.isdigit() for sign in word) else 7
    if any(sign.isdigit() for sign in word):
        return 6
    upper = sum(sign.isupper() for sign in letters)
    if not upper:
        return 0 if any(sign.islower() for sign in letters) else 11
    if upper == len(letters):
        return 3 if upper == 1 else 2
    return 1 if upper == 1 and letters[0].isupper() else 4


def shapes(words: Sequence[str]) -> Ints:
    """Return the codes `[W, S]` of how the words of one text are written."""
    cases = np.array([case(word) for word in words], np.int64)
    capital = np.isin(cases, (1, 2, 3, 4))
    before = np.zeros(len(words), np.int64)
    before[1:] = np.where(capital[:-1], 2, np.where(cases[:-1] == 0, 1, 3))
    spoken = capital | (cases == 0)
    share = capital.sum() / max(1, spoken.sum())
    level = 0 if share == 0 else 1 if share < 0.35 else 2 if share < 0.75 else 3
    return np.stack([cases, before, np.full(len(words), level, np.int64)], axis=1)


@dataclass(frozen=True)
class WordBatch:
    """Texts as a token head reads them."""

    ids: Tensor
    """`[B, T]` sub-words."""
    mask: Tensor
    """`[B, T]`, False where padded."""
    owner: Tensor
    """`[B, T]` index of the word that each sub-word is of; W for what is of none."""
    shapes: Tensor
    """`[B, W, S]`; 0 where padded."""
    present: Tensor
    """`[B, W]` words that the encoder sees; those beyond its longest text are not."""

    def to(self, device: torch.device) -> "WordBatch":
        """Return the same on `device`."""
        return WordBatch(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


def word_batch(texts: Sequence[Sequence[str]], tokenizer: Any, max_tokens: int) -> WordBatch:
    """Return the words of B `texts` as tensors."""
    rows = tokenizer([list(words) for words in texts], is_split_into_words=True, truncation=True, max_length=max_tokens)
    width, length = max(1, *(len(words) for words in texts)), max(len(ids) for ids in rows["input_ids"])
    ids, mask = np.zeros((len(texts), length), np.int64), np.zeros((len(texts), length), bool)
    owner = np.full((len(texts), length), width, np.int64)
    shape, present = np.zeros((len(texts), width, len(SHAPES)), np.int64), np.zeros((len(texts), width), bool)
    for row, words in enumerate(texts):
        own = rows["input_ids"][row]
        ids[row, : len(own)], mask[row, : len(own)] = own, True
        owner[row, : len(own)] = [width if index is None else index for index in rows.word_ids(row)]
        shape[row, : len(words)] = shapes(words)
        seen = owner[row, : len(own)]
        present[row, seen[seen < width]] = True
    return WordBatch(*map(torch.from_numpy, (ids, mask, owner, shape, present)))
