"""Which of several runs is better, and where: `recsys runs compare`, and the gate of `recsys models promote`.

In: the results by request that each run kept. Out: differences to the first run, overall and by segment.

Two runs can be compared where they answered the same requests of the same data; others only by force, and then unpaired. Differences
are means over requests with bootstrap intervals over users. They are made wider where many are looked at (Bonferroni), so that in 95
of 100 comparisons of equal models none is called real.
"""

from dataclasses import dataclass

import polars as pl

from recsys.errors import RecsysError
from recsys.metrics import CONFIDENCE, Interval, bootstrap_interval, unpaired_difference
from training.evaluation.report import HISTORY_BINS
from training.run_info import RunInfo

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
    seeds: tuple[RunInfo, ...] = ()
    """The runs of which this is the mean; none where it is one run's."""

    @property
    def label(self) -> str:
        """How messages call it."""
        versions = ", ".join(seed.label.removeprefix("version ") for seed in self.seeds)
        return f"mean of {len(self.seeds)} seeds ({versions})" if self.seeds else self.run.label


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

    label: str
    run: RunInfo
    """The first of its seeds, where it is the mean of several."""
    paired: bool
    """Whether both answered the same requests."""
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


def pool_seeds(runs: list[Evaluated]) -> list[Evaluated]:
    """Return one for each configuration: the mean over its seeds. Seeds of a single configuration stay apart.

    Raises:
        RecsysError: seeds of one configuration were not measured on the same requests.
    """
    groups: dict[tuple[object, ...], list[Evaluated]] = {}
    for one in runs:
        parameters = {key: value for key, value in one.run.parameters.items() if key != "seed"}
        groups.setdefault((one.run.fingerprint, *sorted(parameters.items())), []).append(one)
    return [_mean(group) for group in groups.values()] if len(groups) > 1 else runs


def _mean(group: list[Evaluated]) -> Evaluated:
    if len(group) == 1:
        return group[0]
    for other in group[1:]:
        _require_same_requests(group[0], other)
    means = {metric: sum(one.requests[metric] for one in group) / len(group) for metric in METRICS}
    return Evaluated(group[0].run, group[0].requests.with_columns(**means), tuple(one.run for one in group))


def compare(first: Evaluated, others: list[Evaluated], *, force: bool = False) -> list[Comparison]:
    """Return each of the `others` against the first run; by `force` also on other requests, of which no two can be paired.

    Raises:
        RecsysError: they did not answer the same requests of the same data.
    """
    if not force:
        for other in others:
            _require_same_requests(first, other)
    runs = [first, *others]
    segments = [name for name in SEGMENTS if min(len(_rows(one, name)) for one in runs) >= FEW]
    looks = len(others) * (len(METRICS) + len(segments))
    return [_against(first, other, segments, 1 - (1 - CONFIDENCE) / looks) for other in others]


def _rows(one: Evaluated, segment: str) -> pl.DataFrame:
    return one.requests.filter(SEGMENTS[segment])


def _against(first: Evaluated, other: Evaluated, segments: list[str], confidence: float) -> Comparison:
    paired = not _difference_of_requests(first, other)

    def difference(metric: str, theirs: pl.DataFrame, ours: pl.DataFrame) -> Difference:
        before, after = theirs[metric].to_numpy(), ours[metric].to_numpy()
        users, others = theirs["user"].to_numpy(), ours["user"].to_numpy()
        if paired:
            interval = bootstrap_interval(after - before, users, SAMPLES, confidence=confidence)
        else:
            interval = unpaired_difference(after, others, before, users, SAMPLES, confidence)
        return Difference(len(after), interval)

    keys = sorted(first.run.parameters.keys() | other.run.parameters.keys())
    both = {key: (first.run.parameters.get(key, ""), other.run.parameters.get(key, "")) for key in keys}
    return Comparison(
        label=other.label,
        run=other.run,
        paired=paired,
        metrics={metric: difference(metric, first.requests, other.requests) for metric in METRICS},
        segments={name: difference(MAIN, _rows(first, name), _rows(other, name)) for name in segments},
        parameters={key: pair for key, pair in both.items() if pair[0] != pair[1]},
    )


def _require_same_requests(first: Evaluated, other: Evaluated) -> None:
    different = _difference_of_requests(first, other)
    if different:
        raise RecsysError(f"{first.label} and {other.label} {different}")


def _difference_of_requests(first: Evaluated, other: Evaluated) -> str:
    """Return why two runs cannot be compared request by request; empty where they can."""
    mine, theirs = first.run.fingerprint, other.run.fingerprint
    if mine != theirs:
        return (
            f"were trained on different data ({first.run.dataset} {mine[:8]}, {other.run.dataset} {theirs[:8]}), so their "
            "figures say little of each other; train both on the same dataset"
        )
    key = ("user", "time")
    if not first.requests.select(key).equals(other.requests.select(key)):
        return (
            f"were not measured on the same requests ({first.requests.height:,} and {other.requests.height:,}): their "
            "data.* settings differ; train both with the same"
        )
    return ""
