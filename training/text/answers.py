"""From questions with answers to a text head that finds them: `recsys text train answers`.

In: `Threads` and the parts they are divided into. Out: a `TextModel` that knows all answers, and what it finds on `test`.

A question is fitted against all answers of the part, its own ones against the others (a softmax over the whole base, of which in-batch
and mined negatives are a sample), each answer with and without the question that it is kept with. What is learned is added to the encoder's own
similarity. Whether a question has a good answer is a logistic regression on `valid`, whose questions are asked once of the base and once of
the base without their own answers.

Shapes: Q questions, A answers, H width of the encoder.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from features.texts.answers import AnswerBase, Threads
from features.texts.split import Parts
from recsys.arrays import Bools, Floats, Ints
from recsys.config import Config
from recsys.metrics import Interval
from recsys.models.encoder import tokenize
from recsys.models.text_heads import AnswerHead
from recsys.models.text_vectors import text_vectors
from recsys.progress import Update
from recsys.text.bundle import TextModel
from serving.text.answers import BASE, KIND, Answerer, found, signs
from training.text.fit import fit, load_trainable
from training.text.report import TextReport, resampled

FALSE_REFUSALS = 0.05
"""Share of the questions of `valid` with an answer that may be told there is none."""
RESTRAINT = 0.1
"""Weight of the squares of what is added to the encoder's own similarity."""


def fit_answers(threads: Threads, parts: Parts, config: Config, seed: int, update: Update) -> TextModel:
    """Return a text head fitted on the threads of `train`; epochs and the threshold are chosen on those of `valid`.

    Raises:
        RecsysError: the encoder cannot be loaded.
    """
    torch.manual_seed(seed)
    frozen = config.model_copy(update={"text": config.text.model_copy(update={"trainable_layers": 0})})
    encoder, tokenizer = load_trainable(frozen)
    network, base = AnswerHead(encoder, config.text.dropout), threads.base()

    def encoded(texts: list[str]) -> Tensor:
        tokens = tokenize(texts, tokenizer, config.text.max_tokens)
        return text_vectors(encoder, tokens, config.encoder.precision).float()

    units = [encoded(base.texts()), encoded(base.answers)]  # [A, H] each

    def asked(rows: Ints) -> _Asked:
        questions, own = threads.queries(rows)
        return _Asked(encoded(questions), own)

    train, valid = asked(parts.train), asked(parts.valid)
    inside = np.flatnonzero(np.isin(base.threads, parts.train))

    def loss_of(rows: Ints) -> Tensor:
        questions = network.project(train.vectors[rows])
        own = torch.from_numpy(base.threads[inside][None] == train.threads[rows][:, None])  # [B, A]
        losses = [
            softmax_of_several(questions @ network.project(unit[inside]).T * network.scale.exp(), own) for unit in units
        ]
        return torch.stack(losses).sum() + RESTRAINT * network.residual.weight.square().sum()

    def valid_of() -> float:
        return float(np.mean([ranking_figures(scores(valid, unit), own_of(valid, base))["mrr@10"] for unit in units]))

    @torch.no_grad()
    def scores(asked: _Asked, unit: Tensor) -> Floats:
        return (network.project(asked.vectors) @ network.project(unit).T).numpy()

    fit(
        network,
        loss_of,
        valid_of,
        np.ones(len(train.threads), np.int64),
        config.text,
        seed=seed,
        precision="fp32",
        update=update,
    )
    head = {name: value for name, value in network.state_dict().items() if not name.startswith("encoder.")}
    with torch.no_grad():
        head[BASE] = network.project(units[0])
    about = {"base": {"questions": base.questions, "answers": base.answers, "threads": base.threads.tolist()}}
    calibration, threshold = calibrated(scores(valid, units[0]), own_of(valid, base), base.threads)
    return TextModel(
        KIND, encoder, tokenizer, head, about | {"calibration": calibration, "threshold": threshold}, config
    )


@dataclass(frozen=True)
class _Asked:
    """Questions of one part."""

    vectors: Tensor
    """`[Q, H]` of the encoder."""
    threads: Ints
    """`[Q]` the thread of each."""


def own_of(asked: _Asked, base: AnswerBase) -> Bools:
    """Return which answers are a question's own `[Q, A]`."""
    own: Bools = base.threads[None] == asked.threads[:, None]
    return own


