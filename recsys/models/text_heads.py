"""Text heads: what is put upon the text encoder to tell classes of texts, or of words.

In: token ids and mask, or a batch of words. Out: logits.

Shapes: B texts, T tokens, W words, H hidden width of the encoder, C classes.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recsys.models.encoder import TextEncoder
from recsys.text.words import SHAPES, WordBatch


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
    """Tells the class of each word from the hidden states of its sub-words, and from how it is written.

    The shapes of words enter where training begins, so that the trained layers read them in their context, and again at the top.
    """

    def __init__(self, encoder: TextEncoder, classes: int, dropout: float = 0.0) -> None:
        super().__init__(encoder, classes, dropout)
        self.below = nn.ModuleList(nn.Embedding(count, encoder.width) for count in SHAPES)
        self.above = nn.ModuleList(nn.Embedding(count, encoder.width) for count in SHAPES)
        self.mix = nn.Parameter(torch.zeros(len(encoder.layers) - encoder.split + 1))
        for table in (*self.below, *self.above):
            nn.init.zeros_(table.weight)  # type: ignore[arg-type]
        self.transitions = nn.Parameter(torch.zeros(classes, classes))
        """What is added for a step from one class (rows) to the next; 0 where words are told one by one."""

    def forward(self, words: WordBatch) -> Tensor:
        """Return logits `[B, W, C]`."""
        return self.linear(self.dropout(self._words(words)))

    def _words(self, words: WordBatch) -> Tensor:
        """Return a vector of each word `[B, W, H]`: the mean of its sub-words, a mix of the trained layers."""
        encoder, owner = self.encoder, words.owner.unsqueeze(-1)  # [B, T, 1]
        padded = F.pad(_sum(self.below, words.shapes), (0, 0, 0, 1))  # [B, W + 1, H]
        spread = owner.expand(*words.owner.shape, encoder.width)
        hidden = encoder.lower(words.ids, words.mask) + padded.gather(1, spread)  # [B, T, H]
        layers = encoder.each_state(hidden, words.mask)
        mixed = (torch.stack(layers) * self.mix.softmax(0).view(-1, 1, 1, 1)).sum(0).float()
        count = torch.zeros(len(owner), words.shapes.shape[1] + 1, 1).scatter_add(
            1, owner, words.mask.float().unsqueeze(-1)
        )
        total = torch.zeros(*count.shape[:2], encoder.width).scatter_add(1, spread, mixed)
        return (total / count.clamp(min=1))[:, :-1] + _sum(self.above, words.shapes)


def _sum(tables: nn.ModuleList, codes: Tensor) -> Tensor:
    """Return the sum `[B, W, H]` of the vectors of `codes` `[B, W, S]`."""
    return torch.stack([table(codes[..., index]) for index, table in enumerate(tables)]).sum(0)


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
