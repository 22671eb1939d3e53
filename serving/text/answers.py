"""Answers from a base: the ones that answer a question, and whether any does.

In: a `TextModel` of kind `answers`, and a base; that of the model, or another. Out: `Found`, and a table.

A new answer needs no training: it is encoded, and can be found. A question has a good answer if the best one's score, and its lead over
answers of other threads, are like those of questions that had one.

Shapes: Q questions, A answers, H width of the encoder, K answers that are found.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch

from features.texts.answers import AnswerBase
from recsys.arrays import Floats, Ints
from recsys.models.encoder import tokenize
from recsys.models.text_heads import AnswerHead
from recsys.models.text_vectors import text_vectors
from recsys.text.bundle import TextModel

KIND = "answers"
BASE = "base"
"""Name of the vectors of the model's own base among the weights of its head."""


@dataclass(frozen=True)
class Found:
    """The best answers to Q questions."""

    rows: Ints
    """`[Q, K]` rows of the base, the best first."""
    scores: Floats
    """`[Q, K]` cosines."""
    probability: Floats
    """`[Q]` of the best one being a good answer."""


class Answerer:
    """Finds answers in a base."""

    def __init__(self, model: TextModel) -> None:
        """Begin with the base of the model."""
        self.model = model
        self.threshold: float = model.about["threshold"]
        self.network = AnswerHead(model.encoder).eval()
        self.network.load_state_dict({name: value for name, value in model.head.items() if name != BASE}, strict=False)
        kept = model.about["base"]
        own = AnswerBase(kept["questions"], kept["answers"], np.array(kept["threads"], np.int64))
        self.base, self.vectors = own, model.head[BASE].numpy()  # [A, H]

    def with_base(self, base: AnswerBase) -> "Answerer":
        """Return the same with another base; what both have is not encoded again."""
        other = copy(self)
        other.base, other.vectors = base, self._vectors_of(base)
        return other

    def _vectors_of(self, base: AnswerBase) -> Floats:
        """Return the vectors of a base `[A, H]`; texts that the present one has are not encoded again."""
        known = dict(zip(self.base.texts(), self.vectors, strict=True))
        texts = base.texts()
        missing = [text for text in dict.fromkeys(texts) if text not in known]
        known |= dict(zip(missing, self.encode(missing), strict=True))
        return np.stack([known[text] for text in texts])

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Floats:
        """Return unit vectors `[n, H]` of questions or answers."""
        config = self.model.config
        tokens = tokenize(list(texts), self.model.tokenizer, config.text.max_tokens)
        return self.network.project(text_vectors(self.network.encoder, tokens, config.encoder.precision)).cpu().numpy()

    def find(self, questions: Sequence[str], k: int = 5) -> Found:
        """Return the best `k` answers to each question, and whether the first is a good one."""
        return found(self.encode(questions) @ self.vectors.T, self.base.threads, self.model.about["calibration"], k)

    def table(self, texts: Sequence[str]) -> pl.DataFrame:
        """Return a row per question: the best answer, null where there is no good one, and the probability that it is one."""
        best = self.find(texts, 1)
        good = best.probability >= self.threshold
        answers = [self.base.answers[row] if fine else None for row, fine in zip(best.rows[:, 0], good, strict=True)]
        return pl.DataFrame(
            {"answer": answers, "score": best.scores[:, 0], "probability": best.probability},
            schema={"answer": pl.String, "score": pl.Float64, "probability": pl.Float64},
        )


def found(scores: Floats, threads: Ints, calibration: Sequence[float], k: int) -> Found:
    """Return the best `k` answers by `scores` `[Q, A]`, and the probability of the first by `calibration`: bias and weights of `signs`."""
    order = np.argsort(-scores, axis=1, kind="stable")
    logits = signs(scores, threads) @ np.array(calibration[1:]) + calibration[0]
    rows = order[:, :k]
    return Found(rows, np.take_along_axis(scores, rows, 1), 1 / (1 + np.exp(-logits)))


def signs(scores: Floats, threads: Ints) -> Floats:
    """Return what tells whether there is a good answer `[Q, 2]`: the best score, and its lead over the best of another thread."""
    best = scores.argmax(1)
    others = np.where(threads[None] == threads[best][:, None], -1.0, scores)
    top: Floats = scores.max(1)
    return np.stack([top, top - others.max(1)], axis=1)