def softmax_of_several(logits: Tensor, own: Tensor) -> Tensor:
    """Return the loss of `logits` `[B, A]` where several answers are a question's `own` `[B, A]`.

    One half asks for any of them, the other for all of them (the two forms of Khosla et al. 2020).
    """
    chances = logits.log_softmax(-1)
    any_of_them = chances.masked_fill(~own, -torch.inf).logsumexp(-1)
    all_of_them = (chances * own).sum(-1) / own.sum(-1)
    return -(any_of_them + all_of_them).mean() / 2


def ranking_figures(scores: Floats, own: Bools) -> dict[str, float]:
    """Return P@1, MRR@10 and MAP of `scores` `[Q, A]`, where some answers are a question's `own` `[Q, A]`."""
    return {name: float(values.mean()) for name, values in by_question(scores, own).items()}


def by_question(scores: Floats, own: Bools) -> dict[str, Floats]:
    """Return P@1, MRR@10 and average precision of each question `[Q]`; of equal scores the first is the better one."""
    hits = np.take_along_axis(own, np.argsort(-scores, axis=1, kind="stable"), 1)  # [Q, A]
    first = hits.argmax(1)
    precision = hits.cumsum(1) / np.arange(1, hits.shape[1] + 1)
    return {
        "p@1": hits[:, 0].astype(np.float64),
        "mrr@10": np.where(first < 10, 1 / (1 + first), 0.0),
        "map": (precision * hits).sum(1) / hits.sum(1),
    }


def without_own(scores: Floats, own: Bools) -> Floats:
    """Return `scores` `[Q, A]` as if a question's `own` answers were not in the base."""
    return np.where(own, -1.0, scores).astype(np.float32)


def calibrated(scores: Floats, own: Bools, threads: Ints) -> tuple[list[float], float]:
    """Return bias and weights of `signs`, and the threshold of the probability below which there is no good answer.

    `scores` `[Q, A]` are of questions of which some answers are their `own` `[Q, A]`, and answers of `threads` `[A]`.
    """
    with_answer, without = signs(scores, threads), signs(without_own(scores, own), threads)
    labels = np.repeat([1, 0], [len(with_answer), len(without)])
    model = LogisticRegression(C=10.0).fit(np.concatenate([with_answer, without]), labels)
    calibration = [float(model.intercept_[0]), *map(float, model.coef_[0])]
    return calibration, float(np.quantile(found(scores, threads, calibration, 1).probability, FALSE_REFUSALS))


def figures_of(scores: Floats, own: Bools, threads: Ints, about: tuple[Sequence[float], float]) -> dict[str, Floats]:
    """Return the figures `[Q]` of `scores` `[Q, A]`; `about` are calibration and threshold.

    `unanswerable_found` is 1 where a question is told that there is no good answer in a base without its own ones.
    """
    calibration, threshold = about

    def refused(values: Floats) -> Floats:
        return (found(values, threads, calibration, 1).probability < threshold).astype(np.float64)

    refusals = {"false_refusals": refused(scores), "unanswerable_found": refused(without_own(scores, own))}
    return by_question(scores, own) | refusals


def measure_answers(model: TextModel, threads: Threads, rows: Ints) -> TextReport:
    """Return what the model finds for the questions of some threads among all answers; intervals are over threads."""
    answerer, (questions, asked) = Answerer(model), threads.queries(rows)
    scores, base = answerer.encode(questions) @ answerer.vectors.T, answerer.base
    own = base.threads[None] == asked[:, None]
    values = figures_of(scores, own, base.threads, (model.about["calibration"], answerer.threshold))
    return TextReport(len(questions), [], np.empty((0, 4)), by_threads(values, asked))


def by_threads(values: Mapping[str, Floats], threads: Ints) -> dict[str, Interval]:
    """Return the means of `values` of questions `[Q]`, with intervals over their `threads` `[Q]`: those of one thread are alike."""
    groups = [np.flatnonzero(threads == thread) for thread in np.unique(threads)]

    def mean_of(own: Floats) -> Callable[[Ints], float]:
        return lambda drawn: float(own[np.concatenate([groups[index] for index in drawn])].mean())

    return {name: resampled(mean_of(own), len(groups)) for name, own in values.items()}
