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

from recsys.arrays import Floats, Ints
from recsys.models.interest import HEADS
from recsys.models.rankers.base import UNCHANGED, Lines, Ranker
from recsys.models.rankers.split_codes import SplitCodes


class LightGbmRanker(Ranker):
    """Trees that order candidates; log odds = slope · score + shift (Platt 1999)."""

    def __init__(self, trees: list[lightgbm.Booster], calibration: Lines) -> None:
        """One of `trees` and one slope and shift of `calibration` per head."""
        self.trees, self.calibration = trees, calibration
        self._codes = SplitCodes.of(trees)

    def log_odds(self, dense: Floats, categorical: Ints) -> Floats:
        """Return the log odds of a click and of a purchase `[R, C, 2]`."""
        slopes, shifts = np.array(self.calibration, np.float32).T
        scores = self._scores(dense, categorical).astype(np.float32)
        return (slopes[:, None] * scores + shifts[:, None]).T.reshape(*dense.shape[:2], len(HEADS))

    def _scores(self, dense: Floats, categorical: Ints) -> NDArray[np.float64]:
        """Return what the trees of each head predict, `[2, R · C]`."""
        if self._codes:
            inputs = np.concatenate([np.moveaxis(dense, 2, 0), np.moveaxis(categorical, 2, 0)], dtype=np.float32)
            return self._codes.predict(inputs.reshape(len(inputs), -1))
        rows, threads = tree_inputs(dense, categorical), torch.get_num_threads()  # as many as the networks use
        return np.stack([np.asarray(trees.predict(rows, num_threads=threads)) for trees in self.trees])

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
