"""What the search has learned from queries and the items that were chosen: how a query is read, and how much its words count.

In: the vectors of what was typed. Out: those that the items are compared with. `training.queries` fits it; a bundle without it
searches by the vectors as they are.

Shapes: Q queries, D width.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from recsys.arrays import Floats

FILE = "queries.safetensors"


@dataclass(frozen=True)
class QueryTower:
    """The query's side of the search. Items keep their vectors, so that new ones are found like others."""

    residual: Floats
    """`[D, D]` what is added to the vector of a query, times that vector."""
    words: float
    """How much a full match of words counts against a cosine of 1."""

    @classmethod
    def untaught(cls, width: int) -> "QueryTower":
        """Return the one that changes nothing; `width` is D."""
        return cls(np.zeros((width, width), np.float32), 1.0)

    def vectors(self, typed: Floats) -> Floats:
        """Return the unit vectors `[Q, D]` of queries whose vectors are `typed` `[Q, D]`."""
        moved = typed + typed @ self.residual.T
        length = np.linalg.norm(moved, axis=1, keepdims=True)
        return (moved / np.maximum(length, 1e-12)).astype(np.float32)

    def save(self, folder: Path) -> None:
        """Write it into the bundle in `folder`."""
        tensors = {"residual": torch.from_numpy(self.residual), "words": torch.tensor(self.words)}
        save_file(tensors, folder / FILE)

    @classmethod
    def load(cls, folder: Path) -> "QueryTower | None":
        """Read what `save` wrote; None where the bundle has not learned from queries."""
        if not (folder / FILE).exists():
            return None
        tensors = load_file(folder / FILE)
        return cls(tensors["residual"].numpy(), float(tensors["words"]))
