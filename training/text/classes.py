"""From labelled texts to a text head that tells their classes: `recsys text train classes`.

In: `LabelledTexts` and their `Parts`. Out: a `TextModel`, and what it gets right on `test`.

Its probabilities are calibrated by a temperature, and its thresholds chosen, on `valid` (Guo et al. 2017).

Shapes: N texts, C classes.
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from features.texts.classes import LabelledTexts
from features.texts.split import Parts
from recsys.arrays import Bools, Floats, Ints
from recsys.config import Config
from recsys.metrics import calibration_error
from recsys.models.encoder import resolve_precision, tokenize
from recsys.models.text_heads import ClassHead
from recsys.progress import Update
from recsys.text.bundle import TextModel
from serving.text.classes import KIND, Classifier, probabilities
from training.text.fit import fit, load_trainable
from training.text.report import Counts, TextReport, resampled

TEMPERATURES = np.geomspace(0.25, 8, 61)
THRESHOLDS = np.linspace(0.05, 0.95, 19)


def fit_classes(data: LabelledTexts, parts: Parts, config: Config, seed: int, update: Update) -> TextModel:
    """Return a text head fitted on `train`; epochs, temperature and thresholds are chosen on `valid`.

    Raises:
        RecsysError: the encoder cannot be loaded.
    """
    torch.manual_seed(seed)
    encoder, tokenizer = load_trainable(config)
    classes, targets = data.classes, one_hot(data)
    network = ClassHead(encoder, len(classes), config.text.dropout)
    tokens = tokenize(data.texts, tokenizer, config.text.max_tokens)
    labels = torch.from_numpy(targets)

    def loss_of(rows: Ints) -> Tensor:
        logits, truth = network(*tokens.padded(parts.train[rows])), labels[parts.train[rows]]
        if data.multi:
            return F.binary_cross_entropy_with_logits(logits, truth)
        return F.cross_entropy(logits, truth)

    def model() -> TextModel:
        head = {name: value for name, value in network.state_dict().items() if not name.startswith("encoder.")}
        about = {"classes": classes, "multi": data.multi, "temperature": 1.0, "thresholds": [0.5] * len(classes)}
        return TextModel(KIND, encoder, tokenizer, head, about, config)

    def valid_of() -> float:
        classifier = Classifier(model())
        valid = classifier.logits([data.texts[row] for row in parts.valid])
        return -_log_loss(valid, targets[parts.valid], data.multi)

    precision = resolve_precision(config.encoder.precision, torch.device("cpu"))
    lengths = tokens.lengths[parts.train]
    fit(network, loss_of, valid_of, lengths, config.text, seed=seed, precision=precision, update=update)
    return _calibrated(model(), data, parts.valid)


def one_hot(data: LabelledTexts) -> Floats:
    """Return 1 where a text has a class, `[N, C]`."""
    columns = {name: index for index, name in enumerate(data.classes)}
    targets = np.zeros((len(data.texts), len(columns)), np.float32)
    for row, labels in enumerate(data.labels):
        targets[row, [columns[name] for name in labels]] = 1
    return targets


def _log_loss(logits: Floats, targets: Floats, multi: bool) -> float:
    values, truth = torch.from_numpy(logits), torch.from_numpy(targets)
    loss = F.binary_cross_entropy_with_logits(values, truth) if multi else F.cross_entropy(values, truth)
    return float(loss)


def _calibrated(model: TextModel, data: LabelledTexts, valid: Ints) -> TextModel:
    """Return the model with the temperature and the thresholds that are the best on the rows `valid`."""
    logits, targets = Classifier(model).logits([data.texts[row] for row in valid]), one_hot(data)[valid]
    losses = [_log_loss((logits / value).astype(np.float32), targets, data.multi) for value in TEMPERATURES]
    temperature = float(TEMPERATURES[int(np.argmin(losses))])
    values = probabilities((logits / temperature).astype(np.float32), data.multi)
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
