"""One training step of the interest model: sampled softmax with logQ over cached text vectors.

In: a `Batch` of user sequences. Out: the loss. Plain PyTorch, so that it runs alone on any machine.

Shapes: B sequences, L positions, N catalogue, K items with events, S items in the step's softmax, U items that
the step encodes, P predicted positions, Q of them purchases, W impressions of a request, H width of the text encoder,
D of item vectors.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F

from recsys.arrays import Ints
from recsys.config import InterestConfig
from recsys.events import PURCHASE
from recsys.models.encoder import FrozenPrefix, autocast, encode_all
from recsys.models.interest import HistoryBatch, InterestModel, to_device

LENGTHS = 4
"""Parts of similar length in which the items of a step are encoded on a CPU, where padding costs more than further calls."""


@dataclass(frozen=True)
class Targets:
    """The P predicted positions of a batch."""

    items: Tensor
    """`[P]` item indexes."""
    types: Tensor
    """`[P]` event type codes."""
    weights: Tensor
    """`[P]` event weights."""
    impressions: Tensor
    """`[P, W]` items shown with the target and not acted on; -1 pads."""

    @cached_property
    def purchases(self) -> Tensor:
        """`[Q]` positions that are purchases."""
        return (self.types == PURCHASE).nonzero().squeeze(1)


@dataclass(frozen=True)
class Batch:
    """B sequences of L + 1 events; the event after position t is predicted from the positions up to t."""

    history: HistoryBatch
    """The first L events, `[B, L]`."""
    targets: Tensor
    """`[B, L]` item of the next event; -1 where padded."""
    target_types: Tensor
    """`[B, L]` type code of the next event."""
    weights: Tensor
    """`[B, L]` weight of the next event."""
    impressions: Tensor
    """`[B, L, W]` items shown with the target and not acted on; -1 pads."""

    @property
    def predicted(self) -> Tensor:
        """`[B, L]`, False where padded."""
        return self.targets >= 0

    @property
    def items(self) -> Tensor:
        """The item of every event, `[B, L + 1]`; -1 where padded."""
        return torch.cat([self.history.items, self.targets[:, -1:]], 1)

    def at_predicted(self) -> Targets:
        """Return the targets of the predicted positions."""
        rows = self.predicted
        return Targets(
            items=self.targets[rows],
            types=self.target_types[rows],
            weights=self.weights[rows],
            impressions=self.impressions[rows],
        )

    def to(self, device: torch.device) -> "Batch":
        """Move every tensor to `device`."""
        return Batch(
            history=self.history.to(device),
            targets=to_device(self.targets, device),
            target_types=to_device(self.target_types, device),
            weights=to_device(self.weights, device),
            impressions=to_device(self.impressions, device),
        )


class InterestObjective(nn.Module):
    """The loss of a batch, a sum over two sets of items.

    Only items with events are negatives. An item without events may be newer than the data, so that
    nobody could choose it; pushing it away would spoil new items.

    The user tower, projection and ID residual learn from a softmax over the catalogue, or a sample
    of it, whose text vectors come from `cache` without gradients. The text encoder alone learns from
    a second softmax, over the items that this step encodes anew: half of them from the batch, half
    drawn from the items with events. If fresh targets were compared with cached negatives, the encoder
    would learn to tell fresh from stale vectors and forget what the texts say.
    """

    cache: Tensor
    """`[N, H]` text vectors of the catalogue."""
    frequencies: Tensor
    """`[N]` share of each item among the training events."""
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
        """Encode the whole catalogue into the cache; of several workers each a share of it, and all of them have to call this."""
        rank, workers = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        encode_all(self.model.encoder, self.prefix, self.cache, rank, workers)
        if workers > 1:
            dist.all_reduce(self.cache)

    def forward(self, batch: Batch) -> Tensor:
        """Return the loss, a scalar."""
        events = batch.items
        events = events[events >= 0]
        of_batch = events.unique()
        encoded = self._choose(of_batch)  # [U]
        items = self._items_of_step(of_batch, batch.impressions)  # [S]
        with autocast(items.device, self.prefix.precision):
            vectors = self.model.item_vectors(self.cache[items], items)  # [S, D]
            columns = torch.searchsorted(items, batch.history.items.clamp(min=0))  # [B, L]
            users = self.model.user_vectors(vectors[columns], batch.history)[batch.predicted].float()  # [P, 2, D]
            fresh = self._encode(encoded)  # [U, D]
        targets = batch.at_predicted()
        logits = head_logits(users, vectors.float(), self.model.temperature, targets)  # [P + Q, S]
        loss = self._softmax(logits, items, self.log_inclusion(items, len(events)), targets)
        loss = loss + self.config.impression_weight * _impression_loss(logits[: len(users)], items, targets)
        if len(encoded):
            logits = head_logits(users.detach(), fresh.float(), self.model.temperature.detach(), targets)  # [P + Q, U]
            inclusion = self.log_inclusion_encoded(encoded, len(events), len(of_batch))
            loss = loss + self._softmax(logits, encoded, inclusion, targets)
        return loss

    def _softmax(self, logits: Tensor, items: Tensor, log_inclusion: Tensor, targets: Targets) -> Tensor:
        """Return both heads' sampled softmax for logits `[P + Q, S]` over `items` `[S]`, ascending.

        Dividing by each item's probability of being in the sample makes the denominator unbiased
        (logQ correction; Yi et al. 2019). A target in the sample is there with certainty and needs
        no correction; a target outside it has weight 0.
        """
        columns = torch.searchsorted(items, targets.items).clamp(max=len(items) - 1)  # [P]
        weights = targets.weights * (items[columns] == targets.items)
        of_target = torch.cat([columns, columns[targets.purchases]]).unsqueeze(1)  # [P + Q, 1]
        corrected = (logits - log_inclusion).scatter_(1, of_target, logits.gather(1, of_target))
        losses = F.cross_entropy(corrected, of_target.squeeze(1), reduction="none")
        click = weighted_mean(losses[: len(columns)], weights)
        purchase = weighted_mean(losses[len(columns) :], weights[targets.purchases])
        return click + self.config.purchase_weight * purchase

    def log_inclusion(self, items: Tensor, draws: int) -> Tensor:
        """Return the log probability `[S]` that each of `items` is in a step with `draws` events."""
        if self._full_softmax:
            return torch.zeros(len(items), device=items.device)
        drawn = self.config.catalogue_negatives
        log_missed = draws * torch.log1p(-self.frequencies[items]) + drawn * np.log1p(-1 / len(self.known))
        return torch.log(-torch.expm1(log_missed)).float()

    def log_inclusion_encoded(self, items: Tensor, draws: int, distinct: int) -> Tensor:
        """Return the log probability `[U]` that each of `items` is encoded in a step.

        The step has `draws` events on `distinct` items.
        """
        half = self.config.encoded_per_step // 2
        by_event = -torch.expm1(draws * torch.log1p(-self.frequencies[items])) * min(1.0, half / max(1, distinct))
        missed = (1 - by_event) * (1 - 1 / len(self.known)) ** half
        return torch.log1p(-missed).float()

    @property
    def _full_softmax(self) -> bool:
        return self.config.catalogue_negatives >= len(self.known)

    def _items_of_step(self, of_batch: Tensor, impressions: Tensor) -> Tensor:
        """Return the items `[S]` of the step's softmax, ascending: events, impressions and negatives."""
        negatives = self.known if self._full_softmax else self._draw(self.config.catalogue_negatives)
        return torch.cat([of_batch, impressions[impressions >= 0], negatives]).unique()

    def _draw(self, count: int) -> Tensor:
        """Draw `count` items with events uniformly, with replacement."""
        return self.known[torch.randint(len(self.known), (count,), device=self.known.device)]

    def _choose(self, of_batch: Tensor) -> Tensor:
        """Return the items `[U]` to encode, ascending: half from the batch, half from the catalogue."""
        if not self.model.encoder.trainable:
            return of_batch[:0]
        half = self.config.encoded_per_step // 2
        chosen = of_batch[torch.randperm(len(of_batch), device=of_batch.device)[:half]]
        return torch.cat([chosen, self._draw(half)]).unique()

    def _encode(self, items: Tensor) -> Tensor:
        """Encode `items` with gradients, keep their text vectors in the cache and return their item vectors `[U, D]`."""
        if not len(items):
            return self.cache[:0]
        order, parts = self._of_similar_length(items.cpu().numpy())
        pooled = torch.cat([self.model.encoder.upper(*self.prefix.rows(part)) for part in parts])[order]  # [U, H]
        self.cache[items] = pooled.detach()
        return self.model.item_vectors(pooled, items, encoder_only=True)

    def _of_similar_length(self, items: Ints) -> tuple[Ints, list[Ints]]:
        """Return `items` `[U]` in parts that are padded less than all at once, and where each item is in them."""
        by_length = np.argsort(self.prefix.tokens.lengths[items], kind="stable")
        parts = 1 if self.cache.is_cuda else LENGTHS
        return np.argsort(by_length), np.array_split(items[by_length], min(parts, len(items)))


