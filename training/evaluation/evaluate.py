"""Measure the very lists that serving makes, with intervals, segments and baselines.

In: a `Recommender`, the log and the split to look at. Out: `Report`.

Every request of the split is answered with what was known just before it; the whole catalogue
competes. Intervals are 95 % bootstrap over users.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

from features.histories import TEST, VALID, EventLog, Histories, Requests, offsets_of
from features.simulator.shop import load_truth, oracle_scores
from recsys.atomic import atomic_file
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
from serving.recommender import BLOCK, Ranking, Recommender
from training.evaluation.baselines import Baseline, exclude
from training.ranker.data import impression_data

LIST_LENGTH = 100
"""Places of a list that are looked at; a target further down counts as missed."""

SPLIT_SEGMENTS = {"valid": VALID, "test": TEST}
HISTORY_BINS = ((0, 0, "no history"), (1, 2, "history 1-2"), (3, 9, "history 3-9"), (10, 1 << 30, "history 10+"))


@dataclass(frozen=True)
class SourceRecall:
    """What a candidate source proposes at its quota."""

    quota: int
    recall: float
    """Share of the targets that it proposes."""
    alone: float
    """Share of the targets that no other source proposes."""


@dataclass(frozen=True)
class Report:
    """Everything that one evaluation found."""

    dataset: str
    split: str
    n: int
    """Requests."""
    metrics: dict[str, Interval]
    lists: dict[str, Interval]
    """Properties of the lists themselves: coverage, novelty, diversity, popularity share."""
    segments: dict[str, dict[str, Any]]
    baselines: dict[str, dict[str, Interval]]
    differences: dict[str, Interval]
    """ndcg@10 above each baseline (the oracle is none), paired over users."""
    sources: dict[str, SourceRecall]
    """What each candidate source brings, and `all of them`."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Baselines that could not be fitted, and why."""

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain values, the form of `--json`."""
        baselines = {name: _plain(metrics) for name, metrics in self.baselines.items()}
        return {
            "dataset": self.dataset,
            "split": self.split,
            "n": self.n,
            "metrics": _plain(self.metrics | self.lists),
            "segments": {name: {"n": part["n"], **_plain(part["metrics"])} for name, part in self.segments.items()},
            "baselines": baselines,
            "yardsticks": baselines,  # the key until 0.1, readable for one release
            "differences": _plain(self.differences),
            "sources": {name: asdict(source) for name, source in self.sources.items()},
            "skipped": self.skipped,
        }

    def write(self, path: Path) -> None:
        """Write the report as JSON, aside and renamed into place."""
        with atomic_file(path) as temporary:
            temporary.write_text(json.dumps(self.as_dict(), indent=1) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Evaluation:
    """The requests of a split, and the metrics of any ranking of them."""

    log: EventLog
    requests: Requests
    histories: Histories

    @classmethod
    def of(cls, log: EventLog, split: str, length: int) -> "Evaluation":
        """MicroBatcher the requests of `split` with histories of at most `length` events."""
        requests = log.requests(SPLIT_SEGMENTS[split])
        return cls(log, requests, log.histories(requests.users, requests.times, length))

    def per_request(self, ranks: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Return each metric's values `[R]` for the ranks `[T]` of the targets."""
        offsets = self.requests.offsets
        return {
            "hr@10": hit_rate(ranks, offsets, 10),
            "ndcg@10": ndcg(ranks, offsets, 10),
            "recall@50": recall(ranks, offsets, 50),
            "mrr@100": reciprocal_rank(np.where(ranks <= LIST_LENGTH, ranks, np.inf), offsets),
            "map@100": average_precision(np.where(ranks <= LIST_LENGTH, ranks, np.inf), offsets),
        }

    def intervals(self, values: dict[str, NDArray[np.float64]]) -> dict[str, Interval]:
        """Return the mean of each metric with its interval over users."""
        return {name: bootstrap_interval(array, self.requests.users) for name, array in values.items()}

    def ranks_of(self, scores_of: Callable[[slice], NDArray[np.float32]]) -> NDArray[np.float64]:
        """Return the targets' ranks `[T]` under scores of the whole catalogue, block by block."""
        parts, offsets = [], self.requests.offsets
        for start in range(0, len(self.requests), BLOCK):
            rows = slice(start, min(start + BLOCK, len(self.requests)))
            block = offsets[start : rows.stop + 1]
            parts.append(target_ranks(scores_of(rows), self.requests.targets[block[0] : block[-1]], block - block[0]))
        return np.concatenate(parts) if parts else np.empty(0)


