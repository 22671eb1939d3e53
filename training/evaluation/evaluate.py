"""Measure the very lists that serving makes, with intervals, segments and baselines.

In: a `Recommender`, the log and the split to look at. Out: `Report`.

Every request of the split is answered with what was known just before it; the whole catalogue
competes. Intervals are 95 % bootstrap over users.

Shapes: R requests, T targets, K list length, N catalogue.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from features.histories import TEST, VALID, EventLog, Histories, Requests
from features.simulator.shop import load_truth, oracle_scores
from recsys.arrays import Bools, Floats, Ints, offsets_of
from recsys.events import EVENT_TYPES
from recsys.metrics import (
    Interval,
    auc,
    average_precision,
    bootstrap_interval,
    calibration_error,
    coverage,
    hit_rate,
    impression_metrics,
    intra_list_diversity,
    list_ranks,
    logloss,
    ndcg,
    novelty,
    paired_difference,
    popularity_share,
    recall,
    reciprocal_rank,
    target_ranks,
)
from recsys.models.interest import HEADS
from serving.recommender import Ranking, Recommender, RecommendOptions
from serving.retrieval.retriever import BLOCK, Retriever
from serving.retrieval.windows import Windows
from training.evaluation.baselines import Baseline, exclude
from training.evaluation.details import (
    CalibrationBin,
    Details,
    age_shares,
    calibration_bins,
    catalogue_map,
    example_users,
    feature_importance,
    popularity_shares,
    source_curves,
)
from training.evaluation.new_items import ages_of, new_items
from training.evaluation.report import HISTORY_BINS, Report, SourceRecall
from training.ranker.data import impression_data

LIST_LENGTH = 100
"""Items of a list that are looked at; a target further down counts as missed."""

SPLIT_SEGMENTS = {"valid": VALID, "test": TEST}

Values = dict[str, NDArray[np.float64]]
"""Each metric's values `[R]`."""


@dataclass(frozen=True)
class Evaluation:
    """The requests of a split, and the metrics of any ranking of them."""

    log: EventLog
    requests: Requests
    histories: Histories
    since: Ints | None = None
    """`[N]` the time since which each item is known to exist; None where there is no clock."""
    windows: Windows | None = None
    """When each item may be in lists; None for always."""

    @classmethod
    def of(
        cls, log: EventLog, split: str, length: int, since: Ints | None = None, windows: Windows | None = None
    ) -> "Evaluation":
        """Return the requests of `split` with histories of at most `length` events."""
        requests = log.requests(SPLIT_SEGMENTS[split])
        return cls(log, requests, log.histories_of(requests, length), since, windows)

    def per_request(self, ranks: NDArray[np.float64]) -> Values:
        """Return each metric's values `[R]` for the ranks `[T]` of the targets."""
        offsets = self.requests.offsets
        return {
            "hr@10": hit_rate(ranks, offsets, 10),
            "ndcg@10": ndcg(ranks, offsets, 10),
            "recall@50": recall(ranks, offsets, 50),
            "mrr@100": reciprocal_rank(np.where(ranks <= LIST_LENGTH, ranks, np.inf), offsets),
            "map@100": average_precision(np.where(ranks <= LIST_LENGTH, ranks, np.inf), offsets),
        }

    def intervals(self, values: Values) -> dict[str, Interval]:
        """Return the mean of each metric with its interval over users."""
        return {name: bootstrap_interval(array, self.requests.users) for name, array in values.items()}

    def ranks_of(self, scores_of: Callable[[slice], Floats]) -> NDArray[np.float64]:
        """Return the targets' ranks `[T]` under scores of the whole catalogue, block by block.

        Items that did not exist at the time of a request, or might not be listed then, come last.
        """
        parts = [self.ranks(scores_of(rows), rows) for rows in self.blocks()]
        return np.concatenate(parts) if parts else np.empty(0)

    def blocks(self) -> Iterator[slice]:
        """Yield the requests' rows, of so many at a time as are scored at once."""
        for start in range(0, len(self.requests), BLOCK):
            yield slice(start, min(start + BLOCK, len(self.requests)))

    def ranks(self, scores: Floats, rows: slice) -> NDArray[np.float64]:
        """Return the ranks of the targets of the requests `rows` under their scores `[R, N]`."""
        offsets = self.requests.offsets[rows.start : rows.stop + 1]
        targets = self.requests.targets[offsets[0] : offsets[-1]]
        return target_ranks(self._of_existing(scores, rows), targets, offsets - offsets[0])

    def _of_existing(self, scores: Floats, rows: slice) -> Floats:
        now = self.requests.times[rows]
        if self.since is not None:
            scores = np.where(self.since <= now[:, None], scores, np.float32(-np.inf))
        if self.windows is not None and self.windows.limited:
            scores = np.where(self.windows.open_for(now), scores, np.float32(-np.inf))
        return scores


