"""Labelled texts on their way through the encoder: what all fits of classes read.

In: `LabelledTexts`. Out: vectors of texts, losses, and a `TextModel` of the weights of a head.

Shapes: B texts of a step, N texts, H width of a vector, C classes.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from features.texts.classes import LabelledTexts
from recsys.arrays import Floats, Ints
from recsys.config import Config
from recsys.models.encoder import FrozenPrefix, autocast, encode_all, resolve_precision, tokenize
from recsys.text.bundle import TextModel
from serving.text.classes import KIND
from training.text.fit import load_trainable


class TrainingTexts:
    """N texts with targets, and the encoder, whose frozen layers have read them once."""

    def __init__(self, data: LabelledTexts, config: Config) -> None:
        """Load the encoder and let its frozen layers read the texts.

        Raises:
            RecsysError: the encoder cannot be loaded.
        """
        own = {"trainable_layers": config.text.class_layers, "epochs": config.text.class_epochs}
        config = config.model_copy(update={"text": config.text.model_copy(update=own)})
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


def one_hot(data: LabelledTexts, classes: Sequence[str] = ()) -> Floats:
    """Return 1 where a text has a class, `[N, C]`; the `classes` are those of the texts unless they are given."""
    columns = {name: index for index, name in enumerate(classes or data.classes)}
    targets = np.zeros((len(data.texts), len(columns)), np.float32)
    for row, labels in enumerate(data.labels):
        targets[row, [columns[name] for name in labels]] = 1
    return targets
