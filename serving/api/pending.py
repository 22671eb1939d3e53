"""Requests that wait for the model, and how requests with the same batch key share one call of it.

In: requests. Out: their responses, each the same as it would be alone.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from features.histories import Histories
from serving.api import schemas
from serving.api.experiments import Assignment
from serving.api.live import Snapshot
from serving.deadline import Deadline
from serving.retrieval.sources import Sentences
from serving.scenarios.kept import ActiveScenario

Request = TypeVar("Request", bound=schemas.ListRequest)
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class RankKey:
    """Rankings with equal keys can be made in one batch."""

    explain: bool
    size: int
    """Bit length of the number of candidates, so that padding at most doubles a row."""


@dataclass(frozen=True)
class Pending(Generic[Key]):
    """One list to be made: the model's input, and what the response holds besides the items."""

    snapshot: Snapshot
    user_id: str | None
    now: int
    """Microseconds since the epoch."""
    k: int
    histories: Histories
    """`[1, L]`"""
    unknown: list[str]
    batch_key: Key
    """Lists with equal keys can be made in one batch."""
    assignment: Assignment | None = None
    """What the user gets in the experiment that runs."""
    rival: "Pending[Key] | None" = None
    """The same request to the other arm, where lists of both are interleaved."""
    sentences: Sentences | None = None
    candidates: list[int] = field(default_factory=list)
    after: str | None = None
    """The `request_id` of the list of which this is the next page."""
    query: str | None = None
    """What was typed, where the list is what a search found."""
    scenario: ActiveScenario | None = None
    """The kind of list, where one was requested."""
    explore: float = 0.0
    """Probability that a position is given to a new item."""
    notes: list[str] = field(default_factory=list)
    """What the caller should know of filters and rules."""
    deadline: float = math.inf
    """When the answer is to be ready, as `time.monotonic` tells it."""


def answer_in_groups(
    requests: Sequence[Request],
    prepare: Callable[[Request], Pending[Key]],
    answer: Callable[[Sequence[Pending[Key]]], Sequence[schemas.RecommendResponse]],
) -> list[schemas.RecommendResponse | Exception]:
    """Return the response to each of `requests`, or its error; those with equal batch keys are answered together."""
    results: dict[int, schemas.RecommendResponse | Exception] = {}
    groups: dict[tuple[int, int | None, Key], dict[int, Pending[Key]]] = {}
    for index, request in enumerate(requests):
        try:
            pending = prepare(request)
            # By timeout too: nobody's haste costs others their ranker.
            key = (id(pending.snapshot), request.timeout_ms, pending.batch_key)
            groups.setdefault(key, {})[index] = pending
        except Exception as error:
            results[index] = error
    for group in groups.values():
        try:
            results |= zip(group, answer(list(group.values())), strict=True)
        except Exception as error:
            results |= dict.fromkeys(group, error)
    return [results[index] for index in range(len(requests))]


def deadline_of(group: Sequence[Pending[Any]]) -> Deadline:
    """Return when the first of the answers is to be ready."""
    return Deadline(min(request.deadline for request in group))


def join_histories(group: Sequence[Pending[Any]]) -> Histories:
    """Return the histories of R requests as one `[R, L]`."""
    parts = [request.histories for request in group]
    return parts[0] if len(parts) == 1 else Histories.join(parts)


def join_sentences(group: Sequence[Pending[Any]]) -> Sentences | None:
    """Return what R users typed, or None if nobody typed anything."""
    typed = [request.sentences for request in group if request.sentences]
    if not typed:
        return None
    nothing = typed[0].blank()
    return Sentences.join([request.sentences or nothing for request in group])
