"""Read CoNLL columns: a word and its tag in each line, an empty line after each text.

In: lines of two columns (word, tag) or four (word, part of speech, chunk, tag: CoNLL-2003), divided by tabs or spaces; lines of `-DOCSTART-`
are no text. Out: `TaggedTexts`.
"""

from pathlib import Path

from features.data.formats import check_utf8
from features.texts.tagged import TaggedTexts, begun, is_tag
from recsys.errors import RecsysError

COLUMNS = (2, 4)
DOCUMENT = "-DOCSTART-"
Line = tuple[int, list[str]]
"""Its number, and its columns."""


def read_conll(path: Path) -> TaggedTexts:
    """Return the texts of a file.

    Raises:
        RecsysError: a line has not the columns of the others, or a tag is not one of BIO.
    """
    texts = _texts(path)
    lines = [line for text in texts for line in text]
    width = len(lines[0][1]) if lines else COLUMNS[0]
    odd = [line for line in lines if len(line[1]) != width]
    if width not in COLUMNS:
        raise RecsysError(
            f"{path}: line {lines[0][0]} has {width} column{'s' * (width != 1)}, {' '.join(lines[0][1])[:60]!r}; write a word and its tag, or the four columns of CoNLL-2003"
        )
    if odd:
        number, columns = odd[0]
        raise RecsysError(
            f"{path}: {len(odd):,} of {len(lines):,} lines have not {width} columns as the first, for example line {number} with {len(columns)}, "
            f"{' '.join(columns)[:60]!r}; every word needs its tag"
        )
    wrong = [(number, columns[-1]) for number, columns in lines if not is_tag(columns[-1])]
    if wrong:
        raise RecsysError(
            f"{path}: {len(wrong):,} of {len(lines):,} tags are not of BIO, for example {wrong[0][1]!r} in line {wrong[0][0]}; write O, B-TYPE or I-TYPE"
        )
    words = [[columns[0] for _, columns in text] for text in texts]
    return TaggedTexts(words, [begun([columns[-1] for _, columns in text]) for text in texts])


def _texts(path: Path) -> list[list[Line]]:
    """Return the lines of each text."""
    check_utf8(path)
    texts: list[list[Line]] = [[]]
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), 1):
        columns = [part.strip() for part in line.rstrip("\r").split("\t")] if "\t" in line else line.split(" ")
        columns = [part for part in columns if part.strip()]
        if columns and columns[0] != DOCUMENT:
            texts[-1].append((number, columns))
        elif texts[-1]:
            texts.append([])
    return [text for text in texts if text]
