"""Load a text head by its name or folder, as what reads texts with it.

In: a registered model or a bundle folder. Out: a `TextReader`.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import polars as pl

from recsys.text.bundle import TextModel, load_text_model
from serving.text import answers, classes, tokens


class TextReader(Protocol):
    """What a text head says of texts."""

    model: TextModel

    def table(self, texts: Sequence[str]) -> pl.DataFrame:
        """Return a row per text."""
        ...


READERS: dict[str, Callable[[TextModel], TextReader]] = {
    classes.KIND: classes.Classifier,
    answers.KIND: answers.Answerer,
    tokens.KIND: tokens.Tagger,
}
"""By the kind of the head."""


def load_reader(folder: Path, kind: str | None = None) -> TextReader:
    """Return the reader of the text head in `folder`, of `kind` if that is given.

    Raises:
        RecsysError: the bundle is damaged, is no text head, or of another kind.
    """
    model = load_text_model(folder, kind)
    return READERS[model.kind](model)
