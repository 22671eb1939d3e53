"""From labelled texts to a text head that tells their classes: `recsys text train classes`.

In: `LabelledTexts` and their `Parts`. Out: a `TextModel`, and what it gets right on `test`.

Its probabilities are calibrated by a temperature, and its thresholds chosen, on `valid` (Guo et al. 2017).

Shapes: N texts, C classes.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from features.texts.classes import LabelledTexts
from features.texts.split import Parts, shuffled_parts
from recsys.arrays import Bools, Floats, Ints
from recsys.config import Config
from recsys.errors import RecsysError
from recsys.metrics import calibration_error
from recsys.models.text_heads import ClassHead
from recsys.progress import Update
from recsys.text.bundle import TextModel
from serving.text.classes import Classifier, probabilities
from training.text.few import are_few, fit_few, left_out_logits
from training.text.fit import fit
from training.text.linear import fit_linear
from training.text.report import Counts, TextReport, resampled
from training.text.texts import TrainingTexts, one_hot
from training.text.zero import head_of_names

LOOSENESS = np.geomspace(0.1, 100, 7)
"""Of the logistic regression, of which one is chosen."""
TEMPERATURES = np.geomspace(0.25, 8, 61)
THRESHOLDS = np.linspace(0.05, 0.95, 19)


def fit_head(
    data: LabelledTexts | None, words: Mapping[str, str] | None, config: Config, seed: int, update: Update
) -> TextModel:
    """Return a text head of `data`, or of what its classes are called, `words` by label; one of the two is given.

    With both, nothing but the calibration is of the texts.

    Raises:
        RecsysError: the encoder cannot be loaded, or a text has a class that has no words.
    """
    parts = shuffled_parts(len(data.texts)) if data else None
    if words is None:
        assert data and parts
        return fit_classes(data, parts, config, seed, update)
    if data:
        refuse_unnamed(data, list(words))
    model = head_of_names(words, config)
    if not (data and parts):
        return model
    return calibrated(
        model,
        Classifier(model).logits([data.texts[row] for row in parts.valid]),
        one_hot(data, model.about["classes"])[parts.valid],
    )


def refuse_unnamed(data: LabelledTexts, named: list[str]) -> None:
    """Raise RecsysError where texts have classes that are not `named`, or several at once."""
    unknown = [name for name in data.classes if name not in named]
    if unknown:
        raise RecsysError(
            f"--zero-shot: {len(unknown)} of {len(data.classes)} labels of the texts are not named, for example {unknown[0]!r}; name "
            f"{', '.join(data.classes)}"
        )
    if data.multi:
        raise RecsysError(
            "--zero-shot: texts with several labels need a threshold for each, which must be learned; train without it"
        )


def measure_head(model: TextModel, data: LabelledTexts) -> TextReport:
    """Return what the model gets right on `test`."""
    return measure_classes(model, data, shuffled_parts(len(data.texts)).test)


def fit_classes(data: LabelledTexts, parts: Parts, config: Config, seed: int, update: Update) -> TextModel:
    """Return a text head fitted on `train`; its penalty, epoch, temperature and thresholds are chosen on `valid`.

    Where texts are few, both are fitted (see `training.text.few`). Else a logistic regression on the vectors of the encoder as it came is what fine-tuning starts from (Kumar et al. 2022), and what remains where
    no epoch is better.

    Raises:
        RecsysError: the encoder cannot be loaded.
    """
    torch.manual_seed(seed)
    texts = TrainingTexts(data, config)
    seen = np.concatenate([parts.train, parts.valid])
    if are_few(texts, seen):
        logits = left_out_logits(texts, seen, seed, update)
        return calibrated(texts.model(fit_few(texts, seen, seed, update)), logits, texts.targets[seen])
    network = ClassHead(texts.encoder, len(texts.classes), config.text.dropout)
    head, before = _best_linear(texts, parts)
    network.load_state_dict(head, strict=False)

    def loss_of(rows: Ints) -> Tensor:
        own = parts.train[rows]
        return texts.loss(network.linear(network.dropout(texts.pooled(own))), own)

    @torch.no_grad()
    def valid_of() -> float:
        return _figure(texts, network.linear(texts.pooled(parts.valid)), parts.valid)

    lengths = texts.prefix.tokens.lengths[parts.train]
    fit(
        network,
        loss_of,
        valid_of,
        lengths,
        texts.config.text,
        seed=seed,
        precision=texts.precision,
        before=before,
        update=update,
    )
    weights = {name: value for name, value in network.state_dict().items() if not name.startswith("encoder.")}
    valid = texts.vectors()[parts.valid] @ weights["linear.weight"].numpy().T + weights["linear.bias"].numpy()
    return calibrated(texts.model(weights), valid, texts.targets[parts.valid])


def _best_linear(texts: TrainingTexts, parts: Parts) -> tuple[dict[str, Tensor], float]:
    """Return the logistic regression on vectors as they are that is the best on `valid`, with its figure."""
    vectors, best = texts.vectors(), None
    for looseness in LOOSENESS:
        head = fit_linear(vectors[parts.train], texts.targets[parts.train], texts.multi, looseness)
        logits = torch.from_numpy(vectors[parts.valid]) @ head["linear.weight"].T + head["linear.bias"]
        figure = _figure(texts, logits, parts.valid)
        if best is None or figure > best[1]:
            best = head, figure
    assert best
    return best


def _log_loss(logits: Floats, targets: Floats, multi: bool) -> float:
    values, truth = torch.from_numpy(logits), torch.from_numpy(targets)
    loss = F.binary_cross_entropy_with_logits(values, truth) if multi else F.cross_entropy(values, truth)
    return float(loss)


def _figure(texts: TrainingTexts, logits: Tensor, rows: Ints) -> float:
    """Return what fits are chosen by: the negative of the log loss of some texts at the temperature that makes it smallest."""
    return -min(float(texts.loss(logits / temperature, rows)) for temperature in TEMPERATURES)


def calibrated(model: TextModel, logits: Floats, targets: Floats) -> TextModel:
    """Return the model with the temperature and the thresholds that are the best for some texts' `logits` and `targets` `[N, C]`."""
    multi = model.about["multi"]
    losses = [_log_loss((logits / value).astype(np.float32), targets, multi) for value in TEMPERATURES]
    temperature = float(TEMPERATURES[int(np.argmin(losses))])
    values = probabilities((logits / temperature).astype(np.float32), multi)
    thresholds = [_threshold(values[:, column], targets[:, column] > 0) for column in range(targets.shape[1])]
    return replace(model, about=model.about | {"temperature": temperature, "thresholds": thresholds})


