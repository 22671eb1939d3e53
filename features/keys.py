"""Search many sorted runs at once: the events of every user, or the event times of every item.

In: the run and the value of each entry. Out: the row of the first entry that is not below a value.

A loop over runs would call `searchsorted` once a run, which is slow where there are a million short ones.
Run and value are therefore joined to one integer, `run * size + value`. The integers of sorted runs laid
end to end are themselves sorted, so that a single `searchsorted` answers for all runs.

Shapes: E entries, S searches.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.arrays import Ints


def composite_keys(runs: Ints, values: NDArray[np.integer], size: int) -> Ints:
    """Return integers that sort by run, then by value; `values` lie in [0, `size`)."""
    return runs * size + values


@dataclass(frozen=True)
class SortedRuns:
    """Entries sorted by run, then by value, for example events by user and time."""

    values: Ints
    """The distinct values, ascending; a value's index here stands for it in `keys`, which keeps them small."""
    keys: Ints
    """`[E]` composite keys, ascending."""

    @classmethod
    def of(cls, runs: Ints, values: Ints) -> "SortedRuns":
        """Index entries of `runs` `[E]` and `values` `[E]`, which are sorted already."""
        order = np.argsort(values)  # np.unique and searchsorted take ten times as long where most values are distinct
        ordered = np.asarray(values)[order]
        is_new = np.ones(len(order), bool)
        np.not_equal(ordered[1:], ordered[:-1], out=is_new[1:])
        ranks = np.empty(len(order), np.int64)
        ranks[order] = np.cumsum(is_new) - 1
        distinct = ordered[is_new]
        return cls(distinct, composite_keys(runs, ranks, len(distinct) + 1))

    def first_not_below(self, runs: Ints, values: Ints) -> Ints:
        """Return for each search `[S]` the row of the first entry of its run that is not below its value.

        Where a run has none, that is the row after its last entry. `values` may be of another shape that broadcasts to `[S]`.
        """
        ranks = np.searchsorted(self.values, values)
        return np.searchsorted(self.keys, composite_keys(runs, ranks, len(self.values) + 1))

    def values_of_entries(self, rows: Ints | slice = slice(None)) -> Ints:
        """Return the value of each entry of `rows`, by default of all, `[E]`."""
        return self.values[self.keys[rows] % (len(self.values) + 1)]
