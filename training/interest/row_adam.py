"""Adam without a first moment for ID residuals, of which a step touches few: no other row is read or written.

In: the table and its gradient, of rows (`sparse`) or whole. Adam (Kingma & Ba 2015) with beta 0 and 0.999 does not move a row without a
gradient, and its second moment only falls, which is made up for at the row's next gradient. There is no weight decay.

Shapes: N catalogue when fitted, D width, n rows with a gradient.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from recsys.models.id_table import TABLE, TorchRecIdTable

DECAY = 0.999
"""Of the second moment, in a step."""

EPSILON = 1e-8

MOMENT, LAST, STEPS = "second_moment", "last_step", "steps"
"""Of the state: the second moment `[N, D]` and when it was updated `[N]`, and how many steps there were."""


class RowAdam:
    """The optimiser of a table that a worker holds whole."""

    def __init__(self, table: TorchRecIdTable, learning_rate: float, *, by_rows: bool) -> None:
        """`by_rows` lets gradients be of the rows that were looked up, which NCCL cannot exchange."""
        embedding = table.table.embeddings[TABLE]
        embedding.sparse = by_rows
        self.weight: nn.Parameter = embedding.weight
        self.peak = self.rate = learning_rate
        self.moment = torch.zeros_like(self.weight, requires_grad=False)
        self.last = torch.zeros(len(self.weight), device=self.weight.device)
        self.steps = 0

    def set_rate(self, share: float) -> None:
        """Learn with this share of the peak learning rate from now on."""
        self.rate = share * self.peak

    @torch.no_grad()
    def step(self) -> None:
        """Move the rows that have a gradient."""
        self.steps += 1
        gradient = self.weight.grad
        if gradient is None:
            return
        gradient = (gradient if gradient.is_sparse else gradient.to_sparse(1)).coalesce()
        rows, values = gradient.indices()[0], gradient.values()  # [n], [n, D]
        fallen = DECAY ** (self.steps - self.last[rows])
        moment = self.moment[rows] * fallen.unsqueeze(1) + (1 - DECAY) * values.square()
        self.moment[rows], self.last[rows] = moment, float(self.steps)
        deviation = (moment / (1 - DECAY**self.steps)).sqrt_().add_(EPSILON)
        self.weight.index_add_(0, rows, values / deviation, alpha=-self.rate)

    def optimizer_state(self) -> dict[str, Tensor]:
        """Return what is saved of the optimiser."""
        return {MOMENT: self.moment, LAST: self.last, STEPS: torch.tensor(self.steps)}

    def load_optimizer_state(self, state: dict[str, Tensor]) -> None:
        """Go on from what `optimizer_state` returned."""
        self.moment.copy_(state[MOMENT])
        self.last.copy_(state[LAST])
        self.steps = int(state[STEPS])


def clip_gradients(parameters: Iterable[nn.Parameter], most: float) -> Tensor:
    """Scale gradients, of rows or whole, to a norm of at most `most`; return the norm that they had."""
    found = [parameter for parameter in parameters if parameter.grad is not None]
    norm = get_total_norm([_values(parameter) for parameter in found])
    clip_grads_with_norm_(found, most, norm)
    return norm


def _values(parameter: nn.Parameter) -> Tensor:
    """Return the numbers of a gradient; its rows are from now on those of their sums."""
    assert parameter.grad is not None
    if parameter.grad.is_sparse:
        parameter.grad = parameter.grad.coalesce()
        return parameter.grad.values()
    return parameter.grad
