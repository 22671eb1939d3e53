"""Who gets what in an experiment: sticky arms, and lists that two arms share.

In: an experiment and a user. Out: the user's arm, or which arm each position of a list is from.

Shapes: K list length.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

from serving.experiments.definition import Experiment


def arm_of(experiment: Experiment, user_id: str) -> str | None:
    """Return the user's arm, the same at every call and in every process; None for a user in no arm.

    A hash of experiment and user is a number in [0, 1), and the arms' shares lie there one after the other, so that the
    arms of two experiments have nothing to do with each other.
    """
    digest = hashlib.blake2b(f"{experiment.name}\0{user_id}".encode(), digest_size=8).digest()
    point, end = int.from_bytes(digest, "big") / 2**64, 0.0
    for name, arm in experiment.arms.items():
        end += arm.share
        if point < end:
            return name
    return None


def team_draft(first: Sequence[str], second: Sequence[str], k: int, rng: np.random.Generator) -> list[tuple[str, int]]:
    """Return a list of k items, drawn from two lists in turn, each with the list (0 or 1) that it is from.

    In each round a coin says which list picks first; each picks its best item that is not there yet (team-draft
    interleaving, Radlinski, Kurup and Joachims 2008). Where one has no more, the other goes on.
    """
    lists, picked = (list(first), list(second)), dict[str, int]()
    while len(picked) < k:
        before = len(picked)
        for team in rng.permutation(2).tolist():
            best = next((item for item in lists[team] if item not in picked), None)
            if best is not None and len(picked) < k:
                picked[best] = team
        if len(picked) == before:
            break
    return list(picked.items())
