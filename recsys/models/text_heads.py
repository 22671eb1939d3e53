"""Text heads: what is put upon the text encoder to tell classes of texts, or of words.

In: token ids and mask. Out: logits.

Shapes: B texts, T tokens, H hidden width of the encoder, C classes.
"""

from torch import Tensor, nn

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
