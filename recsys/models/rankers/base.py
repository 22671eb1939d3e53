"""What every kind of ranker offers, and the value formula.

In: `dense` `[R, C, F]`, `categorical` `[R, C, G]`. Out: p(click), p(purchase) `[R, C, 2]`.
"""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Self

import numpy as np
from scipy.special import expit, logit

from recsys.arrays import Floats, Ints
from recsys.config import ValueConfig

Lines = list[tuple[float, float]]
"""Slope and shift of the log odds, by head (Platt 1999)."""

UNCHANGED: Lines = [(1.0, 0.0), (1.0, 0.0)]


class Ranker(ABC):
    """Turns features of candidates into probabilities; saved in the bundle."""

    shown: Lines = UNCHANGED
    """From the log odds of a retrieved candidate to those of an item that is shown."""

    def probabilities(self, dense: Floats, categorical: Ints) -> Floats:
        """Return p(click) and p(purchase) of retrieved candidates `[R, C, 2]`, which lists are ordered by."""
        return np.asarray(expit(self.log_odds(dense, categorical)))

    def when_shown(self, probabilities: Floats) -> Floats:
        """Return what the `probabilities` `[..., 2]` of candidates become for those that are shown."""
        slopes, shifts = np.array(self.shown, np.float32).T
        return np.asarray(expit(slopes * logit(np.clip(probabilities, 1e-7, 1 - 1e-7)) + shifts), np.float32)

    @abstractmethod
    def log_odds(self, dense: Floats, categorical: Ints) -> Floats:
        """Return the log odds of a click and of a purchase `[R, C, 2]`."""

    @abstractmethod
    def calibrate(self, lines: Lines) -> None:
        """Put slope · log odds + shift in the place of the log odds."""

    @abstractmethod
    def contributions(self, dense: Floats, categorical: Ints) -> Floats:
        """Return what each feature adds to the log odds of a click, `[R, C, F + G]`."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the ranker into `folder`."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""


def value(probabilities: Floats, price: Floats, config: ValueConfig) -> Floats:
    """Return the value `[R, C]` = click · p(click) + purchase · p(purchase) · price^price_power.

    `probabilities` `[R, C, 2]`; `price` `[R, C]` in units of the dataset.
    """
    worth = config.purchase * np.maximum(price, 1e-6) ** config.price_power if config.price_power else config.purchase
    return np.asarray(config.click * probabilities[..., 0] + worth * probabilities[..., 1], np.float32)
