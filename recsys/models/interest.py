"""The interest model: an item tower over text and a user tower over histories.

In: pooled text vectors `[S, H]` of items, histories `[B, L]`. Out: unit item vectors `[S, D]` and
unit user vectors `[B, L, 2, D]`, one per position and head; interest is their cosine.

Shapes: B users, L history positions (right-aligned: the latest event is last), P selected
positions, S items, N catalogue, H width of the text encoder, D = H.
"""

import math
from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recsys.config import InterestConfig
from recsys.events import EVENT_TYPES
from recsys.models.dropout import Dropout
from recsys.models.encoder import TextEncoder
from recsys.models.taste import TasteModel

HEADS = ("click", "purchase")
"""`click` predicts the next interaction of any kind, `purchase` the next purchase."""

RECENCY_BUCKETS = 24
"""Buckets of log2(seconds since the event before); bucket 0 is no clock or no event before."""

SECOND_US = 1_000_000


class IdTable(Protocol):
    """A learned vector per known item (see `recsys.models.id_table`)."""

    def __call__(self, items: Tensor) -> Tensor:
        """Return the vectors `[S, D]` of item indexes `[S]`."""
        ...


@dataclass(frozen=True)
class HistoryBatch:
    """What B users had done before a moment; `items` padded with -1 on the left."""

    items: Tensor
    """`[B, L]` item indexes."""
    types: Tensor
    """`[B, L]` event type codes."""
    recency: Tensor
    """`[B, L]` recency buckets."""

    @property
    def mask(self) -> Tensor:
        """`[B, L]`, False where padded."""
        return self.items >= 0

    def to(self, device: torch.device) -> "HistoryBatch":
        """Move every tensor to `device`."""
        return HistoryBatch(*(to_device(tensor, device) for tensor in (self.items, self.types, self.recency)))


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Move `tensor` to `device`; a GPU copies from pinned memory, so that the copy does not wait for kernels."""
    pinned = tensor.pin_memory() if device.type == "cuda" and tensor.device.type == "cpu" else tensor
    return pinned.to(device, non_blocking=True)


def recency_buckets(times: Tensor, mask: Tensor, has_clock: bool) -> Tensor:
    """Return the bucket `[B, L]` of each event's gap in seconds to the event before it.

    `times` `[B, L]` are microseconds; bucket = 1 + floor(log2(1 + gap)), at most the last bucket.
    """
    buckets = torch.zeros(times.shape, dtype=torch.long, device=times.device)
    if has_clock and times.shape[1] > 1:
        gaps = (times[:, 1:] - times[:, :-1]).clamp(min=0) / SECOND_US
        known = mask[:, :-1] & mask[:, 1:]
        filled = (1 + torch.log2(1 + gaps).long()).clamp(max=RECENCY_BUCKETS - 1)
        buckets[:, 1:] = torch.where(known, filled, 0)
    return buckets


class UserTower(nn.Module):
    """A causal transformer on top of a decayed mean of the history's item vectors.

    The transformer's output starts at zero: before training the user vector is the decayed mean
    alone, which with frozen text vectors is a strong content-based recommender. Order enters by a
    linear bias on attention (ALiBi, Press et al. 2022), so a history may be longer than those
    seen in training.
    """

    def __init__(self, width: int, config: InterestConfig) -> None:
        super().__init__()
        self.width = width
        self.type_embedding = nn.Embedding(len(EVENT_TYPES), width)
        self.recency_embedding = nn.Embedding(RECENCY_BUCKETS, width)
        for embedding in (self.type_embedding, self.recency_embedding):
            nn.init.normal_(embedding.weight, std=0.02)
        self.blocks = nn.ModuleList(Block(width, config.heads, config.dropout) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, len(HEADS) * width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.decay = nn.Parameter(torch.tensor(math.log(0.7 / 0.3)))
        slopes = torch.tensor([2.0 ** (-8 * (head + 1) / config.heads) for head in range(config.heads)])
        self.register_buffer("slopes", slopes, persistent=False)

    def forward(self, vectors: Tensor, history: HistoryBatch) -> Tensor:
        """Return unit vectors `[B, L, 2, D]` from item vectors `[B, L, D]`; zero where padded."""
        return self._of_positions(vectors, history, slice(None))

    def last(self, vectors: Tensor, history: HistoryBatch) -> Tensor:
        """Return the unit vectors `[B, 2, D]` of the last position alone, which costs less."""
        return self._of_positions(vectors, history, slice(-1, None))[:, -1]

    def _of_positions(self, vectors: Tensor, history: HistoryBatch, positions: slice) -> Tensor:
        """Return `[B, P, 2, D]` of `positions`; all blocks but the last must compute the other positions, too."""
        mask = history.mask
        mean = self.decayed_mean(vectors, mask, positions)  # [B, P, D]
        hidden = vectors * math.sqrt(self.width)
        hidden = hidden + self.type_embedding(history.types) + self.recency_embedding(history.recency)
        bias = self.attention_bias(mask)  # [B or 1, heads, L, L]
        for block in self.blocks[:-1]:  # type: ignore[union-attr]
            hidden = block(hidden, bias)
        hidden, mask = self.blocks[-1](hidden, bias, positions), mask[:, positions]  # [B, P, D]
        change = self.out(self.norm(hidden)).unflatten(-1, (len(HEADS), self.width))  # [B, P, 2, D]
        return F.normalize(mean.unsqueeze(2) + change, dim=-1) * mask[:, :, None, None]

    def decayed_mean(self, vectors: Tensor, mask: Tensor, positions: slice) -> Tensor:
        """Return unit vectors `[B, P, D]`: at each of `positions` the mean of `vectors` `[B, L, D]`, the latest counting most."""
        steps = torch.arange(mask.shape[1], device=mask.device)
        back = steps[positions, None] - steps
        weights = torch.sigmoid(self.decay) ** back.clamp(min=0) * (back >= 0)  # [P, L]
        return F.normalize(weights @ (vectors * mask.unsqueeze(-1)), dim=-1)

    def attention_bias(self, mask: Tensor) -> Tensor:
        """Return what is added to the attention of each position (row) to each other, `[B or 1, heads, L, L]`."""
        steps = torch.arange(mask.shape[1], device=mask.device)
        distance = steps[:, None] - steps
        bias = -self.slopes[:, None, None] * distance  # type: ignore[index]
        if not self.training and mask.all():
            return bias.masked_fill(distance < 0, float("-inf")).unsqueeze(0)
        # A padded position sees itself, so that no row of the softmax is empty.
        visible = (distance > 0) & mask[:, None, :] | (distance == 0)
        return bias.masked_fill(~visible[:, None], float("-inf"))


class Block(nn.Module):
    """A pre-norm transformer layer with an additive attention bias."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.drop = heads, Dropout(dropout)
        self.norm_attention, self.norm_feed = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.merge = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), Dropout(dropout), nn.Linear(2 * width, width))

    def forward(self, hidden: Tensor, bias: Tensor, positions: slice = slice(None)) -> Tensor:
        """Map hidden states `[B, L, D]` with the bias `[B, heads, L, L]` to those of `positions` `[B, P, D]`."""
        query, key, value = self._split(self.norm_attention(hidden), positions)  # each [B, heads, P or L, D / heads]
        hidden, bias = hidden[:, positions], bias[:, :, positions]
        read = self._read(query, key, value, bias.to(query.dtype))
        hidden = hidden + self.drop(self.merge(read.transpose(1, 2).flatten(2)))
        return hidden + self.drop(self.feed(self.norm_feed(hidden)))

    def _read(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        """Return the attention of `query` `[B, heads, P, D / heads]` to keys and values, in the query's shape."""
        if self.training and query.device.type == "cpu":  # PyTorch fuses nothing there with dropout
            scores = query * query.shape[-1] ** -0.5 @ key.transpose(-1, -2) + bias
            return self.drop(scores.softmax(-1, dtype=torch.float32).to(value.dtype)) @ value
        dropout = self.drop.share if self.training else 0.0
        return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout)

    def _split(self, normed: Tensor, positions: slice) -> tuple[Tensor, ...]:
        """Return queries of `positions` `[B, heads, P, D / heads]`, and keys and values of all."""
        width = normed.shape[-1]
        if positions == slice(None):
            return self.qkv(normed).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind()
        query = F.linear(normed[:, positions], self.qkv.weight[:width], self.qkv.bias[:width])
        both = F.linear(normed, self.qkv.weight[width:], self.qkv.bias[width:]).unflatten(-1, (2, self.heads, -1))
        return query.unflatten(-1, (self.heads, -1)).transpose(1, 2), *both.permute(2, 0, 3, 1, 4).unbind()


