"""New items in lists: counted by age, and called out where no list shows one."""

import io

import numpy as np
from rich.console import Console

from features.histories import TEST, Requests
from recsys.metrics import list_ranks
from tests.worlds import DAY, START, log_of
from training.evaluation.new_items import ALL, NewItems, new_items
from training.evaluation.report import render_new_items

COUNTS = np.array([5, 0, 0, 0])
SINCE = np.array([-1, START + 9 * DAY, START - 5 * DAY, -1])
"""Item 0 is known; at day 10 the others are 1 and 15 days old, and of an unknown age."""

YOUNG, MIDDLE, OLD = "less than 7 days", "7 to 29 days", "30 days or more, or unknown"


def requests() -> Requests:
    rows = [("a", "i0", "click", 0), ("a", "i1", "click", 10), ("b", "i2", "click", 10), ("c", "i3", "click", 10)]
    return log_of(rows, 4, ["train", "test", "test", "test"]).requests(TEST)


def measured(lists: np.ndarray, since: np.ndarray | None = SINCE) -> dict[str, NewItems]:
    asked = requests()
    return new_items(lists, list_ranks(lists, asked.targets, asked.offsets), asked, COUNTS, since)


def test_items_without_events_are_counted_by_their_age_at_the_request() -> None:
    groups = measured(np.array([[1, 0], [0, 3], [2, -1]]))
    assert groups[ALL] == NewItems(targets=3, found=1, share_of_targets=1.0, share_of_lists=0.6)
    assert groups[YOUNG] == NewItems(targets=1, found=1, share_of_targets=1 / 3, share_of_lists=0.2)
    assert groups[MIDDLE] == NewItems(targets=1, found=0, share_of_targets=1 / 3, share_of_lists=0.2)
    assert groups[OLD] == NewItems(targets=1, found=0, share_of_targets=1 / 3, share_of_lists=0.2)


def test_only_the_first_ten_positions_count() -> None:
    lists = np.tile(np.append(np.zeros(10, np.int64), 1), (3, 1))
    assert measured(lists)[ALL] == NewItems(targets=3, found=0, share_of_targets=1.0, share_of_lists=0.0)


def test_without_a_clock_nothing_has_an_age() -> None:
    assert list(measured(np.zeros((3, 1), np.int64), since=None)) == [ALL]


def test_lists_that_show_no_new_item_are_called_so() -> None:
    texts = []
    for item in (0, 1):
        console = Console(file=io.StringIO(), width=200)
        render_new_items(measured(np.full((3, 1), item)), console)
        texts.append(console.file.getvalue())  # type: ignore[attr-defined]
    assert "no list shows an item without events" in texts[0]
    assert "no list shows" not in texts[1]
