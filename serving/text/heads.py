"""Which text heads a server has besides its model.

In: their names. Out: `TextHeads`: what answers questions, and what reads attributes of items and opinions of events.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

from features.texts.opinions import POSITIVE, named_label
from recsys.registry import bundle_folder, resolve
from recsys.text.bundle import TextModel, load_text_model
from serving.text import classes, tokens
from serving.text.classes import Classifier
from serving.text.faq import Faq
from serving.text.tokens import Tagger

log = logging.getLogger("recsys.heads")


@dataclass(frozen=True)
class HeadNames:
    """Names of text heads, by which every process loads its own; None for what a server does without."""

    answers: str | None = None
    answer_base: Path | None = None
    """File of questions and answers that is searched instead of those of the training."""
    attributes: str | None = None
    opinion: str | None = None

    def versions(self) -> "HeadNames":
        """Return the same with the versions that the names stand for now.

        Raises:
            RecsysError: there is no such model, or MLflow is unreachable.
        """
        return HeadNames(
            self.answers and resolve(self.answers, "--answers"),
            self.answer_base,
            self.attributes and resolve(self.attributes, "--attributes"),
            self.opinion and resolve(self.opinion, "--opinion"),
        )


@dataclass
class TextHeads:
    """Text heads, which follow their names; None for what a server does without."""

    faq: Faq | None = None
    """Answers questions."""
    tagger: Tagger | None = None
    """Reads the attributes of items that are put."""
    classifier: Classifier | None = None
    """Reads the opinion of events' texts."""
    names: HeadNames = HeadNames()
    versions: HeadNames = HeadNames()
    """Those that are loaded."""

    @classmethod
    def load(cls, names: HeadNames) -> "TextHeads":
        """Return the heads that `names` stand for now.

        Raises:
            RecsysError: there is no such model, it is of another kind, or the file cannot be read.
        """
        now = names.versions()
        return cls(
            faq=Faq(now.answers, now.answer_base) if now.answers else None,
            tagger=Tagger(_loaded(now.attributes, "--attributes", tokens.KIND)) if now.attributes else None,
            classifier=_classifier(now.opinion) if now.opinion else None,
            names=names,
            versions=now,
        )

    def follow(self) -> None:
        """Load all anew where a name stands for another version; where that fails, those that are loaded stay.

        Raises:
            RecsysError: as `load`.
        """
        if self.names.versions() == self.versions:
            return
        new = self.load(self.names)
        self.faq, self.tagger, self.classifier, self.versions = new.faq, new.tagger, new.classifier, new.versions
        log.info("%s serve", self.versions)


def _classifier(name: str) -> Classifier:
    """Return the head `name`, which must tell positive texts."""
    classifier = Classifier(_loaded(name, "--opinion", classes.KIND))
    named_label(classifier.classes, None, POSITIVE)
    return classifier


def _loaded(name: str, option: str, kind: str) -> TextModel:
    return load_text_model(bundle_folder(name, option), kind)
