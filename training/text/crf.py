"""The loss of a linear-chain conditional random field (Lafferty, McCallum, Pereira 2001). Plain PyTorch.

In: logits of the tags of words, their true tags, what steps between tags add. Out: a loss.

Shapes: B texts, W words, C tags.
"""

import torch
from torch import Tensor


def crf_loss(logits: Tensor, target: Tensor, steps: Tensor, first: Tensor) -> Tensor:
    """Return the negative log-likelihood of the true tags of all texts, divided by the number of words.

    `logits` `[B, W, C]` in float32; `target` `[B, W]`, -1 where a text has ended; `steps` `[C, C]` is added for a step from a tag (rows) to the next, `first` `[C]`
    for the tag of the first word. A text without words adds nothing.
    """
    present = target >= 0
    losses = _all_paths(logits, present, steps, first) - _path(logits, target, steps, first)
    return (losses * present[:, 0]).sum() / present.sum().clamp(min=1)


def _path(logits: Tensor, target: Tensor, steps: Tensor, first: Tensor) -> Tensor:
    """Return the score `[B]` of the true tags."""
    present, tags = target >= 0, target.clamp(min=0)
    words = logits.gather(2, tags.unsqueeze(2)).squeeze(2)
    return (words * present).sum(1) + first[tags[:, 0]] + (steps[tags[:, :-1], tags[:, 1:]] * present[:, 1:]).sum(1)


def _all_paths(logits: Tensor, present: Tensor, steps: Tensor, first: Tensor) -> Tensor:
    """Return the logarithm `[B]` of the sum over all sequences of tags (the forward algorithm)."""
    score = logits[:, 0] + first
    for word in range(1, logits.shape[1]):
        reached = torch.logsumexp(score.unsqueeze(2) + steps, 1) + logits[:, word]
        score = torch.where(present[:, word].unsqueeze(1), reached, score)
    return torch.logsumexp(score, 1)
