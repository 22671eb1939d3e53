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
from recsys.encoder import FrozenPrefix, autocast, encode_all
from recsys.interest import HEADS, HistoryBatch, InterestModel
from recsys.schema import PURCHASE


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
    shown: Tensor
    """`[B, L, W]` items shown with the target and left alone; -1 where there are none."""

    def to(self, device: torch.device) -> "Batch":
        """Move every tensor to `device`."""
        rest = (self.targets, self.target_types, self.weights, self.shown)
        return Batch(self.history.to(device), *(tensor.to(device, non_blocking=True) for tensor in rest))


class InterestObjective(nn.Module):
    """The loss of a batch, over two sets of items.

    The user tower, projection and ID residual learn from a softmax over the catalogue (or a sample
    of it), whose pooled vectors come from `cache` `[N, H]` without gradients. The text encoder
    alone learns from a softmax over the items that this step encodes anew, each once: half of them
    items of the batch, half drawn from the catalogue. Were fresh targets set against cached
    negatives, the encoder would learn to tell fresh from stale and forget what the texts say.
    """

    cache: Tensor
    frequencies: Tensor

    def __init__(
        self, model: InterestModel, prefix: FrozenPrefix, frequencies: NDArray[np.float64], config: InterestConfig
    ) -> None:
        """`frequencies` `[N]` is the share of each item among the training events."""
        super().__init__()
        self.model, self.prefix, self.config = model, prefix, config
        self.register_buffer("frequencies", torch.from_numpy(frequencies), persistent=False)
        self.register_buffer("cache", torch.zeros(len(frequencies), model.encoder.width), persistent=False)

    def refresh(self) -> None:
        """Encode the whole catalogue anew into the cache."""
        self.cache.copy_(encode_all(self.model.encoder, self.prefix))

    def forward(self, batch: Batch) -> Tensor:
        """Return the loss, a scalar."""
        events = torch.cat([batch.history.items[batch.history.mask], batch.targets[batch.targets >= 0]])
        encoded = self._choose(events.unique())  # [U]
        items = self._items_of_step(events, batch.shown)  # [S]
        predicted = batch.targets >= 0
        with autocast(items.device, self.prefix.precision):
            vectors = self.model.item_vectors(self.cache[items], items)  # [S, D]
            places = torch.searchsorted(items, batch.history.items.clamp(min=0))  # [B, L]
            users = self.model.user_vectors(vectors[places], batch.history)[predicted]  # [P, 2, D]
            fresh = self._encode(encoded)  # [U, D]
        loss = self._catalogue_loss(users.float(), vectors.float(), items, len(events), batch)
        if len(encoded):
            loss = loss + self._encoder_loss(users.detach().float(), fresh.float(), encoded, len(events), batch)
        return loss

    def _catalogue_loss(self, users: Tensor, vectors: Tensor, items: Tensor, draws: int, batch: Batch) -> Tensor:
        predicted = batch.targets >= 0
        targets = torch.searchsorted(items, batch.targets[predicted])  # [P]
        logits = torch.einsum("phd,sd->hps", users, vectors) / self.model.temperature  # [2, P, S]
        count, wanted = len(self.cache), self.config.catalogue_negatives
        missed = torch.zeros(len(items), device=items.device)
        if wanted < count:
            missed = draws * torch.log1p(-self.frequencies[items]) + wanted * np.log1p(-1 / count)
        whole = wanted >= count
        log_inclusion = missed if whole else torch.log(-torch.expm1(missed)).float()
        shown = self._shown_loss(logits[0], items, targets, batch.shown[predicted], batch.weights[predicted])
        return self._softmax(logits, targets, log_inclusion, batch) + self.config.shown_weight * shown

    def _encoder_loss(self, users: Tensor, fresh: Tensor, encoded: Tensor, draws: int, batch: Batch) -> Tensor:
        """Softmax of the targets that were encoded in this step among all that were."""
        predicted = batch.targets >= 0
        wanted = batch.targets[predicted]
        targets = torch.searchsorted(encoded, wanted).clamp(max=len(encoded) - 1)
        inside = encoded[targets] == wanted
        half, count = self.config.encoded_per_step / 2, len(self.cache)
        by_event = -torch.expm1(draws * torch.log1p(-self.frequencies[encoded]))
        by_event = by_event * min(1.0, half / max(1, len(wanted.unique())))
        inclusion = 1 - (1 - by_event) * (1 - min(1.0, half / count))
        logits = torch.einsum("phd,sd->hps", users, fresh) / self.model.temperature.detach()
        return self._softmax(logits, targets, inclusion.log().float(), batch, inside)

    def _softmax(
        self, logits: Tensor, targets: Tensor, log_inclusion: Tensor, batch: Batch, inside: Tensor | None = None
    ) -> Tensor:
        """Return both heads' sampled softmax for logits `[2, P, S]` and the targets' columns `[P]`.

        Dividing by each item's chance to be in the sample makes the denominator unbiased (logQ
        correction; Yi et al. 2019). The target is in it with certainty and stays as it is.
        """
        predicted = batch.targets >= 0
        weights, types = batch.weights[predicted], batch.target_types[predicted]
        if inside is not None:
            weights = weights * inside
        columns = targets.expand(len(HEADS), -1).unsqueeze(2)
        corrected = (logits - log_inclusion).scatter(2, columns, logits.gather(2, columns))
        click = _weighted_mean(F.cross_entropy(corrected[0], targets, reduction="none"), weights)
        bought = weights * (types == PURCHASE)
        purchase = _weighted_mean(F.cross_entropy(corrected[1], targets, reduction="none"), bought)
        return click + self.config.purchase_weight * purchase

    def _shown_loss(self, logits: Tensor, items: Tensor, targets: Tensor, shown: Tensor, weights: Tensor) -> Tensor:
        """Softmax of the target against the items shown beside it, `shown` `[P, W]`."""
        if shown.shape[1] == 0:
            return logits.new_zeros(())
        beside = logits.gather(1, torch.searchsorted(items, shown.clamp(min=0)).clamp(max=len(items) - 1))
        beside = beside.masked_fill(shown < 0, float("-inf"))
        target = logits.gather(1, targets.unsqueeze(1))
        loss = torch.logsumexp(torch.cat([target, beside], 1), 1) - target.squeeze(1)
        return _weighted_mean(loss, weights * (shown >= 0).any(1))

    def _items_of_step(self, events: Tensor, shown: Tensor) -> Tensor:
        count, wanted = len(self.cache), self.config.catalogue_negatives
        if wanted >= count:
            return torch.arange(count, device=events.device)
        negatives = torch.randint(count, (wanted,), device=events.device)
        return torch.cat([events, shown[shown >= 0], negatives]).unique()

    def _choose(self, of_batch: Tensor) -> Tensor:
        """Return the items `[U]` to encode: some of the batch, some of the catalogue."""
        if not self.model.encoder.trainable:
            return of_batch[:0]
        half = self.config.encoded_per_step // 2
        chosen = of_batch[torch.randperm(len(of_batch), device=of_batch.device)[:half]]
        drawn = torch.randint(len(self.cache), (half,), device=of_batch.device)
        return torch.cat([chosen, drawn]).unique()

    def _encode(self, items: Tensor) -> Tensor:
        """Return the vectors `[U, D]` of `items`, encoded with gradients, and keep them in the cache."""
        if not len(items):
            return self.cache[:0]
        hidden, mask = self.prefix.rows(items.cpu().numpy())
        pooled = self.model.encoder.upper(hidden, mask)
        self.cache[items] = pooled.detach()
        return self.model.item_vectors(pooled, items, encoder_only=True)


def _weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    return (values * weights).sum() / weights.sum().clamp(min=1e-6)