def _threshold(values: Floats, truth: Bools) -> float:
    """Return the threshold of a class with the best F1; of equal ones that nearest to a half."""
    f1 = [2 * float((truth & (values >= at)).sum()) / max(1, truth.sum() + (values >= at).sum()) for at in THRESHOLDS]
    best = [at for at, score in zip(THRESHOLDS, f1, strict=True) if score == max(f1)]
    return float(min(best, key=lambda at: abs(at - 0.5)))


def measure_classes(model: TextModel, data: LabelledTexts, rows: Ints) -> TextReport:
    """Return what the model gets right on some rows of `data`."""
    classifier = Classifier(model)
    values = classifier.probabilities([data.texts[row] for row in rows])
    return report_of(
        classifier,
        values,
        replace(data, texts=[data.texts[row] for row in rows], labels=[data.labels[row] for row in rows]),
    )


def report_of(classifier: Classifier, values: Floats, data: LabelledTexts) -> TextReport:
    """Return what the probabilities `values` `[N, C]` get right on `data`."""
    classes = classifier.classes
    columns = {name: index for index, name in enumerate(classes)}
    truth, found = (np.zeros(values.shape, np.int64) for _ in range(2))
    for row, (labels, chosen) in enumerate(zip(data.labels, classifier.chosen(values), strict=True)):
        truth[row, [columns[name] for name in labels]] = 1
        found[row, [columns[name] for name in chosen]] = 1
    counts, right = Counts(truth & found, found & ~truth & 1, truth & ~found & 1), (truth == found).all(1)
    count = len(values)
    figures = {
        "macro_f1": resampled(lambda rows: counts.of(rows).macro(), count),
        "accuracy": resampled(lambda rows: float(right[rows].mean()), count),
        "calibration_error": resampled(
            lambda rows: calibration_error(values[rows].ravel(), truth[rows].ravel().astype(np.float32)), count
        ),
    }
    return TextReport(count, classes, counts.scores(), figures)
