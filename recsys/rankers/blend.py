"""The blend of the neural and the tree ranker.

In: `dense` `[R, C, F]`, `categorical` `[R, C, G]`. Out: p(click), p(purchase) `[R, C, 2]`.
"""

from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from recsys.rankers.base import Ranker
from recsys.rankers.neural import TorchRecRanker
from recsys.rankers.trees import LightGbmRanker


class BlendRanker(Ranker):
    """The mean of both rankers' logits: trees and a network err in different places."""

    def __init__(self, neural: TorchRecRanker, trees: LightGbmRanker) -> None:
        self.rankers = (neural, trees)

    def probabilities(self, dense: Tensor, categorical: Tensor) -> Tensor:
        """Return p(click) and p(purchase) `[R, C, 2]`."""
        logits = [torch.logit(ranker.probabilities(dense, categorical), eps=1e-6) for ranker in self.rankers]
        return torch.sigmoid(torch.stack(logits).mean(0))

    def save(self, folder: Path) -> None:
        """Write both rankers into `folder`."""
        for ranker in self.rankers:
            ranker.save(folder)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        return cls(TorchRecRanker.load(folder), LightGbmRanker.load(folder))