def head_logits(users: Tensor, vectors: Tensor, temperature: Tensor, targets: Targets) -> Tensor:
    """Return the logits `[P + Q, S]` of the click head for every target and of the purchase head for purchases, by user vectors `[P, 2, D]`."""
    click, purchase = users.unbind(1)
    return (torch.cat([click, purchase[targets.purchases]]) / temperature) @ vectors.T


def softmax_loss(chosen: Tensor, others: Tensor) -> Tensor:
    """Return the softmax loss `[P]` of each chosen item `[P, 1]` against others `[P, W]`; -inf leaves one out."""
    return torch.logsumexp(torch.cat([chosen, others], 1), 1) - chosen.squeeze(1)


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Return the mean of `values` `[P]`, 0 where all weights are.

    Several workers each divide by the mean of their sums of weights, so that the mean of what they return, and with it that of
    their gradients, is the mean over the values of all.
    """
    return (values * weights).sum() / mean_over_workers(weights.sum()).clamp(min=1e-6)


def mean_over_workers(value: Tensor) -> Tensor:
    """Return the mean of a scalar without gradient over the workers of the step; all of them have to call this."""
    if not (dist.is_initialized() and dist.get_world_size() > 1):
        return value
    total = value.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def _impression_loss(logits: Tensor, items: Tensor, targets: Targets) -> Tensor:
    """Return the softmax loss of the target against its impressions, from logits `[P, S]` over `items` `[S]`."""
    if not targets.impressions.shape[1]:
        return logits.new_zeros(())
    columns = torch.searchsorted(items, targets.impressions.clamp(min=0)).clamp(max=len(items) - 1)  # [P, W]
    shown = logits.gather(1, columns).masked_fill(targets.impressions < 0, float("-inf"))
    chosen = logits.gather(1, torch.searchsorted(items, targets.items).unsqueeze(1))  # [P, 1]
    return weighted_mean(softmax_loss(chosen, shown), targets.weights * (targets.impressions >= 0).any(1))
