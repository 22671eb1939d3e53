"""Which of several runs is better, and where: `recsys runs compare`, and the gate of `recsys models promote`.

In: the results by request that each run kept. Out: paired differences to the first run, overall and by segment.

Two runs can be compared where they answered the same requests of the same data. Differences are means over requests with bootstrap
intervals over users. They are made wider where many are looked at (Bonferroni), so that in 95 of 100 comparisons of equal models
none is called real.
"""

from dataclasses import dataclass
from typing import Any

import polars as pl

from recsys.errors import RecsysError
from recsys.metrics import CONFIDENCE, Interval, bootstrap_interval
from training.evaluation.report import HISTORY_BINS
from training.tracking import RunInfo

METRICS = ("ndcg@10", "hr@10", "recall@50", "mrr@100")
MAIN = METRICS[0]
SAMPLES = 4000
SEGMENTS = {name: pl.col("history").is_between(fewest, most) for fewest, most, name in HISTORY_BINS}
SEGMENTS |= {"new items": pl.col("new_item"), "known items": ~pl.col("new_item")}
"""Requests by the events of the user before, and by whether a target had none."""
FEW = 30
"""Requests below which a segment is not compared."""


@dataclass(frozen=True)
class Evaluated:
    """A run with its results by request."""

    run: RunInfo
    requests: pl.DataFrame
    """user, time, history, new_item and the metrics of each request."""


@dataclass(frozen=True)
class Difference:
    """How much a run is above the first one."""

    requests: int
    interval: Interval

    @property
    def real(self) -> bool:
        """Whether the whole interval lies on one side of 0."""
        return self.interval.low > 0 or self.interval.high < 0

    @property
    def worse(self) -> bool:
        """Whether the whole interval lies below 0."""
        return self.interval.high < 0


@dataclass(frozen=True)
class Comparison:
    """A run against the first one."""

    run: RunInfo
    metrics: dict[str, Difference]
    segments: dict[str, Difference]
    """Of ndcg@10."""
    parameters: dict[str, tuple[str, str]]
    """What differs: the value of the first run, and of this one."""

    @property
    def worse(self) -> list[str]:
        """In what this run is worse: ndcg@10, or a segment."""
        parts = {MAIN: self.metrics[MAIN]} | self.segments
        return [name for name, difference in parts.items() if difference.worse]


def compare(first: Evaluated, others: list[Evaluated]) -> list[Comparison]:
    """Return each of the `others` against the first run.

    Raises:
        RecsysError: they did not answer the same requests of the same data.
    """
    for other in others:
        _require_same_requests(first, other)
    segments = {name: first.requests.select(where).to_series().to_numpy() for name, where in SEGMENTS.items()}
    segments = {name: rows for name, rows in segments.items() if rows.sum() >= FEW}
    looks = len(others) * (len(METRICS) + len(segments))
    return [_against(first, other, segments, 1 - (1 - CONFIDENCE) / looks) for other in others]


def _against(first: Evaluated, other: Evaluated, segments: dict[str, Any], confidence: float) -> Comparison:
    users = first.requests["user"].to_numpy()

    def difference(metric: str, rows: Any = slice(None)) -> Difference:
        values = (other.requests[metric] - first.requests[metric]).to_numpy()[rows]
        return Difference(len(values), bootstrap_interval(values, users[rows], SAMPLES, confidence=confidence))

    keys = sorted(first.run.parameters.keys() | other.run.parameters.keys())
    both = {key: (first.run.parameters.get(key, ""), other.run.parameters.get(key, "")) for key in keys}
    return Comparison(
        run=other.run,
        metrics={metric: difference(metric) for metric in METRICS},
        segments={name: difference(MAIN, rows) for name, rows in segments.items()},
        parameters={key: pair for key, pair in both.items() if pair[0] != pair[1]},
    )


def _require_same_requests(first: Evaluated, other: Evaluated) -> None:
    names = f"{first.run.label} and {other.run.label}"
    mine, theirs = first.run.fingerprint, other.run.fingerprint
    if mine != theirs:
        raise RecsysError(
            f"{names} were trained on different data ({first.run.dataset} {mine[:8]}, {other.run.dataset} {theirs[:8]}), so their "
            "figures say nothing of each other; train both on the same dataset"
        )
    key = ("user", "time")
    if not first.requests.select(key).equals(other.requests.select(key)):
        raise RecsysError(
            f"{names} were not measured on the same requests ({first.requests.height:,} and {other.requests.height:,}): their "
            "data.* settings differ; train both with the same"
        )