class InterestModel(nn.Module):
    """Item tower (encoder, projection, ID residual), user tower and learned temperature."""

    def __init__(self, encoder: TextEncoder, config: InterestConfig, id_table: nn.Module | None) -> None:
        super().__init__()
        self.encoder = encoder
        self.id_table = id_table
        self.projection = nn.Linear(encoder.width, encoder.width)
        nn.init.eye_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)
        self.user_tower = UserTower(encoder.width, config)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(config.temperature)))
        self.id_dropout = config.id_dropout
        self.taste: TasteModel | None = None

    def eval(self) -> Self:
        """Switch to inference; to visit every layer of a model that is there already would take milliseconds."""
        return super().eval() if self.training else self

    @property
    def temperature(self) -> Tensor:
        """The softmax temperature, held within [0.01, 1]."""
        return self.log_temperature.exp().clamp(0.01, 1.0)

    def item_vectors(self, pooled: Tensor, items: Tensor, encoder_only: bool = False) -> Tensor:
        """Return unit vectors `[S, D]` of text vectors `[S, H]` and item indexes `[S]`.

        With `encoder_only` gradients reach the text encoder alone.
        """
        weight: Tensor = self.projection.weight.detach() if encoder_only else self.projection.weight
        bias: Tensor = self.projection.bias.detach() if encoder_only else self.projection.bias
        vectors = F.normalize(F.linear(F.normalize(pooled, dim=-1), weight, bias), dim=-1)
        if self.id_table is not None:
            residual = self.id_table(items)
            if self.training:
                residual = residual * (torch.rand(len(items), 1, device=residual.device) >= self.id_dropout)
            vectors = F.normalize(vectors + (residual.detach() if encoder_only else residual), dim=-1)
        return vectors

    def hide(self, items: Tensor) -> None:
        """Treat the items for which `items` `[N]` holds as if they had had no events."""
        if self.id_table is not None:
            self.id_table.get_buffer("known").logical_and_(~items)

    def know(self, items: Tensor) -> None:
        """Let the items for which `items` `[N]` holds have an ID residual, beside those that have one."""
        if self.id_table is not None:
            self.id_table.get_buffer("known").logical_or_(items)

    def user_vectors(self, vectors: Tensor, history: HistoryBatch) -> Tensor:
        """Return unit vectors `[B, L, 2, D]` from the history's item vectors `[B, L, D]`."""
        users: Tensor = self.user_tower(vectors, history)
        return users

    def last_user_vectors(self, vectors: Tensor, history: HistoryBatch) -> Tensor:
        """Return unit vectors `[B, 2, D]` after the last event of each history; zero for an empty one.

        `vectors` `[N, D]` are those of the whole catalogue.
        """
        last: Tensor = self.user_tower.last(vectors[history.items.clamp(min=0)], history)
        return last