def evaluate(
    recommender: Recommender,
    log: EventLog,
    split: str,
    *,
    dataset: str,
    counts: Ints,
    baselines: Mapping[str, Baseline] | None = None,
    truth_folder: Path | None = None,
    update: Callable[[float, str], None] = lambda share, note: None,
) -> Report:
    """Answer every request of `split` and return the report.

    `counts` `[N]` are the items' events in what the model was fitted on; `truth_folder` may hold a simulator's truth.
    """
    retriever = recommender.retriever
    evaluation, ranking, ranks = answer(recommender, log, split, update)
    values = evaluation.per_request(ranks)
    scorers = (baselines or {}).items()
    rows = {name: evaluation.per_request(baseline_ranks(evaluation, scorer)) for name, scorer in scorers}
    ours, users = values["ndcg@10"], evaluation.requests.users
    best = oracle_ranks(evaluation, truth_folder)
    oracle = {} if best is None else {"oracle": evaluation.per_request(best)}
    impressions = _impressions(recommender, evaluation)
    return Report(
        dataset=dataset,
        split=split,
        n=len(evaluation.requests),
        metrics=evaluation.intervals(values) | _head_metrics(impressions),
        lists=_list_metrics(ranking, retriever, counts, evaluation),
        segments=_segments(evaluation, ranks, counts),
        baselines={name: evaluation.intervals(row) for name, row in (rows | oracle).items()},
        sources=source_recall(ranking.proposals, retriever.config.sources.model_dump(), evaluation),
        new_items=new_items(ranking.items, ranks, evaluation.requests, counts, evaluation.since),
        differences={name: paired_difference(ours, row["ndcg@10"], users) for name, row in rows.items()},
        requests=_by_request(evaluation, values, counts),
        details=_details(recommender, evaluation, ranking, counts, impressions),
    )


def _details(
    recommender: Recommender, evaluation: Evaluation, ranking: Ranking, counts: Ints, impressions: "_Impressions | None"
) -> Details:
    requests, histories = evaluation.requests, evaluation.histories
    return Details(
        sources=source_curves(ranking.proposals, requests),
        popularity=popularity_shares(ranking.items, requests, counts),
        ages=age_shares(ages_of(ranking.items, requests, counts, evaluation.since), requests),
        calibration=impressions.calibration() if impressions else {},
        importance=feature_importance(recommender, ranking, requests, histories),
        catalogue=catalogue_map(recommender.retriever),
        examples=example_users(recommender, ranking, requests, histories),
    )


def _by_request(evaluation: Evaluation, values: Values, counts: Ints) -> pl.DataFrame:
    requests = evaluation.requests
    new = np.add.reduceat(counts[requests.targets] == 0, requests.offsets[:-1]) > 0
    return pl.DataFrame(
        {
            "user": requests.users,
            "time": requests.times,
            "history": (evaluation.histories.items >= 0).sum(1),
            "new_item": new,
            **values,
        }
    )


