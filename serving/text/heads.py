"""Which text heads a server has besides its model.

In: their names. Out: `TextHeads`: what answers questions, and what reads the attributes of items.
"""

from dataclasses import dataclass
from pathlib import Path

from recsys.registry import bundle_folder
from recsys.text.bundle import load_text_model
from serving.text.faq import Faq
from serving.text.tokens import KIND, Tagger


@dataclass(frozen=True)
class TextHeads:
    """Text heads; None for what a server does without."""

    faq: Faq | None = None
    """Answers questions."""
    tagger: Tagger | None = None
    """Reads the attributes of items that are put."""


@dataclass(frozen=True)
class HeadNames:
    """Names of text heads, by which every process loads its own."""

    answers: str | None = None
    answer_base: Path | None = None
    """File of questions and answers that is searched instead of those of the training."""
    attributes: str | None = None

    def load(self) -> TextHeads:
        """Return the heads.

        Raises:
            RecsysError: there is no such model, it is of another kind, or the file cannot be read.
        """
        faq = Faq(self.answers, self.answer_base) if self.answers else None
        if not self.attributes:
            return TextHeads(faq)
        return TextHeads(faq, Tagger(load_text_model(bundle_folder(self.attributes, "--attributes"), KIND)))
