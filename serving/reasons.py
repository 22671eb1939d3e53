"""Why an item is in a list: the events of the history nearest to it, and the features that counted most.

In: a retriever, a history, what the ranker says that each feature contributed. Out: a few of both, strongest first.
"""

from collections.abc import Sequence

import numpy as np

from recsys.arrays import Floats, Ints
from serving.retrieval.retriever import Retriever
from serving.retrieval.sources.graphs import CovisitationSource

NEAREST = 3
"""Items of the history that are given as reasons for an item."""
STRONGEST = 5
"""Features that are given as reasons for an item."""


def nearest_items(retriever: Retriever, past: Ints, item: int) -> list[tuple[int, float]]:
    """Return the items of the history `past` `[L]` (-1 padded) nearest to `item`, each with the cosine of their vectors."""
    known = np.unique(past)
    known = known[(known >= 0) & (known < len(retriever.vectors))]
    similarities = retriever.vectors[known] @ retriever.vectors[item]
    order = np.argsort(-similarities, kind="stable")[:NEAREST]
    return list(zip(known[order].tolist(), similarities[order].tolist(), strict=True))


def companion_item(retriever: Retriever, past: Ints, item: int) -> int | None:
    """Return the item of the history `past` `[L]` (-1 padded) that others most often met together with `item`, None where none did."""
    source = retriever.sources.get(CovisitationSource.name)
    if not isinstance(source, CovisitationSource):
        return None
    known = np.unique(past)
    known = known[(known >= 0) & (known < len(retriever.vectors)) & (known != item)]
    links = source.graph[known, item].toarray().ravel() if len(known) else np.empty(0)
    return int(known[links.argmax()]) if links.any() else None


def strongest_features(names: Sequence[str], contributions: Floats) -> list[tuple[str, float]]:
    """Return the features `names` with the largest `contributions` `[F]` to the log odds of a click, each with its own."""
    order = np.argsort(-np.abs(contributions), kind="stable")[:STRONGEST]
    return [(names[index], float(contributions[index])) for index in order if contributions[index]]
