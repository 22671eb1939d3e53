"""Ranks in evaluation: of items that existed when the request was made."""

import numpy as np
import pytest
from scipy import sparse

from recsys.arrays import Floats
from serving.retrieval.retriever import BLOCK
from serving.retrieval.windows import EARLIEST, LATEST, Windows
from tests.worlds import DAY, START, log_of
from training.evaluation.baselines import Popularity
from training.evaluation.evaluate import Evaluation

ITEMS = 6
NEWER = {4: 8, 5: 99}
"""Days on which the last two items came to exist."""

SINCE = np.array([START + NEWER.get(item, 0) * DAY for item in range(ITEMS)])


def evaluation_of(days: list[int], since: np.ndarray | None) -> Evaluation:
    """Return the requests of one user for item 0 on `days`."""
    rows = [("a", "i1", "click", 0), *(("a", "i0", "click", day) for day in days)]
    log = log_of(rows, ITEMS, ["train"] + ["test"] * len(days))
    return Evaluation.of(log, "test", 3, since)


def scores_of(rows: slice) -> Floats:
    """Score items of the future highest, the target lowest."""
    return np.tile(np.arange(ITEMS, dtype=np.float32), (rows.stop - rows.start, 1))


@pytest.mark.parametrize("days", [[5, 8, 9], list(range(1, BLOCK + 90))], ids=["few", "more than a block"])
def test_an_item_that_did_not_exist_yet_is_behind_all_that_did(days: list[int]) -> None:
    """Since day 8 one of the two is there; without a clock all items are."""
    expected = [4 if day < NEWER[4] else 5 if day < NEWER[5] else 6 for day in days]
    assert evaluation_of(days, SINCE).ranks_of(scores_of).tolist() == expected
    assert evaluation_of(days, None).ranks_of(scores_of).tolist() == [6] * len(days)


def test_an_item_that_is_out_of_its_time_is_behind_all_others() -> None:
    """As in our own lists, so that baselines and model have the same items to choose from."""
    log = evaluation_of([5, 8, 9], None).log
    closes = np.full(ITEMS, LATEST)
    closes[4:] = START + np.array([6, 9]) * DAY
    windows = Windows(np.full(ITEMS, EARLIEST), closes)
    assert Evaluation.of(log, "test", 3, None, windows).ranks_of(scores_of).tolist() == [6, 5, 4]


def test_a_baseline_does_not_profit_from_knowing_what_will_be_popular() -> None:
    """An item of the future takes no position from the target, however popular it is in what was fitted."""
    popularity = Popularity(sparse.csr_matrix([[3, 2, 1, 0, 9, 8]]))
    ranks = {}
    for name, since in (("clock", SINCE), ("no clock", None)):
        evaluation = evaluation_of([5, 8], since)
        scores = popularity.scores(evaluation.histories.items)
        ranks[name] = evaluation.ranks_of(scores.__getitem__).tolist()
    assert ranks == {"clock": [1, 2], "no clock": [3, 3]}
