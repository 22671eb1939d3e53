"""What is fitted on which segments of the log: the meaning of `--fit-on`.

Choices are always made on `valid`; the ranker learns from a later segment than the first interest model saw,
or its interest feature would be overconfident.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from features.histories import EARLY, LATE, TEST, VALID, EventLog
from recsys.arrays import Ints

FitOn = Literal["train", "train+valid", "all"]
Segments = tuple[int, ...]
"""Segments of the log: EARLY, LATE, VALID, TEST."""


@dataclass(frozen=True)
class FitPlan:
    """The segments of the log that each fit sees."""

    choose: Segments
    """The interest model whose epochs are chosen on `valid`."""
    describe: Segments
    """Everything that describes candidates to the ranker."""
    rank: Segments
    """The ranker."""
    refit: Segments
    """The interest model, the sources and the facts that are registered."""


PLANS: dict[str, FitPlan] = {
    "train": FitPlan((EARLY,), (EARLY,), rank=(LATE,), refit=(EARLY, LATE)),
    "train+valid": FitPlan((EARLY, LATE), (EARLY, LATE), rank=(VALID,), refit=(EARLY, LATE, VALID)),
    "all": FitPlan((EARLY, LATE), (EARLY, LATE), rank=(VALID,), refit=(EARLY, LATE, VALID, TEST)),
}
"""The plan of each `--fit-on`."""

UPDATES: dict[str, FitPlan] = {
    "train": FitPlan((EARLY, LATE), (EARLY,), rank=(LATE,), refit=(EARLY, LATE)),
    "train+valid": FitPlan((EARLY, LATE), (EARLY,), rank=(LATE, VALID), refit=(EARLY, LATE, VALID)),
    "all": FitPlan((EARLY, LATE), (EARLY,), rank=(LATE, VALID, TEST), refit=(EARLY, LATE, VALID, TEST)),
}
"""The same for an update. `EARLY` ends with what the model that it starts from has learned: that model describes candidates to the ranker, which
learns from all that came later, as much as `--fit-on` allows."""


def item_counts(log: EventLog, fit_on: str, count: int) -> Ints:
    """Return the events `[N]` of each item in the segments that `fit_on` fits."""
    return np.bincount(log.in_segments(*PLANS[fit_on].refit).items, minlength=count)
