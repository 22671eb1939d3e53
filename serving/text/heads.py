"""Which text heads a server has besides its model.

In: their names. Out: what answers questions, and what reads the attributes of items.
"""

from dataclasses import dataclass
from pathlib import Path

from recsys.registry import bundle_folder
from recsys.text.bundle import load_text_model
from serving.text.faq import Faq
from serving.text.tokens import KIND, Tagger


@dataclass(frozen=True)
class TextHeads:
    """Names of text heads; None for what a server does without."""

    answers: str | None = None
    """Answers questions."""
    answer_base: Path | None = None
    """File of questions and answers that is searched instead of those of the training."""
    attributes: str | None = None
    """Reads the attributes of items that are put."""

    def faq(self) -> Faq | None:
        """Return what answers questions.

        Raises:
            RecsysError: there is no such model, it is of another kind, or the file cannot be read.
        """
        return Faq(self.answers, self.answer_base) if self.answers else None

    def tagger(self) -> Tagger | None:
        """Return what reads the attributes of items.

        Raises:
            RecsysError: there is no such model, or it is of another kind.
        """
        if not self.attributes:
            return None
        return Tagger(load_text_model(bundle_folder(self.attributes, "--attributes"), KIND))
