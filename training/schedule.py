"""The learning rate of a fit, as a share of its peak. Plain PyTorch fits share it."""

WARMUP_STEPS = 20


def falling_rate(step: int, cycle: int) -> float:
    """Return the share of the peak at `step`: it rises once, falls over `cycle` steps and starts anew (SGDR, Loshchilov 2017)."""
    return min((step + 1) / WARMUP_STEPS, max(0.05, 1 - step % cycle / cycle))
