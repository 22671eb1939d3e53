"""The tree ranker: one LightGBM LambdaRank model per head, its scores calibrated to probabilities.

In: `dense` `[R, C, F]`, `categorical` `[R, C, G]`. Out: p(click), p(purchase) `[R, C, 2]`.
"""

import json
from pathlib import Path
from typing import Self

import lightgbm
import numpy as np
import torch

from recsys.arrays import Floats, Ints
from recsys.models.interest import HEADS
from recsys.models.rankers.base import UNCHANGED, Lines, Ranker


class LightGbmRanker(Ranker):
    """Trees that order candidates; log odds = slope · score + shift (Platt 1999)."""

    def __init__(self, trees: list[lightgbm.Booster], calibration: Lines) -> None:
        """One of `trees` and one slope and shift of `calibration` per head."""
        self.trees, self.calibration = trees, calibration

    def log_odds(self, dense: Floats, categorical: Ints) -> Floats:
        """Return the log odds of a click and of a purchase `[R, C, 2]`."""
        rows, threads = tree_inputs(dense, categorical), torch.get_num_threads()  # as many as the networks use
        odds = np.empty((len(rows), len(HEADS)), np.float32)
        for head, (trees, (slope, shift)) in enumerate(zip(self.trees, self.calibration, strict=True)):
            odds[:, head] = slope * np.asarray(trees.predict(rows, num_threads=threads), np.float32) + shift
        return odds.reshape(*dense.shape[:2], len(HEADS))

    def calibrate(self, lines: Lines) -> None:
        """Put slope · log odds + shift in the place of the log odds."""
        self.calibration = [
            (slope * before, slope * below + shift)
            for (slope, shift), (before, below) in zip(lines, self.calibration, strict=True)
        ]

    def contributions(self, dense: Floats, categorical: Ints) -> Floats:
        """Return what each feature adds to the log odds of a click, `[R, C, F + G]` (SHAP, Lundberg 2018)."""
        shares = np.asarray(self.trees[0].predict(tree_inputs(dense, categorical), pred_contrib=True), np.float32)
        slope, _ = self.calibration[0]
        return np.float32(slope) * shares[:, :-1].reshape(*dense.shape[:2], -1)

    def save(self, folder: Path) -> None:
        """Write `trees-HEAD.txt` and `trees.json`."""
        for head, trees in zip(HEADS, self.trees, strict=True):
            trees.save_model(folder / f"trees-{head}.txt")
        (folder / "trees.json").write_text(
            json.dumps({"calibration": self.calibration, "shown": self.shown}), encoding="utf-8"
        )

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        lines = json.loads((folder / "trees.json").read_text(encoding="utf-8"))
        ranker = cls(
            [lightgbm.Booster(model_file=folder / f"trees-{head}.txt") for head in HEADS], lines["calibration"]
        )
        ranker.shown = lines.get("shown", UNCHANGED)
        return ranker


def tree_inputs(dense: Floats, categorical: Ints) -> Floats:
    """Return one row `[R · C, F + G]` per candidate."""
    return np.concatenate([dense, categorical.astype(np.float32)], -1).reshape(
        -1, dense.shape[2] + categorical.shape[2]
    )
