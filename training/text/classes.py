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
from recsys.models.encoder import FrozenPrefix, autocast, encode_all, resolve_precision, tokenize
from recsys.models.text_heads import ClassHead
from recsys.progress import Update
from recsys.text.bundle import TextModel
from serving.text.classes import KIND, Classifier, probabilities
from training.text.fit import fit, load_trainable
from training.text.linear import fit_linear
from training.text.report import Counts, TextReport, resampled

LOOSENESS = np.geomspace(0.1, 100, 7)
"""Of the logistic regression, of which one is chosen."""
TEMPERATURES = np.geomspace(0.25, 8, 61)
THRESHOLDS = np.linspace(0.05, 0.95, 19)


class TrainingTexts:
    """N texts with targets, and the encoder, whose frozen layers have read them once."""

    def __init__(self, data: LabelledTexts, config: Config) -> None:
        """Load the encoder and let its frozen layers read the texts.

        Raises:
            RecsysError: the encoder cannot be loaded.
        """
        self.config, self.classes, self.multi, self.targets = config, data.classes, data.multi, one_hot(data)
        self.encoder, self.tokenizer = load_trainable(config)
        self.precision = resolve_precision(config.encoder.precision, torch.device("cpu"))
        tokens = tokenize(data.texts, self.tokenizer, config.text.max_tokens)
        self.prefix = FrozenPrefix(self.encoder, tokens, self.precision)

    def pooled(self, rows: Ints) -> Tensor:
        """Return the vectors `[B, H]` of some texts, through which gradients flow."""
        with autocast(torch.device("cpu"), self.precision):
            return self.encoder.upper(*self.prefix.rows(rows))

    def vectors(self) -> Floats:
        """Return the vectors `[N, H]` of all texts as the encoder reads them now."""
        return encode_all(self.encoder, self.prefix).numpy()

    def loss(self, logits: Tensor, rows: Ints) -> Tensor:
        """Return the log loss of `logits` `[B, C]` of some texts."""
        truth = torch.from_numpy(self.targets[rows])
        return F.binary_cross_entropy_with_logits(logits, truth) if self.multi else F.cross_entropy(logits, truth)

    def model(self, head: dict[str, Tensor]) -> TextModel:
        """Return the text head of these weights, before calibration."""
        count = len(self.classes)
        about = {"classes": self.classes, "multi": self.multi, "temperature": 1.0, "thresholds": [0.5] * count}
        return TextModel(KIND, self.encoder.eval(), self.tokenizer, head, about, self.config)


def fit_classes(data: LabelledTexts, parts: Parts, config: Config, seed: int, update: Update) -> TextModel:
    """Return a text head fitted on `train`; its penalty, epoch, temperature and thresholds are chosen on `valid`.

    A logistic regression on the vectors of the encoder as it came is what fine-tuning starts from (Kumar et al. 2022), and what remains where
    no epoch is better.

    Raises:
        RecsysError: the encoder cannot be loaded.
    """
    torch.manual_seed(seed)
    texts = TrainingTexts(data, config)
    network = ClassHead(texts.encoder, len(texts.classes), config.text.dropout)
    head, before = _best_linear(texts, parts)
    network.load_state_dict(head, strict=False)

    def loss_of(rows: Ints) -> Tensor:
        own = parts.train[rows]
        return texts.loss(network.linear(network.dropout(texts.pooled(own))), own)

    @torch.no_grad()
    def valid_of() -> float:
        return -float(texts.loss(network.linear(texts.pooled(parts.valid)), parts.valid))

    lengths = texts.prefix.tokens.lengths[parts.train]
    fit(
        network,
        loss_of,
        valid_of,
        lengths,
        config.text,
        seed=seed,
        precision=texts.precision,
        before=before,
        update=update,
    )
    weights = {name: value for name, value in network.state_dict().items() if not name.startswith("encoder.")}
    return _calibrated(texts.model(weights), data, parts.valid)


def _best_linear(texts: TrainingTexts, parts: Parts) -> tuple[dict[str, Tensor], float]:
    """Return the logistic regression on vectors as they are with the smallest log loss on `valid`, and the negative of that."""
    vectors, best = texts.vectors(), None
    for looseness in LOOSENESS:
        head = fit_linear(vectors[parts.train], texts.targets[parts.train], texts.multi, looseness)
        logits = torch.from_numpy(vectors[parts.valid]) @ head["linear.weight"].T + head["linear.bias"]
        figure = -float(texts.loss(logits, parts.valid))
        if best is None or figure > best[1]:
            best = head, figure
    assert best
    return best


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
