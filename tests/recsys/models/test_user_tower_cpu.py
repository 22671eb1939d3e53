"""The user tower for CPUs against the one that is trained."""

import pytest
import torch
from torch import Tensor

from recsys.config import InterestConfig
from recsys.events import EVENT_TYPES
from recsys.models.interest import RECENCY_BUCKETS, HistoryBatch, UserTower
from recsys.models.user_tower_cpu import CpuUserTower

WIDTH, LENGTH = 24, 9


def drawn_tower(layers: int) -> UserTower:
    """Return a tower all of whose weights are drawn, those that start at 0 and 1 too."""
    torch.manual_seed(layers)
    tower = UserTower(WIDTH, InterestConfig(layers=layers, heads=4)).eval()
    with torch.no_grad():
        for weights in tower.parameters():
            weights.add_(torch.randn_like(weights), alpha=0.2)
    return tower


def drawn_histories(lengths: list[int]) -> tuple[Tensor, HistoryBatch]:
    """Return histories of `lengths` events, and vectors of their items; those of the padding are not 0."""
    known = torch.arange(LENGTH) >= LENGTH - torch.tensor(lengths)[:, None]
    items = torch.where(known, torch.randint(100, known.shape), -1)
    types, recency = torch.randint(len(EVENT_TYPES), known.shape), torch.randint(RECENCY_BUCKETS, known.shape)
    return torch.randn(*known.shape, WIDTH), HistoryBatch(items, types, recency)


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("lengths", [[LENGTH], [1], [LENGTH, LENGTH], [LENGTH, 3, 0, 1]])
def test_vectors_are_those_of_the_trained_tower(layers: int, lengths: list[int]) -> None:
    """For one history and for several, padded or not; an empty one has the vector 0."""
    tower = drawn_tower(layers)
    vectors, histories = drawn_histories(lengths)
    with torch.inference_mode():
        right = tower.last(vectors, histories)
    found = CpuUserTower(tower).last(vectors, histories)
    torch.testing.assert_close(found, right, atol=1e-6, rtol=0)
    assert (found.norm(dim=2) > 0.99).all(1).tolist() == [length > 0 for length in lengths]
