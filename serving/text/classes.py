"""What a text head says of the classes of texts.

In: a `TextModel` of kind `classes`. Out: calibrated probabilities `[N, C]`, and a table.

Shapes: N texts, C classes.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl
import torch

from recsys.arrays import Floats
from recsys.models.encoder import autocast, resolve_precision, tokenize
from recsys.models.text_heads import ClassHead
from recsys.text.bundle import TextModel

KIND = "classes"


class Classifier:
    """Tells the classes of texts."""

    def __init__(self, model: TextModel) -> None:
        self.model = model
        self.classes: list[str] = model.about["classes"]
        self.multi: bool = model.about["multi"]
        self.thresholds = np.array(model.about["thresholds"], np.float32)  # [C]
        self.network = ClassHead(model.encoder, len(self.classes)).eval()
        self.network.load_state_dict(model.head, strict=False)

    @torch.no_grad()
    def logits(self, texts: Sequence[str]) -> Floats:
        """Return logits `[N, C]` before calibration."""
        text = self.model.config.text
        tokens = tokenize(list(texts), self.model.tokenizer, text.max_tokens)
        device = next(self.network.parameters()).device
        precision = resolve_precision(self.model.config.encoder.precision, device)
        logits = np.empty((len(tokens), len(self.classes)), np.float32)
        for rows in tokens.batches(np.arange(len(tokens))):
            ids, mask = (tensor.to(device) for tensor in tokens.padded(rows))
            with autocast(device, precision):
                logits[rows] = self.network(ids, mask).float().cpu().numpy()
        return logits

    def probabilities(self, texts: Sequence[str]) -> Floats:
        """Return the probability of each class `[N, C]`; where a text has one class alone, they sum to 1."""
        return probabilities(self.logits(texts) / self.model.about["temperature"], self.multi)

    def chosen(self, probabilities: Floats) -> list[tuple[str, ...]]:
        """Return the classes that texts are said to have, by their `probabilities` `[N, C]`: the likeliest, or all above their thresholds."""
        if not self.multi:
            return [(self.classes[index],) for index in probabilities.argmax(1)]
        return [tuple(np.array(self.classes)[row].tolist()) for row in probabilities >= self.thresholds]

    def table(self, texts: Sequence[str]) -> pl.DataFrame:
        """Return a row per text: `label` and its `probability`; with several classes a text, lists of both."""
        values = self.probabilities(texts)
        chosen = self.chosen(values)
        columns = {name: index for index, name in enumerate(self.classes)}
        of = [[float(row[columns[name]]) for name in names] for row, names in zip(values, chosen, strict=True)]
        if self.multi:
            return pl.DataFrame({"labels": [list(names) for names in chosen], "probabilities": of})
        return pl.DataFrame({"label": [names[0] for names in chosen], "probability": [own[0] for own in of]})


def probabilities(logits: Floats, multi: bool) -> Floats:
    """Return the probabilities `[N, C]` of calibrated `logits`."""
    values = torch.from_numpy(logits)
    return (values.sigmoid() if multi else values.softmax(-1)).numpy()
