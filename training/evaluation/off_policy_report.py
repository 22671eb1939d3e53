"""The report of an off-policy evaluation: as tables for people, as JSON for programs.

In: estimates by outcome, policy and estimator. Out: what `recsys evaluate --off-policy` prints and `--json` writes.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from recsys.atomic import atomic_file
from recsys.metrics import Interval
from recsys.shown import table_of
from training.evaluation.off_policy import ESTIMATORS, Estimate
from training.evaluation.report import show

LOGGED = "logged"
"""The policy that was logged: an even draw from the pool."""
BEST = ESTIMATORS[-1]
"""The estimator by which policies are compared."""


@dataclass(frozen=True)
class OffPolicyReport:
    """What each model would have brought at the explored positions of a dataset."""

    dataset: str
    top_share: float
    """The share of each pool, its best items, that a model would have drawn from."""
    positions: int
    users: int
    pool: float
    """Mean number of items that a position was drawn from."""
    effective_size: dict[str, float]
    """By model."""
    mean_weight: dict[str, Interval]
    """By model; 1 in expectation, unless the log is not what it says."""
    estimates: dict[str, dict[str, dict[str, Interval]]]
    """Outcomes per explored position, by outcome, policy (`LOGGED` or a model) and estimator."""
    changes: dict[str, dict[str, Interval]]
    """By outcome and policy: by what share the first model is above it."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Outcomes that are not estimated, and why."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Explored positions that are not used, by reason."""
    lists: int = 0

    @classmethod
    def of(cls, estimates: Mapping[tuple[str, str, str], Estimate], **about: Any) -> "OffPolicyReport":
        """Return the report of estimates by (outcome, policy, estimator), with the weights' means under the outcome `weight`."""
        nested: dict[str, dict[str, dict[str, Interval]]] = {}
        for (outcome, policy, estimator), estimate in estimates.items():
            nested.setdefault(outcome, {}).setdefault(policy, {})[estimator] = estimate.interval
        weight = {name: means["mean"] for name, means in nested.pop("weight").items()}
        first, *others = weight
        changes: dict[str, dict[str, Interval]] = {}
        for outcome in nested:
            ours = estimates[outcome, first, BEST]
            bases = {LOGGED: estimates[outcome, LOGGED, "mean"]} | {
                name: estimates[outcome, name, BEST] for name in others
            }
            changes[outcome] = {name: ours.above(base) for name, base in bases.items()}
        return cls(mean_weight=weight, estimates=nested, changes=changes, **about)

    def as_json(self) -> str:
        """Return the report as JSON."""
        return json.dumps(asdict(self), indent=1)

    def write(self, path: Path) -> None:
        """Write the report as JSON, whole or not at all."""
        with atomic_file(path) as temporary:
            temporary.write_text(self.as_json() + "\n", encoding="utf-8")


def render_off_policy(report: OffPolicyReport, console: Console) -> None:
    """Print the report as a table, and what follows from it."""
    console.print(
        f"{report.dataset}: {report.positions:,} explored positions in {report.lists:,} lists of {report.users:,} users, each drawn "
        f"from {report.pool:.1f} items on average; 95 % intervals"
    )
    for reason, count in report.left_out.items():
        console.print(f"[yellow]left out: {count:,} {reason}[/]")
    console.print(
        f"per explored position, had it shown one of the best {report.top_share:.0%} of these items by a model:"
    )
    table = table_of("", "", "estimator", *report.estimates)
    for policy in (LOGGED, *report.mean_weight):
        for row, estimator in enumerate(next(iter(report.estimates.values()))[policy]):
            name = "any of them, as logged" if policy == LOGGED else _label(policy)
            cells = (show(policies[policy][estimator]) for policies in report.estimates.values())
            table.add_row("" if row else name, estimator, *cells)
    console.print(table)
    for name, size in report.effective_size.items():
        console.print(
            f"{_label(name)}: effective sample size {size:,.0f}, mean weight {show(report.mean_weight[name])} (expected: 1)"
        )
    for outcome, changes in report.changes.items():
        for policy, change in changes.items():
            console.print(_verdict(outcome, _label(next(iter(report.mean_weight))), policy, change))
    for outcome, reason in report.skipped.items():
        console.print(f"[yellow]{outcome} left out: {reason}[/]")


def _label(model: str) -> str:
    """Return a name that fits into a table: of a folder its last part."""
    return model.removeprefix("models:/") if model.startswith("models:/") else Path(model).name


def _verdict(outcome: str, model: str, base: str, change: Interval) -> str:
    colour = "green" if change.low > 0 else "red" if change.high < 0 else "yellow"
    unclear = "" if change.low > 0 or change.high < 0 else ", which may be chance"
    value, low, high = (f"{round(100 * part):+d}" for part in (change.value, change.low, change.high))
    other = "what was logged" if base == LOGGED else _label(base)
    return f"[{colour}]{outcome}: {model} {value} % \\[{low}, {high}] against {other}{unclear}[/]"