def evaluate(
    recommender: Recommender,
    log: EventLog,
    split: str,
    dataset: str,
    counts: NDArray[np.int64],
    baselines: dict[str, Baseline] | None = None,
    truth_folder: Path | None = None,
    update: Callable[[float, str], None] = lambda share, note: None,
) -> Report:
    """Answer every request of `split` and return the report.

    `counts` `[N]` are the items' events in what the model was fitted on.
    """
    evaluation = Evaluation.of(log, split, recommender.config.interest.max_history)
    ranking = _answer(recommender, evaluation.histories, update)
    ranks = list_ranks(ranking.items, evaluation.requests.targets, evaluation.requests.offsets)
    values = evaluation.per_request(ranks)
    rows = {name: baseline_values(evaluation, scorer) for name, scorer in (baselines or {}).items()}
    ours, users = values["ndcg@10"], evaluation.requests.users
    oracle = _oracle_values(evaluation, truth_folder, recommender)
    return Report(
        dataset=dataset,
        split=split,
        n=len(evaluation.requests),
        metrics=evaluation.intervals(values) | _head_metrics(recommender, evaluation),
        lists=_list_metrics(ranking, recommender, counts, evaluation),
        segments=_segments(evaluation, ranks, counts),
        baselines={name: evaluation.intervals(row) for name, row in (rows | oracle).items()},
        sources=source_recall(recommender, evaluation),
        differences={name: paired_difference(ours, row["ndcg@10"], users) for name, row in rows.items()},
    )


def _answer(recommender: Recommender, histories: Histories, update: Callable[[float, str], None]) -> Ranking:
    parts = []
    for start in range(0, max(1, len(histories)), BLOCK):
        parts.append(recommender.recommend(histories.rows(slice(start, start + BLOCK)), LIST_LENGTH))
        update(min(1.0, (start + BLOCK) / max(1, len(histories))), "")
    return Ranking.join(parts)


def baseline_values(evaluation: Evaluation, baseline: Baseline) -> dict[str, NDArray[np.float64]]:
    """Return the baseline's metrics with seen items kept or left out, whichever serves it better here."""

    def kept(rows: slice) -> NDArray[np.float32]:
        return baseline.scores(evaluation.histories.items[rows])

    def left_out(rows: slice) -> NDArray[np.float32]:
        return exclude(kept(rows), evaluation.histories.items[rows])

    both = [evaluation.per_request(evaluation.ranks_of(scores_of)) for scores_of in (kept, left_out)]
    return max(both, key=lambda values: float(values["ndcg@10"].mean()))


def _oracle_values(
    evaluation: Evaluation, folder: Path | None, recommender: Recommender
) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Rank by the simulator's own probabilities, where the dataset carries its truth."""
    truth = load_truth(folder) if folder else None
    if truth is None or (evaluation.requests.request_index < 0).any():
        return {}
    ids = [evaluation.log.request_ids[key] for key in evaluation.requests.request_index]
    return {"oracle": evaluation.per_request(evaluation.ranks_of(lambda rows: oracle_scores(truth, ids[rows])))}


def _list_metrics(
    ranking: Ranking, recommender: Recommender, counts: NDArray[np.int64], evaluation: Evaluation
) -> dict[str, Interval]:
    top = ranking.items[:, :10]
    whole = coverage(top, len(recommender.vectors))
    return {
        "coverage@10": Interval(whole, whole, whole),
        "novelty@10": bootstrap_interval(novelty(top, counts), evaluation.requests.users),
        "diversity@10": bootstrap_interval(intra_list_diversity(top, recommender.vectors), evaluation.requests.users),
        "popularity_share@10": bootstrap_interval(popularity_share(top, counts), evaluation.requests.users),
    }


def source_recall(recommender: Recommender, evaluation: Evaluation) -> dict[str, SourceRecall]:
    """Return how many targets each source proposes, and how many it alone."""
    offsets, blocks = evaluation.requests.offsets, []
    for start in range(0, len(evaluation.requests), BLOCK):
        rows = slice(start, min(start + BLOCK, len(evaluation.requests)))
        proposed = recommender.proposals(recommender.open(recommender.batch(evaluation.histories.rows(rows))))
        owners = np.repeat(np.arange(rows.stop - start), np.diff(offsets[start : rows.stop + 1]))
        targets = evaluation.requests.targets[offsets[start] : offsets[rows.stop]]
        blocks.append(np.stack([(items[owners] == targets[:, None]).any(1) for items in proposed.values()]))
    found = np.concatenate(blocks, axis=1)  # [sources, T]
    others = found.sum(0) - found
    quotas = recommender.config.sources.model_dump()
    rows_of = {
        source.name: SourceRecall(quotas[source.name], float(hit.mean()), float((hit & (rest == 0)).mean()))
        for source, hit, rest in zip(recommender.sources, found, others, strict=True)
    }
    return rows_of | {"all of them": SourceRecall(sum(quotas.values()), float(found.any(0).mean()), 0.0)}