def answer(
    recommender: Recommender,
    log: EventLog,
    split: str,
    update: Callable[[float, str], None] = lambda share, note: None,
) -> tuple[Evaluation, Ranking, NDArray[np.float64]]:
    """Answer every request of `split`: return the requests, their lists, and the targets' ranks `[T]` in them."""
    retriever = recommender.retriever
    evaluation = Evaluation.of(log, split, retriever.config.interest.max_history, retriever.since, retriever.windows)
    ranking = _lists(recommender, evaluation.histories, update)
    return evaluation, ranking, list_ranks(ranking.items, evaluation.requests.targets, evaluation.requests.offsets)


def _lists(recommender: Recommender, histories: Histories, update: Callable[[float, str], None]) -> Ranking:
    parts = []
    for start in range(0, max(1, len(histories)), BLOCK):
        rows = slice(start, start + BLOCK)
        parts.append(recommender.recommend(histories.rows(rows), RecommendOptions(LIST_LENGTH)))
        update(min(1.0, (start + BLOCK) / max(1, len(histories))), "")
    return Ranking.join(parts)


def baseline_ranks(evaluation: Evaluation, baseline: Baseline) -> NDArray[np.float64]:
    """Return the targets' ranks `[T]` with seen items kept or left out, whichever serves the baseline better here.

    What a user rejected is left out, as it is from all lists.
    """
    kept, left_out = [np.empty(0)], [np.empty(0)]
    for rows in evaluation.blocks():
        histories = evaluation.histories.rows(rows)
        scores = baseline.scores(histories.items)
        if histories.rejected:
            scores = scores.copy()
            scores[histories.rejected.items.owners, histories.rejected.items.items] = -np.inf
        kept.append(evaluation.ranks(scores, rows))
        scores = exclude(scores, histories.items)
        if histories.earlier:
            scores[histories.earlier.owners, histories.earlier.items] = -np.inf
        left_out.append(evaluation.ranks(scores, rows))
    both = np.concatenate(kept), np.concatenate(left_out)
    return max(both, key=lambda ranks: float(ndcg(ranks, evaluation.requests.offsets, 10).mean()))


def oracle_ranks(evaluation: Evaluation, folder: Path | None) -> NDArray[np.float64] | None:
    """Return the targets' ranks `[T]` by the simulator's own probabilities, where the dataset carries its truth."""
    truth = load_truth(folder) if folder else None
    requests = evaluation.requests.request_index
    if truth is None or (requests < 0).any():
        return None
    ids = [evaluation.log.request_ids[request] for request in requests]
    return evaluation.ranks_of(lambda rows: oracle_scores(truth, ids[rows]))


def _list_metrics(ranking: Ranking, retriever: Retriever, counts: Ints, evaluation: Evaluation) -> dict[str, Interval]:
    top, users = ranking.items[:, :10], evaluation.requests.users
    whole = coverage(top, len(retriever.vectors))
    return {
        "coverage@10": Interval(whole, whole, whole),
        "novelty@10": bootstrap_interval(novelty(top, counts), users),
        "diversity@10": bootstrap_interval(intra_list_diversity(top, retriever.vectors), users),
        "popularity_share@10": bootstrap_interval(popularity_share(top, counts), users),
    }


def source_recall(
    proposals: Mapping[str, Ints], quotas: Mapping[str, int], evaluation: Evaluation
) -> dict[str, SourceRecall]:
    """Return which share of the targets each source's `proposals` `[R, quota]` hold, and which share no other's."""
    requests = evaluation.requests
    owners = np.repeat(np.arange(len(requests)), np.diff(requests.offsets))
    hits = np.stack([_contains(items, owners, requests.targets) for items in proposals.values()])  # [sources, T]
    others = hits.sum(0) - hits
    by_source = {
        name: SourceRecall(quotas[name], float(hit.mean()), float((hit & (rest == 0)).mean()))
        for name, hit, rest in zip(proposals, hits, others, strict=True)
    }
    return by_source | {"all of them": SourceRecall(sum(quotas.values()), float(hits.any(0).mean()), 0.0)}


