"""Text heads: what is put upon the text encoder to tell classes of texts, or of words.

In: token ids and mask. Out: logits.

Shapes: B texts, T tokens, H hidden width of the encoder, C classes.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recsys.models.encoder import TextEncoder


class TextHead(nn.Module):
    """The encoder with a linear layer upon it."""

    def __init__(self, encoder: TextEncoder, classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(encoder.width, classes)


class ClassHead(TextHead):
    """Tells the classes of a text from its pooled vector."""

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return logits `[B, C]`, from ids and mask `[B, T]`."""
        return self.linear(self.dropout(self.encoder(ids, mask)))


class TokenHead(TextHead):
    """Tells the class of each token from its hidden state."""

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return logits `[B, T, C]`, from ids and mask `[B, T]`."""
        return self.linear(self.dropout(self.encoder.states(ids, mask)))


class AnswerHead(nn.Module):
    """Vectors of questions and answers, whose product says how well one answers the other.

    It begins as the encoder's own similarity and learns what to add to it.
    """

    def __init__(self, encoder: TextEncoder, dropout: float = 0.0) -> None:
        super().__init__()
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        self.residual = nn.Linear(encoder.width, encoder.width, bias=False)
        nn.init.zeros_(self.residual.weight)
        self.scale = nn.Parameter(torch.tensor(3.0))
        """Logarithm of the factor that turns similarities into logits."""

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return unit vectors `[B, H]`, from ids and mask `[B, T]`."""
        return self.project(self.encoder(ids, mask))

    def project(self, pooled: Tensor) -> Tensor:
        """Return unit vectors `[B, H]`, from pooled vectors `[B, H]` of the encoder."""
        pooled = F.normalize(pooled, dim=-1)
        return F.normalize(pooled + self.residual(self.dropout(pooled)), dim=-1)
