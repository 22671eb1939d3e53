"""Heads from few texts, and from none: contrastive fine-tuning, and the names of classes."""

import numpy as np
import pytest
import torch

from features.texts.classes import LabelledTexts
from features.texts.split import shuffled_parts
from recsys.config import Config
from recsys.errors import RecsysError, UsageError
from serving.text.classes import Classifier
from training.text.classes import fit_classes, fit_head, measure_classes
from training.text.few import are_few, contrast, fit_few, left_out_logits
from training.text.texts import TrainingTexts
from training.text.zero import class_words, head_of_names

WORDS = {"good": "good good", "bad": "bad bad"}


def data_of(count: int) -> LabelledTexts:
    """Return texts whose first word says their class."""
    rows = [(("good", "bad")[row % 2], row) for row in range(count)]
    return LabelledTexts([f"{kind} {row % 9}" for kind, row in rows], [(kind,) for kind, _ in rows], False)


@pytest.fixture
def config(encoder: str) -> Config:
    """Return a configuration of a tiny encoder."""
    return Config.model_validate({"encoder": {"name": encoder, "precision": "fp32"}})


def test_the_loss_is_the_mean_log_share_of_texts_that_belong_together() -> None:
    """As Khosla et al. 2020 write it, one text at a time."""
    vectors, labels = torch.randn(7, 3, generator=torch.manual_seed(0)), [0, 1, 0, 1, 1, 0, 2]
    unit = vectors / vectors.norm(dim=1, keepdim=True)
    losses = []
    for one, label in enumerate(labels):
        others = [row for row in range(7) if row != one]
        powers = {row: torch.exp(unit[one] @ unit[row] / 0.1) for row in others}
        same = [row for row in others if labels[row] == label]
        if same:
            losses.append(-sum(torch.log(powers[row] / sum(powers.values())) for row in same) / len(same))
    expected = sum(losses) / len(losses)
    assert float(contrast(vectors, torch.eye(3)[labels])) == pytest.approx(float(expected), abs=1e-5)


def test_texts_that_share_none_of_several_classes_are_apart() -> None:
    """With no two texts together there is nothing to learn."""
    assert float(contrast(torch.randn(3, 4), torch.eye(3))) == 0


def test_few_texts_are_enough(config: Config) -> None:
    """Twelve a class, of which `test` is not fitted."""
    data, parts = data_of(24), shuffled_parts(24)
    model = fit_classes(data, parts, config, 0, lambda share, note: None)
    assert measure_classes(model, data, parts.test).figures["accuracy"].value == 1


def test_more_texts_are_fitted_in_the_other_way(config: Config) -> None:
    """From 65 a class on."""
    texts = TrainingTexts(data_of(132), config)
    assert are_few(texts, np.arange(128)) and not are_few(texts, np.arange(130))


def test_texts_are_calibrated_by_heads_that_did_not_see_them(config: Config) -> None:
    """A text with a wrong label is not told it, and the encoder is as before."""
    data = data_of(30)
    data.labels[4] = ("bad",)  # which the text contradicts
    texts = TrainingTexts(data, config)
    before = texts.vectors()
    logits = left_out_logits(texts, np.arange(30), 0, lambda share, note: None)
    assert data.classes[int(logits[4].argmax())] == "good"
    np.testing.assert_array_equal(texts.vectors(), before)


def test_the_encoder_draws_texts_of_a_class_together(config: Config) -> None:
    """The loss over all texts is smaller than before."""
    texts = TrainingTexts(data_of(40), config)

    def loss() -> float:
        return float(contrast(torch.from_numpy(texts.vectors()), torch.from_numpy(texts.targets)))

    before = loss()
    fit_few(texts, np.arange(40), 0)
    assert loss() < before


def test_a_head_of_names_needs_no_text(config: Config) -> None:
    """A text has the class whose words are most like it."""
    classifier = Classifier(head_of_names(WORDS, config))
    assert classifier.chosen(classifier.probabilities(["good good", "bad bad"])) == [("good",), ("bad",)]


def test_with_texts_names_are_calibrated_and_must_be_theirs(config: Config) -> None:
    """A label without words is named in the error."""
    data = data_of(40)
    assert fit_head(data, WORDS, config, 0, lambda share, note: None).about["temperature"] != 1
    with pytest.raises(RecsysError, match="1 of 2 labels of the texts are not named, for example 'good'"):
        fit_head(data, {"bad": "bad", "fine": "fine"}, config, 0, lambda share, note: None)


@pytest.mark.parametrize("text", ["good", "good,", "good,good", "good=,bad"])
def test_names_of_classes_are_at_least_two_with_words(text: str) -> None:
    """The line shows how they are written."""
    with pytest.raises(UsageError, match="write at least two"):
        class_words(text)


def test_a_name_is_its_own_words() -> None:
    """Unless others are given."""
    assert class_words("bad, good = a good review") == {"bad": "bad", "good": "a good review"}
