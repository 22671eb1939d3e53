"""Catch features that know the future.

In: fitted features, the events they were fitted on, and later requests. Out: nothing, or an error.
A feature of a request must not change when everything at or after the request's moment is taken
out of the log; what changes is named.
"""

from collections.abc import Callable

import numpy as np
import polars as pl

from features.facts import fit_facts
from features.histories import EventLog, Requests
from features.ranking import RankingFeatures
from recsys.arrays import Floats
from recsys.errors import RecsysError

SAMPLE = 16
"""Requests that are looked at, evenly spread in time."""


def leaking(
    compute: Callable[[EventLog, Requests], Floats], names: list[str], log: EventLog, requests: Requests
) -> list[str]:
    """Return the names of features that change when the future is taken away.

    `compute` maps a log and requests to features `[R, C, F]`; it is called once with the whole log
    and once per sampled request with the events before it.
    """
    chosen = np.unique(np.linspace(0, len(requests) - 1, min(SAMPLE, len(requests))).astype(np.int64))
    wrong = np.zeros(len(names), bool)
    for row in chosen:
        request = requests.select(np.array([row]))
        whole = compute(log, request)
        past = compute(log.only(log.times < request.times[0]), request)
        wrong |= (np.abs(whole - past) > 1e-5).any(axis=(0, 1))
    return [name for name, is_wrong in zip(names, wrong, strict=True) if is_wrong]


def refuse_leakage(
    features: RankingFeatures, items: pl.DataFrame, fitted: EventLog, log: EventLog, requests: Requests
) -> None:
    """Check the ranker's features on the requests that it learns from.

    Raises:
        RecsysError: a feature would change without the events after the request.
    """
    candidates = np.arange(min(50, items.height))[None, :]
    scores = {name: np.zeros(candidates.shape, np.float32) for name in features.sources}

    def compute(known: EventLog, request: Requests) -> Floats:
        facts = fit_facts(items, known, features.attributes)
        histories = log.histories(request.users, request.times, 10)
        built = RankingFeatures(facts, features.has_clock, features.sources, features.attributes)
        similarity = (candidates[:, :, None] == histories.items[:, None, :]).astype(np.float32)
        return built.dense(built.inputs(histories, candidates, scores, similarity))

    wrong = leaking(compute, features.names, fitted, requests)
    if wrong:
        raise RecsysError(
            f"leakage: {len(wrong)} of {len(features.names)} ranking features know events after the request, "
            f"for example {wrong[0]}; compute them from events before the request's time"
        )
