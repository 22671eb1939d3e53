"""Which text heads a server has besides its model.

In: their names. Out: `TextHeads`: what answers questions, and what reads attributes of items and opinions of events.
"""

from dataclasses import dataclass
from pathlib import Path

from features.texts.opinions import POSITIVE, named_label
from recsys.registry import bundle_folder
from recsys.text.bundle import TextModel, load_text_model
from serving.text import classes, tokens
from serving.text.classes import Classifier
from serving.text.faq import Faq
from serving.text.tokens import Tagger


@dataclass(frozen=True)
class TextHeads:
    """Text heads; None for what a server does without."""

    faq: Faq | None = None
    """Answers questions."""
    tagger: Tagger | None = None
    """Reads the attributes of items that are put."""
    classifier: Classifier | None = None
    """Reads the opinion of events' texts."""


@dataclass(frozen=True)
class HeadNames:
    """Names of text heads, by which every process loads its own."""

    answers: str | None = None
    answer_base: Path | None = None
    """File of questions and answers that is searched instead of those of the training."""
    attributes: str | None = None
    opinion: str | None = None

    def load(self) -> TextHeads:
        """Return the heads.

        Raises:
            RecsysError: there is no such model, it is of another kind, or the file cannot be read.
        """
        return TextHeads(
            faq=Faq(self.answers, self.answer_base) if self.answers else None,
            tagger=Tagger(_loaded(self.attributes, "--attributes", tokens.KIND)) if self.attributes else None,
            classifier=_classifier(self.opinion) if self.opinion else None,
        )


def _classifier(name: str) -> Classifier:
    """Return the head `name`, which must tell positive texts."""
    classifier = Classifier(_loaded(name, "--opinion", classes.KIND))
    named_label(classifier.classes, None, POSITIVE)
    return classifier


def _loaded(name: str, option: str, kind: str) -> TextModel:
    return load_text_model(bundle_folder(name, option), kind)
