"""Whether a chaos run was survived: a table, and a picture of latencies and memory.

In: what the shoppers wrote, the store, the disturbances. Out: rows of a table, `docs/chaos.png`.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray

from benchmarks.chaos.disturbances import Disturbance
from benchmarks.server import Server
from serving.store.store import Store

matplotlib.use("Agg")
from matplotlib import pyplot

GRACE_S = 5.0
"""How long after a disturbance a 503 may still come."""
ALLOWED = (200, 429)
WINDOW_S = 5.0
MOST_MIB_PER_HOUR = 100.0
WARM_UP = 0.4
"""Share of the time that memory may take to settle: both models were loaded, and caches are full."""

Row = tuple[str, str, str, bool]
"""What, figure, target, whether it was met."""


@dataclass
class Ledger:
    """What must be in the store, what must not, and what may be."""

    kept: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """Acknowledged events of each person, but for those that were forgotten."""
    forgotten: set[str] = field(default_factory=set)
    open: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """Events that were sent and not answered, or may or may not have been forgotten."""
    forgets: int = 0

    @classmethod
    def read(cls, path: Path) -> "Ledger":
        """Return what `ledger.txt` says."""
        ledger = cls()
        for line in path.read_text().splitlines():
            verb, person, *ids = line.split()
            if verb == "try":
                ledger.open[person] |= set(ids)
            elif verb == "kept":
                ledger.open[person] -= set(ids)
                ledger.kept[person] |= set(ids)
            elif verb == "forget":
                ledger.open[person] |= ledger.kept.pop(person, set())
            else:
                ledger.forgets += 1
                ledger.forgotten |= ledger.open.pop(person, set())
        return ledger

    def rows(self, stored: set[str]) -> list[Row]:
        """Return acknowledged − forgotten = stored as rows."""
        kept, maybe = set().union(*self.kept.values()), set().union(*self.open.values())
        lost, back, strange = kept - stored, stored & self.forgotten, stored - kept - maybe - self.forgotten
        return [
            ("events acknowledged and not forgotten; of these lost", f"{len(kept):,}; {len(lost)}", "0 lost", not lost),
            (
                f"events of {self.forgets} forgotten users; of these in the store",
                f"{len(self.forgotten):,}; {len(back)}",
                "0",
                bool(self.forgets) and not back,
            ),
            ("events in the store that nobody sent", f"{len(strange)}", "0", not strange),
            ("events that were not answered in the end", f"{len(maybe)}", "", True),
        ]


@dataclass(frozen=True)
class Answers:
    """The requests: when each was sent, to which server, its status, whether it said when to come again, milliseconds."""

    times: NDArray[np.float64]
    servers: NDArray[np.int64]
    statuses: NDArray[np.int64]
    retry: NDArray[np.bool_]
    ms: NDArray[np.float64]

    @classmethod
    def read(cls, path: Path) -> "Answers":
        """Return what `answers.csv` says."""
        times, servers, _, statuses, retry, ms = zip(
            *(line.split(",") for line in path.read_text().splitlines()), strict=True
        )
        return cls(
            np.array(times, float),
            np.array(servers, int),
            np.array(statuses, int),
            np.array(retry, int) == 1,
            np.array(ms, float),
        )

    def rows(self, disturbances: list[Disturbance]) -> list[Row]:
        """Return how requests were answered as rows; a 503 says when to come again, and both need an excuse."""
        good = np.isin(self.statuses, ALLOWED)
        late = np.zeros(len(good), bool)
        for disturbance in disturbances:
            if disturbance.excuses:
                # A request that was sent before may be caught by it.
                late |= (self.times + self.ms / 1000 > disturbance.began) & (self.times < disturbance.ended + GRACE_S)
        documented = late & ((self.statuses == 0) | ((self.statuses == 503) & self.retry))
        wrong = ~good & ~documented
        kinds = ", ".join(f"{status}: {(self.statuses == status).sum()}" for status in np.unique(self.statuses[wrong]))
        median, p99 = np.percentile(self.ms[self.statuses == 200], [50, 99])
        return [
            ("requests", f"{len(good):,}", "", True),
            ("milliseconds, median and p99", f"{median:.0f}, {p99:.0f}", "", True),
            ("503 with Retry-After, or a connection lost, while something was away", f"{documented.sum():,}", "", True),
            ("any other failure", f"{wrong.sum()} {kinds}".strip(), "0", not wrong.any()),
        ]


def slope_mib_per_hour(samples: list[tuple[float, float]]) -> float:
    """Return how fast memory grows after the warm-up: a line through the least of each minute.

    While a model is loaded two of them are in memory; the least of a minute leaves that out.
    """
    times, sizes = np.array(samples).T
    minutes = ((times - times[0]) // 60).astype(int)
    kept = [minute for minute in np.unique(minutes) if minute * 60 >= WARM_UP * (times[-1] - times[0])]
    least = [sizes[minutes == minute].min() for minute in kept]
    return float(np.polyfit(np.array(kept) / 60, least, 1)[0]) if len(kept) > 1 else 0.0


def verdict(
    folder: Path, store: str, servers: Sequence[Server], disturbances: list[Disturbance], ended: list[int]
) -> list[Row]:
    """Return the rows of the table; `ended` are the exit statuses of the servers."""
    opened = Store(store)
    stored = {event.event_id for event in opened.every_event()}
    since = opened.forgotten_users()
    lists = [one for one in opened.every_list() if one.user_id in since and one.timestamp <= since[one.user_id]]
    slope = slope_mib_per_hour(servers[1].mib)
    most = max(size for server in servers for _, size in server.mib)
    return [
        *Ledger.read(folder / "ledger.txt").rows(stored),
        ("lists of forgotten users from before", f"{len(lists)}", "0", not lists),
        *Answers.read(folder / "answers.csv").rows(disturbances),
        *(
            (one.name, f"{one.ended - one.began:.0f} s, {'as it should be' if one.passed else 'not so'}", "as it should be", one.passed)
            for one in disturbances
        ),
        ("memory of a server at most", f"{most:,.0f} MiB", "", True),
        (f"growth of {servers[1].name}'s after warm-up", f"{slope:+.0f} MiB/hour", f"under {MOST_MIB_PER_HOUR:.0f}", slope < MOST_MIB_PER_HOUR),
        ("exit statuses at SIGTERM", ", ".join(map(str, ended)), "-15", set(ended) == {-15}),
    ]  # fmt: skip


def draw(path: Path, folder: Path, servers: Sequence[Server], disturbances: list[Disturbance]) -> None:
    """Draw p99 and failures of every few seconds, and the memory of both servers, with the disturbances behind them."""
    answers = Answers.read(folder / "answers.csv")
    start = answers.times.min()
    figure, (above, below) = pyplot.subplots(2, 1, sharex=True, figsize=(11, 6), height_ratios=(3, 2))
    windows = ((answers.times - start) // WINDOW_S).astype(int)
    ok = answers.statuses == 200
    for server, drawn in zip(range(2), servers, strict=True):
        points: list[tuple[float, Any]] = [
            (window * WINDOW_S / 60, np.percentile(answers.ms[rows], 99) if rows.any() else np.nan)
            for window in range(windows.max() + 1)
            for rows in [(windows == window) & ok & (answers.servers == server)]
        ]
        above.plot(*zip(*points, strict=True), label=f"p99 of {drawn.name}", linewidth=1.2)
        below.plot([(at - start) / 60 for at, _ in drawn.mib], [mib for _, mib in drawn.mib], label=drawn.name)
    failed = answers.times[~np.isin(answers.statuses, ALLOWED)]
    above.plot((failed - start) / 60, np.full(len(failed), 13.0), "|", color="crimson", label="503 or no answer")
    above.set(yscale="log", ylabel="milliseconds, of 5 s each", ylim=(10, None))
    below.set(xlabel="minutes", ylabel="memory, MiB", ylim=(0, None))
    for number, one in enumerate(disturbances):
        for axes in (above, below):
            axes.axvspan((one.began - start) / 60, (one.ended - start) / 60, color="grey", alpha=0.2, linewidth=0)
        height = 0.97 - 0.07 * (number % 3)
        above.text(
            (one.began - start) / 60, height, one.name, transform=above.get_xaxis_transform(), fontsize=8, va="top"
        )
    for axes in (above, below):
        axes.legend(loc="lower right", fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
