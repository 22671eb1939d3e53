"""The tree ranker: one LightGBM LambdaRank model per head, its scores calibrated to probabilities.

In: `dense` `[R, C, F]`, `categorical` `[R, C, G]`. Out: p(click), p(purchase) `[R, C, 2]`.
"""

import json
from pathlib import Path
from typing import Self

import lightgbm
import numpy as np
import torch
from scipy.special import expit

from recsys.arrays import Floats, Ints
from recsys.models.interest import HEADS
from recsys.models.rankers.base import Ranker


class LightGbmRanker(Ranker):
    """Trees that order candidates; p = sigmoid(slope · score + shift) (Platt 1999)."""

    def __init__(self, trees: list[lightgbm.Booster], calibration: list[tuple[float, float]]) -> None:
        """One of `trees` and one slope and shift of `calibration` per head."""
        self.trees, self.calibration = trees, calibration

    def probabilities(self, dense: Floats, categorical: Ints) -> Floats:
        """Return p(click) and p(purchase) `[R, C, 2]`."""
        rows, threads = tree_inputs(dense, categorical), torch.get_num_threads()  # as many as the networks use
        probabilities = np.empty((len(rows), len(HEADS)), np.float32)
        for head, (trees, (slope, shift)) in enumerate(zip(self.trees, self.calibration, strict=True)):
            scores = np.asarray(trees.predict(rows, num_threads=threads), np.float32)
            probabilities[:, head] = expit(slope * scores + shift)
        return probabilities.reshape(*dense.shape[:2], len(HEADS))

    def contributions(self, dense: Floats, categorical: Ints) -> Floats:
        """Return what each feature adds to the log odds of a click, `[R, C, F + G]` (SHAP, Lundberg 2018)."""
        shares = np.asarray(self.trees[0].predict(tree_inputs(dense, categorical), pred_contrib=True), np.float32)
        slope, _ = self.calibration[0]
        return np.float32(slope) * shares[:, :-1].reshape(*dense.shape[:2], -1)

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


def tree_inputs(dense: Floats, categorical: Ints) -> Floats:
    """Return one row `[R · C, F + G]` per candidate."""
    return np.concatenate([dense, categorical.astype(np.float32)], -1).reshape(
        -1, dense.shape[2] + categorical.shape[2]
    )
