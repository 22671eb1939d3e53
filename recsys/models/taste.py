"""The taste model: what of an item's text its users care for, clause by clause, and how it ranks by that.

In: the vectors of text segments and the histories' items. Out: unit taste vectors `[N, A]`, and the relevance of items
after a history. Each segment is encoded by itself and projected to a few numbers; an item is their mean by learned
weights. Which events of the history speak for a candidate is attention by similarity and category, as in DIN (Zhou et
al. 2018).

Shapes: N items, M distinct segments, E pairs of item and segment, H width of the text encoder, A of taste vectors,
R requests, L history positions, C candidates.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recsys.arrays import Bools, Floats, Ints, spans

KINDS = ("title", "brand and category", "tag", "clause", "whole text")
"""Kinds of segments."""

PRIOR = 0.1
"""Added to the sum of weights that they are divided by, so that a faint match says less than a clear one."""


@dataclass(frozen=True)
class SegmentVectors:
    """The segments of N items as vectors; item i has the pairs `offsets[i]:offsets[i + 1]`."""

    vectors: Floats
    """`[M, H]` unit vectors of distinct segments."""
    rows: Ints
    """`[E]` row of `vectors` of each pair."""
    kinds: Ints
    """`[E]` index of `KINDS`."""
    offsets: Ints
    """`[N + 1]`"""


class TasteModel(nn.Module):
    """A projection of segments, their weights, and the few numbers by which similarities become a score."""

    centre: Tensor
    """`[H]` mean of the segments' vectors."""

    def __init__(self, width: int, taste_width: int) -> None:
        """`width` is that of the text encoder."""
        super().__init__()
        self.taste_width = taste_width
        self.register_buffer("centre", torch.zeros(width))
        self.projection = nn.Linear(width, taste_width, bias=False)
        self.weigh = nn.Linear(width, 1, bias=False)
        nn.init.zeros_(self.weigh.weight)
        self.kind = nn.Parameter(torch.zeros(len(KINDS)))
        self.decay = nn.Parameter(torch.tensor(2.0))
        self.focus = nn.Parameter(torch.tensor(1.0))
        self.elsewhere = nn.Parameter(torch.tensor(-3.0))
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.same_category = nn.Parameter(torch.tensor(3.0))
        self.popularity = nn.Parameter(torch.tensor(0.5))
        self.unknown = nn.Parameter(torch.tensor(0.0))

    @torch.no_grad()
    def start_from(self, vectors: Tensor) -> None:
        """Centre on the mean of `vectors` `[M, H]` and project to the directions in which they differ most."""
        self.centre.copy_(vectors.mean(0))
        _, directions = torch.linalg.eigh(torch.cov(vectors.T, correction=0))  # columns, the largest last
        self.projection.weight[: directions.shape[1]] = 2 * directions.T.flip(0)[: self.taste_width]

    def item_vectors(self, texts: "SegmentVectors", items: Ints) -> Tensor:
        """Return the unit taste vectors `[U, A]` of `items` `[U]`."""
        counts = np.diff(texts.offsets)[items]
        pairs = spans(texts.offsets[items], counts)
        distinct, rows = np.unique(texts.rows[pairs], return_inverse=True)  # many items share a segment
        centred = torch.from_numpy(texts.vectors[distinct]) - self.centre  # [m, H]
        columns, kinds = torch.from_numpy(rows), torch.from_numpy(texts.kinds[pairs])
        weights = torch.exp(self.weigh(centred)[columns, 0] + self.kind[kinds])  # [e]
        weighted = self.projection(centred)[columns] * weights[:, None]  # [e, A]
        owners = torch.from_numpy(np.repeat(np.arange(len(items)), counts))
        return F.normalize(torch.zeros(len(items), self.taste_width).index_add(0, owners, weighted), dim=1)

    def event_weights(self, known: Tensor) -> Tensor:
        """Return the weights `[R, L]` of a history's events, the latest counting most; 0 where not `known` `[R, L]`."""
        back = torch.arange(known.shape[1] - 1, -1, -1, device=known.device)
        return torch.sigmoid(self.decay) ** back * known

    def relevance(self, similarity: Tensor, same: Tensor, weights: Tensor, bias: Tensor) -> Tensor:
        """Return the scores `[R, C]` of candidates, each by the events that speak for it (attention by similarity).

        `similarity` `[R, C, L]` are products of taste vectors, `same` `[R, C, L]` says whether the categories agree,
        `weights` `[R, L]` are those of the events, `bias` `[R, C]` or `[C]` that of each candidate.
        """
        heard = weights[:, None] * torch.exp(self.focus * similarity + self.elsewhere * ~same)
        heard = heard / (heard.sum(2, keepdim=True) + PRIOR)
        return ((self.scale.exp() * similarity + self.same_category * same) * heard).sum(2) + bias

    def bias(self, counts: Tensor, known: Tensor) -> Tensor:
        """Return what items are worth by their `counts` of events alone; those not `known` have a worth of their own."""
        return torch.where(known, self.popularity * torch.log1p(counts), self.unknown)


def same_category(past: Ints, candidates: Ints) -> Bools:
    """Return whether candidates and history events have one known category, `[R, C, L]`.

    `past` `[R, L]` and `candidates` `[R, C]` or `[C]` are the codes of their categories from 1; 0 where unknown.
    """
    same: Bools = (candidates[..., None] == past[:, None]) & (past[:, None] > 0)
    return same