def _segments(
    evaluation: Evaluation, ranks: NDArray[np.float64], counts: NDArray[np.int64]
) -> dict[str, dict[str, Any]]:
    """Return hr@10 and ndcg@10 of targets of a kind and of requests of a kind."""
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


def _head_metrics(recommender: Recommender, evaluation: Evaluation) -> dict[str, Interval]:
    """Where it is known what was shown: how well the shown items are told apart (MIND's metrics)."""
    part, data = impression_data(recommender, evaluation.log, evaluation.requests)
    if not len(part):
        return {}
    assert recommender.ranker is not None
    present = data.candidates >= 0
    probabilities = recommender.ranker.probabilities(data.dense, data.categorical)[present].numpy()
    labels = data.labels[present].numpy() > 0
    found = impression_metrics(probabilities[:, 0], labels[:, 0], offsets_of(present.sum(1).numpy()))
    intervals = {f"impression_{name}": bootstrap_interval(values, part.users) for name, values in found.items()}
    for head, name in enumerate(HEADS):
        if labels[:, head].any():
            intervals |= _calibration(name, probabilities[:, head], labels[:, head])
    return intervals


def _calibration(head: str, probabilities: NDArray[np.float32], labels: NDArray[np.bool_]) -> dict[str, Interval]:
    """Return AUC, logloss and calibration error of a head over shown items, without intervals."""
    truth = labels.astype(np.float64)
    values = {
        f"{head}_auc": auc(probabilities, truth),
        f"{head}_logloss": logloss(probabilities, truth),
        f"{head}_calibration_error": calibration_error(probabilities, truth),
    }
    return {name: Interval(value, value, value) for name, value in values.items()}


def render(report: Report, console: Console) -> None:
    """Print the report as tables."""
    title = f"{report.dataset}, split {report.split}, {report.n:,} requests, full ranking, 95 % intervals"
    names = ("hr@10", "ndcg@10", "recall@50")
    table = _table(title, "", *names)
    table.add_row("[bold]this model[/]", *(f"[bold]{_show(report.metrics[name])}[/]" for name in names))
    ordered = sorted(report.baselines.items(), key=lambda row: -row[1]["ndcg@10"].value)
    for name, metrics in ordered:
        table.add_row(name, *(_show(metrics[metric]) for metric in names))
    console.print(table)
    for name, reason in report.skipped.items():
        console.print(f"{name} left out: {reason}")
    if report.differences:
        best = min(report.differences, key=lambda name: report.differences[name].value)
        gap = report.differences[best]
        colour = "green" if gap.low > 0 else "red"
        verdict = "above" if gap.low > 0 else "not above"
        console.print(f"[{colour}]ndcg@10 is {verdict} the best baseline, {best}: difference {_show(gap)}[/]")
    _render_rest(report, console)


def _render_rest(report: Report, console: Console) -> None:
    segments = _table("by kind of target and of history", "", "requests", "hr@10", "ndcg@10")
    for name, part in report.segments.items():
        segments.add_row(name, f"{part['n']:,}", _show(part["metrics"]["hr@10"]), _show(part["metrics"]["ndcg@10"]))
    console.print(segments)
    sources = _table("candidate sources", "", "quota", "recall at quota", "found by no other")
    for name, source in report.sources.items():
        sources.add_row(name, f"{source.quota}", f"{source.recall:.4f}", f"{source.alone:.4f}")
    console.print(sources)
    rest = _table("other figures of this model", "", "this model")
    for name, interval in (report.metrics | report.lists).items():
        if name not in ("hr@10", "ndcg@10", "recall@50"):
            rest.add_row(name, _show(interval))
    console.print(rest)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", padding=0)
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place else "left", no_wrap=True)
    return table


def _show(interval: Interval) -> str:
    if interval.low == interval.high:
        return f"{interval.value:.4f}"
    low, high = (f"{bound:.3f}".removeprefix("0") for bound in (interval.low, interval.high))
    return f"{interval.value:.4f} \\[{low}, {high}]"


def _plain(metrics: dict[str, Interval]) -> dict[str, dict[str, float]]:
    return {name: interval.as_dict() for name, interval in metrics.items()}
