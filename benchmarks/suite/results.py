"""What was measured of a data set, as figures with intervals.

In: the arrays of `benchmarks.suite.measure`. Out: intervals, differences and the verdict.

Shapes: R requests, T targets.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from benchmarks.suite.measure import INTEREST, ORACLE, OURS, RANKS, TYPED, Arrays
from recsys.arrays import offsets_of
from recsys.metrics import Interval, bootstrap_interval, hit_rate, ndcg, paired_difference

Verdict = Literal["win", "tie", "loss"]

METRICS = {"hr@10": hit_rate, "ndcg@10": ndcg}


def verdict(difference: Interval) -> Verdict:
    """Return `win` where the whole interval of the difference is above 0, `loss` where it is below."""
    return "win" if difference.low > 0 else "loss" if difference.high < 0 else "tie"


@dataclass(frozen=True)
class Results:
    """All that was measured of a data set with one `--fit-on`."""

    shared: Arrays
    """Users `[R]`, offsets `[R + 1]`, and of each target `[T]` whether it is cold or repeated, and its history's length."""
    seeds: list[Arrays]
    """The rows of each training."""
    others: Arrays
    """The rows of baselines and peers, whom ours are set against."""
    without: Arrays
    """The rows of ours with a part turned off, seed 0."""

    @cached_property
    def about(self) -> list[dict[str, Any]]:
        """Day, minutes, GiB and sources of each training."""
        return [json.loads(str(seed["about"])) for seed in self.seeds]

    @property
    def skipped(self) -> dict[str, str]:
        """Baselines that could not be fitted, and why."""
        return json.loads(str(self.shared["skipped"]))

    @cached_property
    def rows(self) -> dict[str, list[np.ndarray]]:
        """The ranks `[T]` of every row, one array a seed."""
        names = [name for name in self.seeds[0] if name.startswith(RANKS)]
        of_seeds = {name: [seed[name] for seed in self.seeds] for name in names}
        every = of_seeds | {name: [ranks] for name, ranks in (self.others | self.without).items()}
        return {name.removeprefix(RANKS): ranks for name, ranks in every.items()}

    def values(self, row: str, metric: str, keep: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean over seeds of a row's metric, and the users, of the requests with targets in `keep` `[T]`."""
        offsets, users = self.shared["offsets"], self.shared["users"]
        if keep is None:
            keep = np.ones(offsets[-1], bool)
        owners = np.repeat(np.arange(len(users)), np.diff(offsets))
        counts = np.bincount(owners[keep], minlength=len(users))
        requests = np.flatnonzero(counts)
        seeds = [METRICS[metric](ranks[keep], offsets_of(counts[requests]), 10) for ranks in self.rows[row]]
        return np.mean(seeds, axis=0), users[requests]

    def interval(self, row: str, metric: str, keep: np.ndarray | None = None) -> Interval | None:
        """Return a row's metric with its interval over users; None without any target in `keep`."""
        values, users = self.values(row, metric, keep)
        return bootstrap_interval(values, users) if len(values) else None

    def by_seed(self, row: str) -> list[float]:
        """Return ndcg@10 of each seed."""
        return [float(ndcg(ranks, self.shared["offsets"], 10).mean()) for ranks in self.rows[row]]

    def above(self, row: str) -> Interval:
        """Return ours ndcg@10 above that of a row, paired over users."""
        ours, users = self.values(OURS, "ndcg@10")
        return paired_difference(ours, self.values(row, "ndcg@10")[0], users)

    @cached_property
    def best_other(self) -> str:
        """The baseline or peer with the highest ndcg@10 on the very split that is reported."""
        names = [name.removeprefix(RANKS) for name in self.others if name != RANKS + ORACLE]
        return max(names, key=lambda name: self.values(name, "ndcg@10")[0].mean())

    @property
    def shown(self) -> dict[str, Interval]:
        """How well ours order what was shown, mean over seeds; empty without impressions."""
        names = [name for name in self.seeds[0] if name.startswith("impression_") and name != "impression_users"]
        values = {name: np.mean([seed[name] for seed in self.seeds], axis=0) for name in names}
        return {name: bootstrap_interval(array, self.seeds[0]["impression_users"]) for name, array in values.items()}

    @property
    def segments(self) -> dict[str, tuple[str, np.ndarray]]:
        """A row, and the targets `[T]` to look at in it, by what is special about them."""
        cold, repeated, length = (self.shared[name] for name in ("cold", "repeat", "length"))
        return {
            "items without any event before": (OURS, cold),
            "items with events": (OURS, ~cold),
            "items that the user had met before": (OURS, repeated),
            "users with at most two events": (OURS, length <= 2),
            "users with three to nine": (OURS, (length > 2) & (length < 10)),
            "users with ten or more": (OURS, length >= 10),
            "users with nothing but a typed sentence": (TYPED, np.ones(len(cold), bool)),
        }

    @property
    def interest(self) -> Interval | None:
        """ndcg@10 of the interest model alone."""
        return self.interval(INTEREST, "ndcg@10")
