"""What every kind of ranker offers, and the value formula.

In: `dense` `[R, C, F]`, `categorical` `[R, C, G]`. Out: p(click), p(purchase) `[R, C, 2]`.
"""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Self

import numpy as np

from recsys.arrays import Floats, Ints
from recsys.config import ValueConfig


class Ranker(ABC):
    """Turns features of candidates into probabilities; saved in the bundle."""

    @abstractmethod
    def probabilities(self, dense: Floats, categorical: Ints) -> Floats:
        """Return p(click) and p(purchase) `[R, C, 2]`."""

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
