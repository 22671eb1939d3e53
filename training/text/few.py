"""From a few labelled texts to a text head: contrastive fine-tuning, and a logistic regression on what comes of it.

In: `TrainingTexts` and the rows of some of them, from 8 to 64 a class. Out: the weights of a head; the encoder is tuned in place.

As SetFit does (Tunstall et al. 2022), but with the supervised contrastive loss over all pairs of a batch (Khosla et al. 2020), which was
better on `valid` of three sources than the squared error of similarities and needs no list of pairs. There is nothing to choose, so that no text is kept back:
probabilities are calibrated on texts that were left out in turn.

Shapes: B texts of a step, N texts, H width of a vector, C classes.
"""

from copy import deepcopy

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recsys.arrays import Floats, Ints
from recsys.progress import Update
from training.text.linear import fit_linear
from training.text.texts import TrainingTexts

FEW = 64
"""Texts a class up to which a head is fitted like this."""
STEPS, BATCH, RATE = 20, 16, 2e-4
"""Steps for two classes, texts of a step, and the peak learning rate."""
TEMPERATURE = 0.1
"""Of the similarities in the loss."""
LOOSENESS = 10.0
"""Of the logistic regression."""
FOLDS = 3


def are_few(texts: TrainingTexts, rows: Ints) -> bool:
    """Return whether some texts are at most `FEW` a class, in the mean over classes."""
    return float(texts.targets[rows].sum(0).mean()) <= FEW


def fit_few(
    texts: TrainingTexts, rows: Ints, seed: int, update: Update = lambda share, note: None
) -> dict[str, Tensor]:
    """Return the weights of a head that is fitted on the texts `rows`; the encoder is tuned for it."""
    _tune(texts, rows, seed, update)
    return fit_linear(texts.vectors()[rows], texts.targets[rows], texts.multi, LOOSENESS)


def left_out_logits(texts: TrainingTexts, rows: Ints, seed: int, update: Update) -> Floats:
    """Return logits `[N, C]` of the texts `rows`, each by a head that was fitted without it; the encoder stays as it is."""
    before, logits = deepcopy(texts.encoder.state_dict()), np.zeros((len(rows), len(texts.classes)), np.float32)
    fold = np.empty(len(rows), np.int64)
    order = np.lexsort((np.random.default_rng(seed).random(len(rows)), texts.targets[rows].argmax(1)))
    fold[order] = np.arange(len(rows)) % FOLDS  # each class in every fold
    for number in range(FOLDS):
        head = fit_few(texts, rows[fold != number], seed)
        left = rows[fold == number]
        logits[fold == number] = texts.vectors()[left] @ head["linear.weight"].numpy().T + head["linear.bias"].numpy()
        texts.encoder.load_state_dict(before)
        update((number + 1) / (FOLDS + 1), "calibrating")
    return logits


def _tune(texts: TrainingTexts, rows: Ints, seed: int, update: Update) -> None:
    """Draw texts of one class together, and those of different classes apart."""
    trained = [value for value in texts.encoder.parameters() if value.requires_grad]
    if not trained:
        return
    rng, optimizer = np.random.default_rng(seed), torch.optim.AdamW(trained, lr=RATE)
    steps = STEPS * -(-len(texts.classes) // 2)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE * (1 - step / steps)
        batch = _draw(texts.targets[rows], rng)
        loss = contrast(texts.pooled(rows[batch]), torch.from_numpy(texts.targets[rows[batch]]))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        update((step + 1) / steps, f"step {step + 1}")


def _draw(targets: Floats, rng: np.random.Generator) -> Ints:
    """Return rows of a step, as many of each class as can be, from the `targets` `[N, C]`."""
    there = np.flatnonzero(targets.any(0))
    classes = rng.permutation(there)[: BATCH // 2]
    each = BATCH // len(classes)
    of = [np.flatnonzero(targets[:, index]) for index in classes]
    return np.unique(np.concatenate([rng.choice(own, min(each, len(own)), replace=False) for own in of]))


def contrast(vectors: Tensor, targets: Tensor) -> Tensor:
    """Return the supervised contrastive loss of `vectors` `[B, H]`; texts belong together where their `targets` `[B, C]` share a class.

    It is the mean, over the texts that belong together with others, of -log the share that those have in the softmax of similarities. Without
    any, it is 0.
    """
    unit = F.normalize(vectors, dim=1)
    itself = torch.eye(len(unit), dtype=torch.bool)
    together = (targets @ targets.T > 0) & ~itself
    similarity = (unit @ unit.T / TEMPERATURE).masked_fill(itself, -1e9)
    shares = similarity - similarity.logsumexp(1, keepdim=True)
    count = together.sum(1)
    return (-(shares * together).sum(1) / count.clamp(min=1)).sum() / (count > 0).sum().clamp(min=1)
