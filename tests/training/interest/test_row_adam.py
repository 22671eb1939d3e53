"""The optimiser of ID residuals is Adam without a first moment, at the price of the rows that a step touches."""

from copy import deepcopy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from recsys.models.id_table import TABLE, TorchRecIdTable
from training.interest.row_adam import RowAdam, clip_gradients

ROWS, WIDTH, RATE = 6, 4, 0.01


def table() -> TorchRecIdTable:
    return TorchRecIdTable(torch.ones(ROWS, dtype=torch.bool), WIDTH)


def learned(looked_up: list[list[int]], *, by_rows: bool = True) -> RowAdam:
    """Return the optimiser after a step for each list of rows, whose gradients depend on row and step."""
    ids = table()
    rows = RowAdam(ids, RATE, by_rows=by_rows)
    for step, items in enumerate(looked_up):
        learn(ids, rows, step, items)
    return rows


def learn(ids: TorchRecIdTable, rows: RowAdam, step: int, items: list[int]) -> None:
    ids.zero_grad()
    if items:
        loss_of(ids(torch.tensor(items)), step, items).backward()
    rows.step()


def loss_of(vectors: Tensor, step: int, items: list[int]) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    wanted = torch.randn(ROWS, WIDTH, generator=generator)
    return ((vectors - wanted[items]) ** 3).sum()


lookups = st.lists(st.lists(st.integers(0, ROWS - 1), max_size=ROWS), min_size=1, max_size=8)


@given(lookups)
@settings(deadline=None)
def test_rows_move_as_by_adam_without_a_first_moment(looked_up: list[list[int]]) -> None:
    """Also those that rest for some steps, and those that a step looks up twice."""
    plain = nn.Parameter(torch.zeros(ROWS, WIDTH))
    adam = torch.optim.Adam([plain], lr=RATE, betas=(0.0, 0.999))
    for step, items in enumerate(looked_up):
        plain.grad = torch.zeros_like(plain)
        if items:
            loss_of(plain[items], step, items).backward()
        adam.step()
    torch.testing.assert_close(learned(looked_up).weight.data, plain.data, rtol=1e-4, atol=1e-6)


@given(lookups)
@settings(deadline=None)
def test_gradients_of_rows_and_of_the_whole_table_teach_the_same(looked_up: list[list[int]]) -> None:
    """One worker has the first, several exchange the second."""
    rows, whole = (learned(looked_up, by_rows=by_rows) for by_rows in (True, False))
    torch.testing.assert_close(rows.weight.data, whole.weight.data, rtol=0, atol=0)
    torch.testing.assert_close(rows.optimizer_state(), whole.optimizer_state(), rtol=0, atol=0)


def test_one_worker_gets_a_gradient_of_the_rows_that_were_looked_up() -> None:
    """Which is what makes a step cheap among many items."""
    ids = table()
    RowAdam(ids, RATE, by_rows=True)
    ids(torch.tensor([1, 4])).sum().backward()
    gradient = ids.table.embeddings[TABLE].weight.grad
    assert gradient is not None and gradient.is_sparse
    assert gradient.coalesce().indices().tolist() == [[1, 4]]


def test_what_is_saved_goes_on_where_it_was() -> None:
    """To the last bit."""
    steps = [[0, 1], [1, 2], [5], [0, 2]]
    ids = table()
    first = RowAdam(ids, RATE, by_rows=True)
    for step, items in enumerate(steps[:2]):
        learn(ids, first, step, items)
    other = table()
    other.load_state_dict(ids.state_dict())
    second = RowAdam(other, RATE, by_rows=True)
    second.load_optimizer_state(deepcopy(first.optimizer_state()))
    for step, items in enumerate(steps[2:], start=2):
        learn(other, second, step, items)
    torch.testing.assert_close(second.weight.data, learned(steps).weight.data, rtol=0, atol=0)


@pytest.mark.parametrize("most", [0.5, 1e6])
def test_gradients_of_rows_are_clipped_together_with_the_others(most: float) -> None:
    """To the norm that they would have as a whole table."""
    norms, gradients = [], []
    for by_rows in (True, False):
        ids, layer = table(), nn.Linear(WIDTH, 1)
        nn.init.constant_(layer.weight, 0.7)
        RowAdam(ids, RATE, by_rows=by_rows)
        (5 * layer(ids(torch.tensor([3, 1, 3])) + 1).sum()).backward()
        parameters = [*ids.parameters(), *layer.parameters()]
        norms.append(clip_gradients(parameters, most) if by_rows else clip_grad_norm_(parameters, most))
        gradients.append([parameter.grad.to_dense() for parameter in parameters if parameter.grad is not None])
    torch.testing.assert_close(norms[0], norms[1])
    torch.testing.assert_close(gradients[0], gradients[1])
