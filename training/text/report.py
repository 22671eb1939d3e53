"""What a text head got right on texts that it was not fitted on.

In: counts by text of each class: found rightly, found wrongly, missed. Out: a `TextReport`, as a table and as lines.

Shapes: N texts, C classes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from recsys.arrays import Ints
from recsys.metrics import CONFIDENCE, Interval
from recsys.shown import table_of

SAMPLES = 1000


@dataclass(frozen=True)
class Counts:
    """What was found in each of N texts, of each of C classes."""

    right: Ints
    """`[N, C]` found that are there."""
    wrong: Ints
    """`[N, C]` found that are not there."""
    missed: Ints
    """`[N, C]` there and not found."""

    def of(self, rows: Ints) -> "Counts":
        """Return those of some texts."""
        return Counts(self.right[rows], self.wrong[rows], self.missed[rows])

    def scores(self) -> NDArray[np.float64]:
        """Return precision, recall, F1 and number of each class `[C, 4]`; 0 where nothing is there or found."""
        return _scores(*(part.sum(0).astype(np.float64) for part in (self.right, self.wrong, self.missed)))

    def micro(self) -> float:
        """Return F1 over all classes at once."""
        return float(_scores(*(np.array([float(part.sum())]) for part in (self.right, self.wrong, self.missed)))[0, 2])

    def macro(self) -> float:
        """Return the mean of the classes' F1, of those that are there or found."""
        scores = self.scores()
        seen = (self.right + self.wrong + self.missed).sum(0) > 0
        return float(scores[seen, 2].mean()) if seen.any() else 0.0


def _scores(right: NDArray[np.float64], wrong: NDArray[np.float64], missed: NDArray[np.float64]) -> NDArray[np.float64]:
    precision = right / np.maximum(right + wrong, 1)
    recall = right / np.maximum(right + missed, 1)
    f1 = 2 * right / np.maximum(2 * right + wrong + missed, 1)
    return np.stack([precision, recall, f1, right + missed], axis=1)


def resampled(figure: Callable[[Ints], float], count: int, seed: int = 0) -> Interval:
    """Return a `figure` of `count` texts with its bootstrap interval over them; it takes the rows that are drawn."""
    rng, every = np.random.default_rng(seed), np.arange(count)
    drawn = [figure(rng.integers(count, size=count)) for _ in range(SAMPLES)]
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(figure(every), float(low), float(high))


@dataclass(frozen=True)
class TextReport:
    """Figures of a text head on `test`."""

    texts: int
    classes: list[str]
    scores: NDArray[np.float64]
    """`[C, 4]` precision, recall, F1 and number of each class."""
    figures: Mapping[str, Interval]
    """Over all classes, by name; the first is what it is chosen by."""

    def metrics(self) -> dict[str, float]:
        """Return the figures by name, with their intervals, as MLflow keeps them."""
        found = {f"test_{name}": interval.value for name, interval in self.figures.items()}
        for name, interval in self.figures.items():
            found |= {f"test_{name}_low": interval.low, f"test_{name}_high": interval.high}
        return found | {f"test_f1/{name}": float(row[2]) for name, row in zip(self.classes, self.scores, strict=True)}

    def table(self) -> Table:
        """Return a row per class, the rarest last, and a row per figure."""
        title = f"{self.texts:,} texts of test"
        figures = [(name, f"{one.value:.3f}", f"[{one.low:.3f}, {one.high:.3f}]") for name, one in self.figures.items()]
        if not self.classes:
            table = table_of(title, "figure", "value", "interval")
            for row in figures:
                table.add_row(*row)
            return table
        table = table_of(title, "class", "precision", "recall", "F1", "number")
        for index in np.argsort(-self.scores[:, 3], kind="stable"):
            precision, recall, f1, number = self.scores[index]
            table.add_row(self.classes[index], f"{precision:.3f}", f"{recall:.3f}", f"{f1:.3f}", f"{number:,.0f}")
        table.add_section()
        for name, value, interval in figures:
            table.add_row(name, "", "", value, interval)
        return table

    def text(self) -> str:
        """Return the same as tab-separated lines."""
        rows = ["class\tprecision\trecall\tf1\tnumber"]
        rows += [
            "\t".join([name, *(f"{value:.4f}" for value in row[:3]), f"{row[3]:.0f}"])
            for name, row in zip(self.classes, self.scores, strict=True)
        ]
        rows += [
            f"{name}\t{value.value:.4f}\t{value.low:.4f}\t{value.high:.4f}" for name, value in self.figures.items()
        ]
        return "\n".join(rows) + "\n"
