"""The ID residual: a learned vector per item that had events, on TorchRec.

In: item indexes `[S]`. Out: vectors `[S, D]`, zero for items that had no events when the model was
fitted; their item vectors depend on the text alone. Only this module, the ranker and
`training.interest.sharded_table` import torchrec.

Shapes: S items, N catalogue when fitted, D width.
"""

import logging

import torch
from torch import Tensor, nn
from torchrec import EmbeddingCollection, EmbeddingConfig, KeyedJaggedTensor

# Tracing inside torchrec warns about a renamed function of torch.
logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)

TABLE = "item_residual"
CPU = torch.device("cpu")


class TorchRecIdTable(nn.Module):
    """An `EmbeddingCollection` of one table; unknown items map to zero."""

    known: Tensor

    def __init__(self, known: Tensor, width: int, device: torch.device = CPU) -> None:
        """Make a table of zeros; `known` `[N]` says which items had events."""
        super().__init__()
        self.register_buffer("known", known)
        config = EmbeddingConfig(
            name=TABLE,
            embedding_dim=width,
            num_embeddings=max(len(known), 1),
            feature_names=["item_id"],
            init_fn=lambda weight: nn.init.zeros_(weight),
        )
        self.table = EmbeddingCollection(tables=[config], device=device)

    @staticmethod
    def regrown(state: dict[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
        """Return the `state` of a table for other items: item i takes row `rows[i]` `[N]`; -1 makes it unknown, its vector zero."""
        kept = rows >= 0
        taken = {name: tensor[rows.clamp(min=0)] for name, tensor in state.items()}
        return {name: tensor * kept.view(-1, *[1] * (tensor.ndim - 1)) for name, tensor in taken.items()}

    def forward(self, items: Tensor) -> Tensor:
        """Return the vectors `[S, D]` of item indexes `[S]`; indexes beyond the table map to zero."""
        known = self.known
        inside = items < len(known)
        rows = torch.where(inside, items, 0)
        lengths = torch.ones_like(rows, dtype=torch.int32)
        feature = KeyedJaggedTensor.from_lengths_sync(["item_id"], rows, lengths)
        vectors: Tensor = self.table(feature)["item_id"].values()
        return vectors * (inside & known[rows]).unsqueeze(-1)
