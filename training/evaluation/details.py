"""What the pictures of a report show beyond its tables: shares, calibration, features, the catalogue, some users.

In: the lists of an evaluation with their model. Out: `Details`. Everything is drawn from seeds of its own, so that no figure
of the report depends on it.

Shapes: R requests, T targets, K list length, C candidates, N catalogue, F dense and G categorical features.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from features.histories import Histories, Requests
from recsys.arrays import Bools, Floats, Ints
from recsys.events import EVENT_TYPES
from recsys.metrics import Interval, bootstrap_interval, list_ranks, ndcg, paired_difference
from recsys.models.rankers import value
from serving.reasons import nearest_items, strongest_features
from serving.recommender import Ranking, Recommender, RecommendOptions
from serving.rerank import by_value
from serving.retrieval.retriever import BLOCK, Retriever
from training.evaluation.new_items import Ages

TOP = 10
"""First positions of a list whose items count as recommended."""
CUTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
"""Numbers of proposals at which a source's recall is looked at, up to its quota."""
BANDS = 10
"""Parts of equal size into which the items with events are cut by popularity."""
NO_EVENT = "none"
SOURCE = "source "
"""What a source's score is called, in whichever form, before the source's name."""
BINS = 10
"""Parts of equal size into which impressions are cut by their probability."""
FEWEST = 20
"""Positive labels below which a head's calibration says nothing."""
SAMPLE, POOL = 512, 80
"""Requests by which features are judged, and the best candidates of each that are put in order without a feature."""
MAPPED = 3000
"""Most items of the map."""
EXAMPLES, PAST, LISTED, REASONS = 10, 6, 5, 3
"""Users that are shown, the events of their past, the items of their lists, and the features named for each."""


@dataclass(frozen=True)
class Shares:
    """What part of the recommended and of the chosen items is of one kind."""

    recommended: Interval
    """Share of the first 10 positions of all lists."""
    chosen: Interval
    """Share of the targets."""


@dataclass(frozen=True)
class SourceCurve:
    """Recall of a candidate source."""

    at_quota: Interval
    by_count: dict[int, float]
    """Recall of its first proposals, by their number."""


@dataclass(frozen=True)
class CalibrationBin:
    """Impressions of about the same probability."""

    predicted: float
    observed: Interval


@dataclass(frozen=True)
class CatalogueMap:
    """Items as points; near ones have similar vectors."""

    points: Floats
    """`[M, 2]`"""
    categories: list[str]
    """`M` names; empty where unknown."""
    kept: float
    """Share of the vectors' variance that the two axes keep."""


@dataclass(frozen=True)
class Suggestion:
    """An item of a list, and why it is there."""

    title: str
    chosen: bool
    nearest: str
    """The title of the most similar item of the history; empty without one."""
    features: list[str]
    """What spoke for it most, strongest first."""


@dataclass(frozen=True)
class Example:
    """A user at the moment of a request."""

    history: list[tuple[str, str]]
    """Event type and title, latest first."""
    chosen: list[tuple[str, int | None]]
    """Title, and position in the list; None where the list does not have it."""
    suggestions: list[Suggestion]


@dataclass(frozen=True)
class Details:
    """What pictures show of an evaluation; what is empty was not there to look at."""

    sources: dict[str, SourceCurve] = field(default_factory=dict)
    popularity: dict[str, Shares] = field(default_factory=dict)
    """By tenth of the items with events, the most popular first, and of those without."""
    ages: dict[str, Shares] = field(default_factory=dict)
    """Of items without events, by age."""
    calibration: dict[str, list[CalibrationBin]] = field(default_factory=dict)
    """By head, where there are impressions."""
    importance: dict[str, Interval] = field(default_factory=dict)
    """Loss of ndcg@10 when the ranker gets a feature of other candidates; those of a source together."""
    catalogue: CatalogueMap | None = None
    examples: list[Example] = field(default_factory=list)


def source_curves(proposals: Mapping[str, Ints], requests: Requests) -> dict[str, SourceCurve]:
    """Return which share of the targets is among the first proposals `[R, quota]` of each source."""
    users = requests.users[_owners(requests)]
    curves = {}
    for name, items in proposals.items():
        ranks = _proposal_ranks(items, requests)
        counts = [*(cut for cut in CUTS if cut < items.shape[1]), items.shape[1]]
        by_count = {count: float((ranks <= count).mean()) for count in counts}
        curves[name] = SourceCurve(bootstrap_interval(np.isfinite(ranks).astype(np.float64), users), by_count)
    return curves


