"""Labelled texts divided into those that are fitted, those that choices are made on, and those that are measured.

In: how many there are. Out: `Parts` of their rows.
"""

from dataclasses import dataclass

import numpy as np

from recsys.arrays import Ints

SHARES = (0.6, 0.2)
"""Of `train` and `valid`; the rest is `test`."""


@dataclass(frozen=True)
class Parts:
    """Rows of each part, in the order of the shuffle."""

    train: Ints
    valid: Ints
    test: Ints


def shuffled_parts(count: int, seed: int = 0) -> Parts:
    """Return `count` rows shuffled by `seed` and divided 6:2:2."""
    rows = np.random.default_rng(seed).permutation(count)
    stops = np.cumsum([round(share * count) for share in SHARES])
    train, valid, test = np.split(rows, stops)
    return Parts(train, valid, test)
