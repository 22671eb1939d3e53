"""The user tower as serving computes it on a CPU: the vectors of the last position, in about two thirds of the time.

In: histories `[B, L]` and the vectors of their items. Out: unit user vectors `[B, 2, D]`, those of `UserTower.last` within 1e-6.

What is quicker: no modules, whose calls cost a single request as much as their work; NumPy's matrix products, whose
weights are laid out once; and a last block that projects one query instead of all keys and values.

Shapes: B users, L history positions (right-aligned), H heads, D width.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recsys.models.interest import HEADS, Block, HistoryBatch, UserTower

KEPT_LENGTHS = 64
"""Lengths of histories whose attention bias is kept: 2.6 MB if all are at most 50."""


@dataclass(frozen=True)
class _Linear:
    weight: Tensor
    """`[in, out]`, rows in one piece."""
    bias: Tensor

    @classmethod
    def of(cls, layer: nn.Module) -> "_Linear":
        assert isinstance(layer, nn.Linear)
        return cls(layer.weight.detach().T.contiguous(), layer.bias.detach())

    def __call__(self, inputs: Tensor) -> Tensor:
        """Map `[n, in]` to `[n, out]`."""
        return torch.from_numpy(inputs.numpy() @ self.weight.numpy()).add_(self.bias)


class _Layer:
    """One block of the tower."""

    def __init__(self, block: Block) -> None:
        self.norms, self.heads = (block.norm_attention, block.norm_feed), block.heads
        self.qkv, self.merge = _Linear.of(block.qkv), _Linear.of(block.merge)
        self.up, self.down = _Linear.of(block.feed[0]), _Linear.of(block.feed[3])
        (query, of_key, of_value), (bias, _, value_bias) = (
            part.detach().chunk(3) for part in (block.qkv.weight, block.qkv.bias)
        )
        self.query = _Linear(query.T.contiguous(), bias)
        self.of_key = of_key.unflatten(0, (self.heads, -1))  # [H, D / H, D]
        self.of_value = of_value.unflatten(0, (self.heads, -1)).mT.contiguous()  # [H, D, D / H]
        self.value_bias = value_bias.unflatten(0, (self.heads, -1))  # [H, D / H]

    def all(self, hidden: Tensor, bias: Tensor) -> Tensor:
        """Map the hidden states `[B, L, D]` of all positions, with the bias `[B or 1, H, L, L]`."""
        shape = hidden.shape
        hidden = hidden.flatten(0, 1)  # [B · L, D]
        each = self.qkv(_normed(hidden, self.norms[0])).view(*shape[:2], 3, self.heads, -1)
        query, key, value = each.permute(2, 0, 3, 1, 4).unbind()  # [B, H, L, D / H]
        read = F.scaled_dot_product_attention(query, key, value, attn_mask=bias).transpose(1, 2).reshape(hidden.shape)
        return self._fed(hidden, read).view(shape)

    def last(self, hidden: Tensor, bias: Tensor) -> Tensor:
        """Map the hidden states `[B, L, D]` to that of the last position `[B, D]`, with the bias `[B or 1, H, L]`.

        A product of query and key is one of the query, mapped back, and what the key is made of: q · (K x) = (q K) · x. The
        key's own bias adds the same at every position, and a value's is added once, since weights sum to 1.
        """
        normed = _normed(hidden, self.norms[0])
        query = self.query(normed[:, -1]).unflatten(1, (self.heads, -1)).transpose(0, 1)  # [H, B, D / H]
        sought = (query @ self.of_key).transpose(0, 1) / math.sqrt(query.shape[2])  # [B, H, D]
        weights = torch.softmax(sought @ normed.mT + bias, -1)  # [B, H, L]
        read = (weights @ normed).transpose(0, 1) @ self.of_value + self.value_bias[:, None]  # [H, B, D / H]
        return self._fed(hidden[:, -1], read.transpose(0, 1).flatten(1))

    def _fed(self, hidden: Tensor, read: Tensor) -> Tensor:
        """Add what attention `read`, then what the feed-forward part makes of it; all `[n, D]`."""
        hidden = self.merge(read).add_(hidden)
        return self.down(F.gelu(self.up(_normed(hidden, self.norms[1])))).add_(hidden)


class CpuUserTower:
    """The weights of a `UserTower`, laid out for serving; a tower that is trained further needs another one."""

    def __init__(self, tower: UserTower) -> None:
        self._tower, self._norm, self._out = tower, tower.norm, _Linear.of(tower.out)
        self._layers = [_Layer(cast(Block, block)) for block in tower.blocks]
        self._of_length = lru_cache(KEPT_LENGTHS)(self._made_of_length)

    @torch.inference_mode()
    def last(self, vectors: Tensor, history: HistoryBatch) -> Tensor:
        """Return the unit vectors `[B, 2, D]` of the last position from item vectors `[B, L, D]`; zero where it is padded."""
        mask, tower = history.mask, self._tower
        hidden = tower.type_embedding(history.types) + tower.recency_embedding(history.recency)
        hidden.add_(vectors, alpha=math.sqrt(tower.width))
        bias, decay = self._of_length(mask.shape[1])
        if not mask.all():
            bias = tower.attention_bias(mask)  # [B or 1, H, L, L]
        for layer in self._layers[:-1]:
            hidden = layer.all(hidden, bias)
        change = self._out(_normed(self._layers[-1].last(hidden, bias[:, :, -1]), self._norm))  # [B, 2 · D]
        mean = F.normalize((decay * mask)[:, None] @ vectors, dim=-1)  # [B, 1, D]
        users = F.normalize(mean + change.unflatten(1, (len(HEADS), -1)), dim=-1)
        return users * mask[:, -1:, None]

    def _made_of_length(self, length: int) -> tuple[Tensor, Tensor]:
        """Return what histories of `length` events share: the attention bias `[1, H, L, L]`, and the weights of the mean `[L]`."""
        back = torch.arange(length - 1, -1, -1)
        bias = self._tower.attention_bias(torch.ones(1, length, dtype=torch.bool))
        return bias, torch.sigmoid(self._tower.decay) ** back


def _normed(hidden: Tensor, norm: nn.LayerNorm) -> Tensor:
    return F.layer_norm(hidden, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