def popularity_shares(lists: Ints, requests: Requests, counts: Ints) -> dict[str, Shares]:
    """Return the shares of items by popularity; `lists` `[R, K]` (-1 padded), `counts` `[N]` events of each item.

    Empty where all lists are.
    """
    order = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
    band = np.full(len(counts), BANDS)
    for index, part in enumerate(np.array_split(order, BANDS)):
        band[part] = index
    rows, columns = np.nonzero(lists[:, :TOP] >= 0)
    if not len(rows):
        return {}
    listed = band[lists[rows, columns]]
    chosen, users = band[requests.targets], requests.users
    names = [f"{10 * index}–{10 * index + 10} %" for index in range(BANDS)] + [NO_EVENT]
    return {
        name: _shares(listed == index, users[rows], chosen == index, users[_owners(requests)])
        for index, name in enumerate(names)
        if (band == index).any()
    }


def age_shares(ages: Ages, requests: Requests) -> dict[str, Shares]:
    """Return the shares of items without events, by age; empty where all lists are."""
    users = requests.users
    if not len(ages.listed_for):
        return {}
    return {
        name: _shares(listed, users[ages.listed_for], wanted, users[_owners(requests)])
        for name, (wanted, listed) in ages.groups.items()
    }


def _shares(listed: Bools, listed_for: Ints, chosen: Bools, chosen_by: Ints) -> Shares:
    return Shares(
        bootstrap_interval(listed.astype(np.float64), listed_for),
        bootstrap_interval(chosen.astype(np.float64), chosen_by),
    )


def calibration_bins(probabilities: Floats, labels: Bools, users: Ints) -> list[CalibrationBin]:
    """Return predicted and observed rate of impressions in bins of equal size; none where too few were positive."""
    if labels.sum() < FEWEST:
        return []
    parts = np.array_split(np.argsort(probabilities, kind="stable"), BINS)
    return [
        CalibrationBin(
            float(probabilities[part].mean()), bootstrap_interval(labels[part].astype(np.float64), users[part])
        )
        for part in parts
    ]


def feature_importance(
    recommender: Recommender, ranking: Ranking, requests: Requests, histories: Histories
) -> dict[str, Interval]:
    """Return how much ndcg@10 the ranker loses without each feature, over some requests with a target among their candidates.

    A feature is taken away by shuffling its values among the best candidates of all these requests. The two forms in which a
    source's score comes (`relative_…` and `rank_…`) go together, as do those of the hour: each would stand in for the other.
    """
    rows = _some(_with_a_proposed_target(ranking, requests), SAMPLE)
    if not len(rows):
        return {}
    retriever, part = recommender.retriever, requests.select(rows)
    items, dense, categorical = _pool(recommender, ranking.rows(rows), histories.rows(rows))
    present, rng = items >= 0, np.random.default_rng(0)

    def gains(dense: Floats, categorical: Ints) -> NDArray[np.float64]:
        order = by_value(_values(recommender, items, dense, categorical), TOP)
        lists = np.where(order >= 0, np.take_along_axis(items, order, 1), -1)
        return ndcg(list_ranks(lists, part.targets, part.offsets), part.offsets, TOP)

    whole = gains(dense, categorical)
    return {
        name: paired_difference(whole, gains(*_shuffled(dense, categorical, columns, present, rng)), part.users)
        for name, columns in _feature_groups(retriever).items()
    }


def _pool(recommender: Recommender, ranking: Ranking, histories: Histories) -> tuple[Ints, Floats, Ints]:
    """Return the best candidates of each request `[R, POOL]` (-1 padded) with the features they have among all candidates."""
    retriever, parts = recommender.retriever, []
    for start in range(0, len(histories), BLOCK):
        rows = slice(start, start + BLOCK)
        batch = retriever.open(histories.rows(rows))
        items = retriever.candidates(batch, ranking.rows(rows).proposals, k=ranking.items.shape[1])
        dense, categorical = retriever.describe(batch, batch.requests.candidates(items))
        order = by_value(_values(recommender, items, dense, categorical), POOL)
        kept = np.where(order >= 0, np.take_along_axis(items, order, 1), -1)
        columns = order[:, :, None]
        parts.append((kept, np.take_along_axis(dense, columns, 1), np.take_along_axis(categorical, columns, 1)))
    items, dense, categorical = (np.concatenate([part[column] for part in parts]) for column in range(3))
    return items, dense, categorical


def _values(recommender: Recommender, items: Ints, dense: Floats, categorical: Ints) -> Floats:
    """Return the values of candidates `items` `[R, C]`, -inf where padded."""
    retriever, probabilities = recommender.retriever, recommender.ranker.probabilities(dense, categorical)
    worth = value(probabilities, retriever.price[items], retriever.config.value)
    return np.where(items >= 0, worth, -np.inf).astype(np.float32)


def _with_a_proposed_target(ranking: Ranking, requests: Requests) -> Ints:
    hits = [np.isfinite(_proposal_ranks(items, requests)) for items in ranking.proposals.values()]
    return np.unique(_owners(requests)[np.any(hits, axis=0)])


