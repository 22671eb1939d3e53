"""Dropout that costs a CPU little.

PyTorch draws a number for each value on a CPU, some ten nanoseconds each, in one thread whatever the number of cores. Here a
draw of 64 bits decides on eight values.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BYTE = 256
"""Values of a byte: on a CPU the share that is dropped is a multiple of one part in so many."""


class Dropout(nn.Module):
    """Sets a share of the values to 0 while training and scales the others, so that the mean stays."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, values: Tensor) -> Tensor:
        """Return `values` of any shape, some of them dropped."""
        if not self.training or values.device.type != "cpu":
            return F.dropout(values, self.share, self.training)
        dropped = min(round(BYTE * self.share), BYTE - 1)
        draws = torch.empty(-(-values.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
        kept = draws.view(torch.uint8)[: values.numel()].view(values.shape) >= dropped
        return values * kept * (BYTE / (BYTE - dropped))
