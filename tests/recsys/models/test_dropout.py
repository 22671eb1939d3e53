"""Dropout, and the attention that reads with it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recsys.models.dropout import Dropout
from recsys.models.interest import Block


@given(st.floats(0, 0.99), st.integers(0, 2**31), st.sampled_from([torch.float32, torch.bfloat16]))
def test_what_is_not_dropped_is_scaled_to_keep_the_mean(share: float, seed: int, precision: torch.dtype) -> None:
    torch.manual_seed(seed)
    values = Dropout(share)(torch.ones(7, 1001, dtype=precision))
    dropped = (values == 0).float().mean().item()
    assert dropped == pytest.approx(share, abs=0.03)
    assert values.dtype == precision
    assert len(values[values != 0].unique()) <= 1
    if share < 0.9:
        assert values.float().mean().item() == pytest.approx(1, abs=0.2)


def test_without_training_nothing_is_dropped() -> None:
    values = torch.randn(3, 5)
    assert torch.equal(Dropout(0.9).eval()(values), values)


def test_a_seed_drops_the_same_values_and_their_gradients() -> None:
    values, drop = torch.ones(64, 64, requires_grad=True), Dropout(0.3)
    torch.manual_seed(1)
    first = drop(values)
    torch.manual_seed(1)
    assert torch.equal(first, drop(values))
    assert not torch.equal(first, drop(values))
    (gradient,) = torch.autograd.grad(first.sum(), values)
    assert torch.equal(gradient, first)


def test_attention_while_training_is_that_of_serving_but_for_what_is_dropped() -> None:
    torch.manual_seed(0)
    block, hidden = Block(32, 4, dropout=0.0), torch.randn(3, 6, 32)
    bias = torch.zeros(3, 4, 6, 6).masked_fill(torch.ones(6, 6).triu(1).bool(), float("-inf"))
    trained = block.train()(hidden, bias)
    torch.testing.assert_close(trained, block.eval()(hidden, bias))
    last = slice(-1, None)
    torch.testing.assert_close(block.train()(hidden, bias, last), trained[:, last])