def _feature_groups(retriever: Retriever) -> dict[str, list[int]]:
    """Return the columns of each feature among the dense ones and the codes behind them."""
    groups: dict[str, list[int]] = {}
    sources = retriever.features.sources
    forms = {f"{form}_{name}": SOURCE + name for name in sources for form in ("relative", "rank")}
    forms["hour_cos"] = "hour_sin"
    for column, name in enumerate(retriever.feature_names):
        groups.setdefault(forms.get(name, name), []).append(column)
    return groups


def _shuffled(
    dense: Floats, categorical: Ints, columns: list[int], present: Bools, rng: np.random.Generator
) -> tuple[Floats, Ints]:
    """Return the features with `columns` shuffled among the `present` candidates."""
    order, dense, categorical = rng.permutation(int(present.sum())), dense.copy(), categorical.copy()
    first_code = dense.shape[2]
    for column in columns:
        array, index = (dense, column) if column < first_code else (categorical, column - first_code)
        array[present, index] = array[present, index][order]
    return dense, categorical


def catalogue_map(retriever: Retriever) -> CatalogueMap | None:
    """Return the items, or some of many, by the two directions in which their vectors differ most; None for a single item."""
    if len(retriever.vectors) < 2:
        return None
    rows = _some(np.arange(len(retriever.vectors)), MAPPED)
    pca = PCA(2, svd_solver="covariance_eigh")
    points = pca.fit_transform(retriever.vectors[rows])
    names = retriever.items["category"].fill_null("")[rows].to_list()
    return CatalogueMap(points, names, float(pca.explained_variance_ratio_.sum()))


def example_users(
    recommender: Recommender, ranking: Ranking, requests: Requests, histories: Histories
) -> list[Example]:
    """Return some users, drawn at random among those with a history, with their lists and the reasons."""
    known = np.flatnonzero(histories.lengths > 0)
    _, first = np.unique(requests.users[known], return_index=True)
    rows = _some(known[first], EXAMPLES)
    if not len(rows):
        return []
    options = RecommendOptions(ranking.items.shape[1], explain=True)
    explained = recommender.recommend(histories.rows(rows), options)
    part = requests.select(rows)
    ranks = list_ranks(explained.items, part.targets, part.offsets)
    pasts = histories.rows(rows)
    examples = []
    for row, (start, stop) in enumerate(pairwise(part.offsets)):
        own = slice(row, row + 1)
        targets, positions = part.targets[start:stop], ranks[start:stop]
        examples.append(_example(recommender.retriever, pasts.rows(own), explained.rows(own), targets, positions))
    return examples


def _example(
    retriever: Retriever, past: Histories, ranking: Ranking, targets: NDArray[np.int32], ranks: NDArray[np.float64]
) -> Example:
    """Return the one request of `past`, whose explained `ranking` has its targets `[T]` at `ranks` `[T]`."""
    titles = retriever.items["title"]
    items, types = past.items[0][::-1], past.types[0][::-1]
    history = [(EVENT_TYPES[kind], titles[int(item)]) for item, kind in zip(items, types, strict=True) if item >= 0]
    chosen = [
        (titles[int(item)], int(rank) if np.isfinite(rank) else None) for item, rank in zip(targets, ranks, strict=True)
    ]
    assert ranking.contributions is not None  # since it is explained
    suggestions = [
        _suggestion(retriever, past.items[0].astype(np.int64), int(item), contributions, bool((targets == item).any()))
        for item, contributions in zip(ranking.items[0][:LISTED], ranking.contributions[0], strict=False)
        if item >= 0
    ]
    return Example(history[:PAST], chosen, suggestions)


def _suggestion(retriever: Retriever, past: Ints, item: int, contributions: Floats, chosen: bool) -> Suggestion:
    titles = retriever.items["title"]
    nearest = nearest_items(retriever, past, item)
    strongest = strongest_features(retriever.feature_names, np.maximum(contributions, 0))
    return Suggestion(
        titles[item], chosen, titles[nearest[0][0]] if nearest else "", [name for name, _ in strongest[:REASONS]]
    )


def _proposal_ranks(items: Ints, requests: Requests) -> NDArray[np.float64]:
    """Return the position of each target `[T]` among the proposals `[R, quota]` of a source; some thousand requests at once."""
    parts = []
    for start in range(0, len(requests), BLOCK * BLOCK):
        rows = np.arange(start, min(start + BLOCK * BLOCK, len(requests)))
        block = requests.select(rows)
        parts.append(list_ranks(items[rows], block.targets, block.offsets))
    return np.concatenate(parts)


def _owners(requests: Requests) -> Ints:
    """Return the request of each target `[T]`."""
    return np.repeat(np.arange(len(requests)), np.diff(requests.offsets))


def _some(rows: Ints, count: int) -> Ints:
    """Return at most `count` of the `rows`, drawn at random, in their order."""
    if len(rows) <= count:
        return rows
    return np.sort(np.random.default_rng(0).choice(rows, count, replace=False))
