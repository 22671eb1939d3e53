"""One training step of the interest model: sampled softmax with logQ over cached item vectors.

In: a `Batch` of user sequences. Out: the loss. Plain PyTorch, so that it runs alone on any machine.

Shapes: B sequences, L positions, N catalogue, S items of the step, U encoded items, P predicted
positions, W shown items of a request, D width.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from recsys.config import InterestConfig
from recsys.events import PURCHASE
from recsys.models.encoder import FrozenPrefix, autocast, encode_all
from recsys.models.interest import HEADS, HistoryBatch, InterestModel, to_device


@dataclass(frozen=True)
class Batch:
    """B sequences of L + 1 events: position t is predicted from the positions up to t."""

    history: HistoryBatch
    """The first L events, `[B, L]`."""
    targets: Tensor
    """`[B, L]` item that followed; -1 where padded."""
    target_types: Tensor
    """`[B, L]` event type code of what followed."""
    weights: Tensor
    """`[B, L]` event weight of what followed."""
    impressions: Tensor
    """`[B, L, W]` items shown with the target and left alone; -1 where there are none."""

    def to(self, device: torch.device) -> "Batch":
        """Move every tensor to `device`."""
        rest = (self.targets, self.target_types, self.weights, self.impressions)
        return Batch(self.history.to(device), *(to_device(tensor, device) for tensor in rest))


@dataclass(frozen=True)
class Targets:
    """The P predicted positions of a batch."""

    items: Tensor
    """`[P]`"""
    types: Tensor
    """`[P]`"""
    weights: Tensor
    """`[P]`"""
    impressions: Tensor
    """`[P, W]`"""


class InterestObjective(nn.Module):
    """The loss of a batch, over two sets of items.

    Negatives are items with events: that nobody chose an item which was perhaps not yet there says
    nothing against it, and pushing it away would spoil new items.

    The user tower, projection and ID residual learn from a softmax over the catalogue (or a sample
    of it), whose pooled vectors come from `cache` `[N, H]` without gradients. The text encoder
    alone learns from a softmax over the items that this step encodes anew, each once: half of them
    items of the batch, half drawn from those with events. Were fresh targets set against cached
    negatives, the encoder would learn to tell fresh from stale and forget what the texts say.
    """

    cache: Tensor
    frequencies: Tensor
    known: Tensor
    """`[K]` items with events, ascending."""

    def __init__(
        self, model: InterestModel, prefix: FrozenPrefix, frequencies: NDArray[np.float64], config: InterestConfig
    ) -> None:
        """`frequencies` `[N]` is the share of each item among the training events."""
        super().__init__()
        self.model, self.prefix, self.config = model, prefix, config
        self.register_buffer("frequencies", torch.from_numpy(frequencies), persistent=False)
        self.register_buffer("known", torch.from_numpy(np.flatnonzero(frequencies)), persistent=False)
        self.register_buffer("cache", torch.zeros(len(frequencies), model.encoder.width), persistent=False)

    def refresh(self) -> None:
        """Encode the whole catalogue anew into the cache."""
        self.cache.copy_(encode_all(self.model.encoder, self.prefix))

    def forward(self, batch: Batch) -> Tensor:
        """Return the loss, a scalar."""
        events = torch.cat([batch.history.items, batch.targets[:, -1:]], 1)
        events = events[events >= 0]
        of_batch = events.unique()
        encoded = self._choose(of_batch)  # [U]
        items = self._items_of_step(of_batch, batch.impressions)  # [S]
        predicted = batch.targets >= 0
        with autocast(items.device, self.prefix.precision):
            vectors = self.model.item_vectors(self.cache[items], items)  # [S, D]
            places = torch.searchsorted(items, batch.history.items.clamp(min=0))  # [B, L]
            users = self.model.user_vectors(vectors[places], batch.history)[predicted].float()  # [P, 2, D]
            fresh = self._encode(encoded)  # [U, D]
        wanted = Targets(
            *(tensor[predicted] for tensor in (batch.targets, batch.target_types, batch.weights, batch.impressions))
        )
        logits = _logits(users, vectors.float(), self.model.temperature)  # [2, P, S]
        loss = self._softmax(logits, items, self.log_inclusion(items, len(events)), wanted)
        loss = loss + self.config.impression_weight * _impression_loss(logits[0], items, wanted)
        if len(encoded):
            logits = _logits(users.detach(), fresh.float(), self.model.temperature.detach())  # [2, P, U]
            inclusion = self.log_inclusion_encoded(encoded, len(events), len(of_batch))
            loss = loss + self._softmax(logits, encoded, inclusion, wanted)
        return loss

    def _softmax(self, logits: Tensor, items: Tensor, log_inclusion: Tensor, targets: Targets) -> Tensor:
        """Return both heads' sampled softmax for logits `[2, P, S]` over `items` `[S]`, ascending.

        Dividing by each item's chance to be in the sample makes the denominator unbiased (logQ
        correction; Yi et al. 2019). A target that is in it counts with certainty and stays as it
        is; one that is not counts for nothing.
        """
        columns = torch.searchsorted(items, targets.items).clamp(max=len(items) - 1)  # [P]
        weights = targets.weights * (items[columns] == targets.items)
        places = columns.expand(len(HEADS), -1).unsqueeze(2)
        corrected = (logits - log_inclusion).scatter(2, places, logits.gather(2, places))
        click = _weighted_mean(F.cross_entropy(corrected[0], columns, reduction="none"), weights)
        bought = weights * (targets.types == PURCHASE)
        purchase = _weighted_mean(F.cross_entropy(corrected[1], columns, reduction="none"), bought)
        return click + self.config.purchase_weight * purchase

    def log_inclusion(self, items: Tensor, draws: int) -> Tensor:
        """Return the log chance `[S]` that each of `items` is in a step with `draws` events."""
        count, wanted = len(self.known), self.config.catalogue_negatives
        if wanted >= count:
            return torch.zeros(len(items), device=items.device)
        missed = draws * torch.log1p(-self.frequencies[items]) + wanted * np.log1p(-1 / count)
        return torch.log(-torch.expm1(missed)).float()

    def log_inclusion_encoded(self, items: Tensor, draws: int, distinct: int) -> Tensor:
        """Return the log chance `[U]` that each of `items` is encoded in a step.

        The step has `draws` events of `distinct` items, of which half a step's share is encoded.
        """
        half = self.config.encoded_per_step // 2
        by_event = -torch.expm1(draws * torch.log1p(-self.frequencies[items])) * min(1.0, half / max(1, distinct))
        missed = (1 - by_event) * (1 - 1 / len(self.known)) ** half
        return torch.log1p(-missed).float()

    def _items_of_step(self, of_batch: Tensor, impressions: Tensor) -> Tensor:
        count, wanted = len(self.known), self.config.catalogue_negatives
        negatives = self.known if wanted >= count else self._draw(wanted)
        return torch.cat([of_batch, impressions[impressions >= 0], negatives]).unique()

    def _draw(self, count: int) -> Tensor:
        """Draw `count` items with events uniformly, with replacement."""
        return self.known[torch.randint(len(self.known), (count,), device=self.known.device)]

    def _choose(self, of_batch: Tensor) -> Tensor:
        """Return the items `[U]` to encode: some of the batch, some of the catalogue."""
        if not self.model.encoder.trainable:
            return of_batch[:0]
        half = self.config.encoded_per_step // 2
        chosen = of_batch[torch.randperm(len(of_batch), device=of_batch.device)[:half]]
        return torch.cat([chosen, self._draw(half)]).unique()

    def _encode(self, items: Tensor) -> Tensor:
        """Return the vectors `[U, D]` of `items`, encoded with gradients, and keep them in the cache."""
        if not len(items):
            return self.cache[:0]
        hidden, mask = self.prefix.rows(items.cpu().numpy())
        pooled = self.model.encoder.upper(hidden, mask)
        self.cache[items] = pooled.detach()
        return self.model.item_vectors(pooled, items, encoder_only=True)


def _logits(users: Tensor, vectors: Tensor, temperature: Tensor) -> Tensor:
    return torch.einsum("phd,sd->hps", users, vectors) / temperature


def _weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    return (values * weights).sum() / weights.sum().clamp(min=1e-6)


def _impression_loss(logits: Tensor, items: Tensor, targets: Targets) -> Tensor:
    """Softmax of the target against the items shown beside it, from logits `[P, S]` over `items`."""
    if not targets.impressions.shape[1]:
        return logits.new_zeros(())
    beside = logits.gather(1, torch.searchsorted(items, targets.impressions.clamp(min=0)).clamp(max=len(items) - 1))
    beside = beside.masked_fill(targets.impressions < 0, float("-inf"))
    target = logits.gather(1, torch.searchsorted(items, targets.items).unsqueeze(1))
    loss = torch.logsumexp(torch.cat([target, beside], 1), 1) - target.squeeze(1)
    return _weighted_mean(loss, targets.weights * (targets.impressions >= 0).any(1))
