"""Catch ranking features that know the future.

In: fitted features, the events they were fitted on, and later requests. Out: nothing, or an error that
names a feature. A feature of a request must not change when all events at or after the request's moment
are removed from the log.

Shapes: R requests, C candidates, F features.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import polars as pl

from features.facts import fit_facts
from features.histories import EventLog, Requests
from features.ranking import RankingFeatures
from recsys.arrays import Floats
from recsys.errors import RecsysError

SAMPLE = 16
"""Most requests to check, spread evenly over time."""


def leaking(
    compute: Callable[[EventLog, Requests], Floats], names: list[str], log: EventLog, requests: Requests
) -> list[str]:
    """Return the names of the features that change when the future is removed.

    `compute` maps a log and requests to features `[R, C, F]`. For each sampled request it is called
    with the whole log and with the events before the request.
    """
    sample = np.unique(np.linspace(0, len(requests) - 1, min(SAMPLE, len(requests))).astype(np.int64))
    changed = np.zeros(len(names), bool)
    for row in sample:
        request = requests.select(np.array([row]))
        whole = compute(log, request)
        past = compute(log.only(log.times < request.times[0]), request)
        changed |= (np.abs(whole - past) > 1e-5).any(axis=(0, 1))
    return [name for name, leaks in zip(names, changed, strict=True) if leaks]


def refuse_leakage(
    features: RankingFeatures, items: pl.DataFrame, fitted: EventLog, log: EventLog, requests: Requests
) -> None:
    """Refuse features that leak, on the requests that the ranker learns from.

    `fitted` are the events that the features were fitted on, `log` those that histories are taken from.

    Raises:
        RecsysError: a feature changes when the events at or after a request are removed.
    """
    candidates = np.arange(min(50, items.height))[None, :]
    scores = {name: np.zeros(candidates.shape, np.float32) for name in features.sources}

    def compute(known: EventLog, request: Requests) -> Floats:
        facts = fit_facts(items, known, features.attributes)
        histories = log.histories_of(request, 10)
        built = replace(features, facts=facts)
        similarity = (candidates[:, :, None] == histories.items[:, None, :]).astype(np.float32)
        return built.dense(built.inputs(histories, candidates, scores, similarity, similarity, similarity > 0))

    leaks = leaking(compute, features.names, fitted, requests)
    if leaks:
        raise RecsysError(
            f"leakage: {len(leaks)} of {len(features.names)} ranking features know events after the request, "
            f"for example {leaks[0]}; compute them from events before the request's time"
        )
