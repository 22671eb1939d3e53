"""Small LightGBM trees as lookup tables: what they predict, several times as fast.

In: the trees, and columns `[F, n]` of inputs. Out: the sum of each model's leaves `[M, n]`.

Walking a tree takes a jump that the processor cannot foresee at every split. A tree of few leaves has so few splits that
all of them are compared instead, for many rows at once; their results are the bits of a code, and the code's entry in the
tree's table is the value of the leaf (like QuickScorer, Lucchese et al. 2015).

Shapes: M models, T trees of all models, S splits of a tree, F inputs, n rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import lightgbm
import numpy as np
from numpy.typing import NDArray

from recsys.arrays import Floats, Ints

MOST_SPLITS = 8
"""Splits of a tree whose results are a code of one byte."""

BLOCK = 512
"""Rows that are worked on at once: few enough to stay in the processor's cache."""

Node = Mapping[str, Any]
"""A node of a tree as LightGBM dumps it."""


@dataclass(frozen=True)
class SplitCodes:
    """The trees of some models as tables."""

    inputs: Ints
    """`[S, T]` the input that each split compares; a tree of fewer splits has some that never go right."""
    thresholds: Floats
    """`[S, T]` a row goes right where its input is larger."""
    left: Mapping[tuple[int, int], Floats]
    """By split and tree: the codes of an input that go left, where its numbers have no order."""
    leaves: NDArray[np.float64]
    """`[T · 2^S]` for each tree the leaf of every code."""
    ends: Ints
    """`[M]` number of trees up to the end of each model."""

    @classmethod
    def of(cls, models: Sequence[lightgbm.Booster]) -> "SplitCodes | None":
        """Return the tables of `models`; None where there is no tree, or one has too many splits or tells missing values from 0."""
        trees = [[tree["tree_structure"] for tree in model.dump_model()["tree_info"]] for model in models]
        splits = [_splits(tree) for model in trees for tree in model]
        most = max([len(nodes) for nodes in splits], default=0)
        if (
            not splits
            or most > MOST_SPLITS
            or any(node["missing_type"] != "None" for nodes in splits for node in nodes)
        ):
            return None
        inputs = np.zeros((most, len(splits)), np.int64)
        thresholds, left = np.full(inputs.shape, np.inf, np.float32), {}
        for tree, nodes in enumerate(splits):
            for bit, node in enumerate(nodes):
                inputs[bit, tree] = node["split_feature"]
                if node["decision_type"] == "==":
                    left[bit, tree] = np.array(node["threshold"].split("||"), np.float32)
                else:
                    thresholds[bit, tree] = _rounded_down(node["threshold"])
        codes = np.arange(2**most)
        leaves = [_leaves(tree, codes) for model in trees for tree in model]
        return cls(inputs, thresholds, left, np.concatenate(leaves), np.cumsum([len(model) for model in trees]))

    def predict(self, columns: Floats) -> NDArray[np.float64]:
        """Return the predictions `[M, n]` for `columns` `[F, n]`."""
        blocks = range(0, columns.shape[1], BLOCK)
        return np.concatenate([self._predicted(columns[:, start : start + BLOCK]) for start in blocks], axis=1)

    def _predicted(self, columns: Floats) -> NDArray[np.float64]:
        columns = np.where(np.isnan(columns), 0, columns)  # as LightGBM reads a value that no training row lacked
        right = columns.take(self.inputs, 0) > self.thresholds[:, :, None]  # [S, T, n]
        for (bit, tree), codes in self.left.items():
            right[bit, tree] = ~np.isin(columns[self.inputs[bit, tree]], codes)
        splits, trees = self.inputs.shape
        codes = np.einsum("stn,s->tn", right.view(np.uint8), np.uint8(1) << np.arange(splits, dtype=np.uint8))
        values = self.leaves.take(codes + (np.arange(trees) << splits)[:, None])  # [T, n]
        return np.stack([values[start:end].sum(0) for start, end in zip([0, *self.ends], self.ends, strict=False)])


def _splits(node: Node) -> list[Node]:
    if "leaf_value" in node:
        return []
    return [node, *_splits(node["left_child"]), *_splits(node["right_child"])]


def _leaves(node: Node, codes: Ints) -> NDArray[np.float64]:
    """Return the leaf of each of `codes`, whose bits are the results of the splits in the order of `_splits`."""
    if "leaf_value" in node:
        return np.full(len(codes), node["leaf_value"], np.float64)
    left, right = node["left_child"], node["right_child"]
    beyond = 1 + len(_splits(left))
    return np.where(codes & 1, _leaves(right, codes >> beyond), _leaves(left, codes >> 1))


def _rounded_down(threshold: float) -> np.float32:
    """Return the largest float32 up to `threshold`: a float32 is larger than both or neither."""
    nearest = np.float32(threshold)
    return np.nextafter(nearest, np.float32(-np.inf)) if float(nearest) > threshold else nearest
