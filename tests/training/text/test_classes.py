"""Classes of texts: what a head learns, what it keeps where fine-tuning brings nothing, its calibration."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F

from features.texts.classes import LabelledTexts
from features.texts.split import Parts, shuffled_parts
from recsys.config import Config
from serving.text.classes import Classifier
from training.text.classes import fit_classes, measure_classes
from training.text.linear import fit_linear


def texts_of(count: int, multi: bool = False) -> LabelledTexts:
    """Return texts whose first word says their class; with `multi`, the second one says another."""
    texts: list[str] = []
    labels: list[tuple[str, ...]] = []
    for row in range(count):
        kind, thing = ("good", "bad")[row % 2], ("lamp", "table", "chair")[row % 3]
        texts.append(f"{kind} {thing} {row}")
        labels.append((kind, thing) if multi and thing != "chair" else (kind,))
    return LabelledTexts(texts, labels, multi)


def config_of(encoder: str, **text: float) -> Config:
    """Return a configuration of a tiny encoder."""
    return Config.model_validate(
        {"encoder": {"name": encoder, "precision": "fp32"}, "text": {"class_epochs": 2, **text}}
    )


@pytest.mark.parametrize("multi", [False, True])
def test_a_head_learns_what_words_tell(encoder: str, multi: bool) -> None:
    """Of texts that it was not fitted on, nearly all are right."""
    data, parts = texts_of(400, multi), shuffled_parts(400)
    model = fit_classes(data, parts, config_of(encoder), 0, lambda share, note: None)
    report = measure_classes(model, data, parts.test)
    assert report.figures["accuracy"].value > 0.9 and report.figures["macro_f1"].value > 0.9
    values = Classifier(model).probabilities(["good lamp"])
    assert values.shape == (1, len(data.classes))
    assert multi or values.sum() == pytest.approx(1)


def test_where_fine_tuning_spoils_the_encoder_the_linear_head_stays(encoder: str) -> None:
    """Its weights are those of the encoder as it came."""
    data, parts = texts_of(200), shuffled_parts(200)
    spoiled = fit_classes(data, parts, config_of(encoder, learning_rate=3, head_learning_rate=30), 0, lambda s, n: None)
    frozen = fit_classes(data, parts, config_of(encoder, class_layers=0, head_learning_rate=30), 0, lambda s, n: None)
    some = ["good lamp 3", "bad table 4"]
    np.testing.assert_allclose(Classifier(spoiled).logits(some), Classifier(frozen).logits(some), atol=1e-5)


def test_one_seed_gives_one_head(encoder: str) -> None:
    """All random draws come from it."""
    data, parts = texts_of(200), shuffled_parts(200)
    one, other = (fit_classes(data, parts, config_of(encoder), 3, lambda s, n: None) for _ in range(2))
    assert all(torch.equal(one.head[name], other.head[name]) for name in one.head)


def test_calibration_never_raises_the_log_loss_of_valid(encoder: str) -> None:
    """The temperature is chosen there; 1 is among those that are tried."""
    data, parts = texts_of(200), shuffled_parts(200)
    noisy = LabelledTexts(data.texts, [data.labels[row - row % 7] for row in range(200)], False)
    model = fit_classes(noisy, parts, config_of(encoder), 0, lambda s, n: None)
    logits = torch.from_numpy(Classifier(model).logits([noisy.texts[row] for row in parts.valid]))
    truth = torch.tensor([noisy.classes.index(noisy.labels[row][0]) for row in parts.valid])
    assert F.cross_entropy(logits / model.about["temperature"], truth) <= F.cross_entropy(logits, truth) + 1e-4


@pytest.mark.parametrize("classes", [2, 3])
def test_the_linear_head_is_the_regression(classes: int) -> None:
    """As scikit-learn computes it, whatever the length of the vectors."""
    rng = np.random.default_rng(0)
    vectors = (rng.normal(0, 3, (80, 5))).astype(np.float32)
    labels = rng.integers(0, classes, 80)
    head = fit_linear(vectors, np.eye(classes, dtype=np.float32)[labels], False, 1.0)
    logits = torch.from_numpy(vectors) @ head["linear.weight"].T + head["linear.bias"]
    unit = vectors / np.linalg.norm(vectors, axis=1).mean()
    expected = LogisticRegression(C=1.0).fit(unit, labels).predict_proba(unit)
    np.testing.assert_allclose(logits.softmax(1), expected, atol=2e-3)


@pytest.mark.parametrize("multi", [False, True])
def test_a_class_that_no_text_has_is_never_told(multi: bool) -> None:
    """A small file may have none of a class in `train`."""
    vectors = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    targets = np.zeros((20, 3), np.float32)
    targets[np.arange(20), np.arange(20) % 2] = 1
    head = fit_linear(vectors, targets, multi, 1.0)
    logits = torch.from_numpy(vectors) @ head["linear.weight"].T + head["linear.bias"]
    assert bool((logits[:, 2] < logits[:, :2].min(1).values).all())


def test_parts_without_some_class_are_fitted_all_the_same(encoder: str) -> None:
    """Nothing breaks where `valid` has one class alone."""
    data = texts_of(160)
    parts = Parts(np.arange(150), np.array([150, 152, 154]), np.arange(157, 160))
    report = measure_classes(fit_classes(data, parts, config_of(encoder), 0, lambda s, n: None), data, parts.test)
    assert report.texts == 3