def _contains(items: Ints, owners: Ints, targets: NDArray[np.int32]) -> Bools:
    """Return whether row `owners[t]` of `items` `[R, K]` holds target t, `[T]`; some thousand targets at once."""
    starts = range(0, max(1, len(owners)), BLOCK * BLOCK)
    blocks = [slice(start, start + BLOCK * BLOCK) for start in starts]
    return np.concatenate([(items[owners[block]] == targets[block, None]).any(1) for block in blocks])


def _segments(evaluation: Evaluation, ranks: NDArray[np.float64], counts: Ints) -> dict[str, dict[str, Any]]:
    """Return hr@10 and ndcg@10 per kind of target and per kind of request."""
    requests = evaluation.requests
    length = (evaluation.histories.items >= 0).sum(1)
    targets = {"cold items": counts[requests.targets] == 0, "known items": counts[requests.targets] > 0}
    for code in np.unique(requests.types):
        targets[EVENT_TYPES[code]] = requests.types == code
    owners = np.repeat(np.arange(len(requests)), np.diff(requests.offsets))
    for low, high, name in HISTORY_BINS:
        targets[name] = ((length >= low) & (length <= high))[owners]
    segments = {}
    for name, keep in targets.items():
        kept = np.bincount(owners[keep], minlength=len(requests))
        rows = np.flatnonzero(kept)
        if len(rows):
            offsets = offsets_of(kept[rows])
            users = requests.users[rows]
            metrics = {
                "hr@10": bootstrap_interval(hit_rate(ranks[keep], offsets, 10), users),
                "ndcg@10": bootstrap_interval(ndcg(ranks[keep], offsets, 10), users),
            }
            segments[name] = {"n": len(rows), "metrics": metrics}
    return segments


@dataclass(frozen=True)
class _Impressions:
    """The items that were shown, `[I]` of R requests, with what the ranker says of them and what became of them."""

    probabilities: Floats
    """`[I, 2]`"""
    labels: Bools
    """`[I, 2]`"""
    offsets: Ints
    """`[R + 1]`"""
    users: Ints
    """`[R]`"""

    def calibration(self) -> dict[str, list[CalibrationBin]]:
        """Return predicted and observed rates by head."""
        users = np.repeat(self.users, np.diff(self.offsets))
        return {
            name: calibration_bins(self.probabilities[:, head], self.labels[:, head], users)
            for head, name in enumerate(HEADS)
        }


def _impressions(recommender: Recommender, evaluation: Evaluation) -> _Impressions | None:
    part, data = impression_data(recommender.retriever, evaluation.log, evaluation.requests)
    if not len(part):
        return None
    ranker = recommender.ranker
    probabilities = ranker.when_shown(ranker.probabilities(data.dense, data.categorical))[data.present]
    labels = data.labels[data.present] > 0
    return _Impressions(probabilities, labels, offsets_of(data.present.sum(1)), part.users)


def _head_metrics(impressions: _Impressions | None) -> dict[str, Interval]:
    """Return how well each head separates clicked from ignored impressions (MIND's metrics), if there are any."""
    if not impressions:
        return {}
    probabilities, labels = impressions.probabilities, impressions.labels
    metrics = impression_metrics(probabilities[:, 0], labels[:, 0], impressions.offsets)
    intervals = {
        f"impression_{name}": bootstrap_interval(values, impressions.users) for name, values in metrics.items()
    }
    for head, name in enumerate(HEADS):
        if labels[:, head].any():
            intervals |= _calibration(name, probabilities[:, head], labels[:, head])
    return intervals


def _calibration(head: str, probabilities: Floats, labels: Bools) -> dict[str, Interval]:
    """Return AUC, log loss and calibration error of a head over impressions, without intervals."""
    truth = labels.astype(np.float64)
    values = {
        f"{head}_auc": auc(probabilities, truth),
        f"{head}_logloss": logloss(probabilities, truth),
        f"{head}_calibration_error": calibration_error(probabilities, truth),
    }
    return {name: Interval(value, value, value) for name, value in values.items()}
