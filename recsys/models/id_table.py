"""The ID residual: a learned vector per item that had events, on TorchRec.

In: item indexes `[S]`. Out: vectors `[S, D]`, zero for items without events when the model was
fitted, whose text speaks alone. This module and the ranker are the doors to torchrec.
"""

import logging

import torch
from torch import Tensor, nn
from torchrec import EmbeddingCollection, EmbeddingConfig, KeyedJaggedTensor

# Tracing inside torchrec warns of a renamed function of torch.
logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)


class TorchRecIdTable(nn.Module):
    """An `EmbeddingCollection` of one table whose unknown items map to zero."""

    def __init__(self, known: Tensor, width: int) -> None:
        """Make a table of zeros for `known` `[N]` (True where an item had events)."""
        super().__init__()
        self.register_buffer("known", known)
        config = EmbeddingConfig(
            name="item_residual",
            embedding_dim=width,
            num_embeddings=max(len(known), 1),
            feature_names=["item_id"],
            init_fn=lambda weight: nn.init.zeros_(weight),
        )
        self.table = EmbeddingCollection(tables=[config], device=torch.device("cpu"))

    def forward(self, items: Tensor) -> Tensor:
        """Return the vectors `[S, D]` of item indexes `[S]`; indexes past the table give zero."""
        known: Tensor = self.known  # type: ignore[assignment]
        inside = items < len(known)
        rows = torch.where(inside, items, 0)
        lengths = torch.ones_like(rows, dtype=torch.int32)
        feature = KeyedJaggedTensor.from_lengths_sync(["item_id"], rows, lengths)
        vectors: Tensor = self.table(feature)["item_id"].values()
        return vectors * (inside & known[rows]).unsqueeze(-1)
