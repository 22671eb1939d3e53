"""The tree ranker: one LightGBM LambdaRank model per head, its scores calibrated to probabilities.

In: `dense` `[R, C, F]`, `categorical` `[R, C, G]`. Out: p(click), p(purchase) `[R, C, 2]`.
"""

import json
from pathlib import Path
from typing import Self

import lightgbm
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.models.interest import HEADS
from recsys.models.rankers.base import Ranker


class LightGbmRanker(Ranker):
    """Trees that order candidates; p = sigmoid(slope · score + shift) (Platt 1999)."""

    def __init__(self, trees: list[lightgbm.Booster], calibration: list[tuple[float, float]]) -> None:
        """One of `trees` and one slope and shift of `calibration` per head."""
        self.trees, self.calibration = trees, calibration

    def probabilities(self, dense: Tensor, categorical: Tensor) -> Tensor:
        """Return p(click) and p(purchase) `[R, C, 2]`."""
        rows = tree_inputs(dense, categorical)
        heads = []
        for trees, (slope, shift) in zip(self.trees, self.calibration, strict=True):
            found = trees.predict(rows, num_threads=torch.get_num_threads())
            scores = torch.from_numpy(np.asarray(found, np.float32))
            heads.append(torch.sigmoid(slope * scores + shift).view(dense.shape[:2]))
        return torch.stack(heads, -1)

    def contributions(self, dense: Tensor, categorical: Tensor) -> Tensor:
        """Return what each feature adds to the log odds of a click, `[R, C, F + G]` (SHAP, Lundberg 2018)."""
        shares = np.asarray(self.trees[0].predict(tree_inputs(dense, categorical), pred_contrib=True), np.float32)
        slope, _ = self.calibration[0]
        return slope * torch.from_numpy(shares[:, :-1]).unflatten(0, dense.shape[:2])

    def save(self, folder: Path) -> None:
        """Write `trees-HEAD.txt` and `trees.json`."""
        for head, trees in zip(HEADS, self.trees, strict=True):
            trees.save_model(folder / f"trees-{head}.txt")
        (folder / "trees.json").write_text(json.dumps({"calibration": self.calibration}), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        calibration = json.loads((folder / "trees.json").read_text(encoding="utf-8"))["calibration"]
        return cls([lightgbm.Booster(model_file=folder / f"trees-{head}.txt") for head in HEADS], calibration)


def tree_inputs(dense: Tensor, categorical: Tensor) -> NDArray[np.float32]:
    """Return one row `[R · C, F + G]` per candidate."""
    return torch.cat([dense, categorical.float()], -1).flatten(0, 1).numpy()
