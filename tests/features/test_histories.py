"""Splits, histories and requests."""

from itertools import pairwise

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from features.data.split import assign_splits
from features.histories import EARLY, LATE, TEST, VALID
from tests.worlds import DAY, START, events, log_of

EVENT = st.tuples(
    st.sampled_from(["u0", "u1", "u2"]),
    st.sampled_from([f"i{row}" for row in range(5)]),
    st.sampled_from(["click", "purchase", "view"]),
    st.integers(0, 30),
)


@settings(max_examples=50, deadline=None)
@given(st.lists(EVENT, min_size=5, max_size=60))
def test_time_split_keeps_order_and_loses_nothing(rows: list[tuple[str, str, str, int]]) -> None:
    """No event of a later split comes before one of an earlier split."""
    split = assign_splits(events(rows).drop("split"), "time", 0.2, 0.2).collect()
    assert split.height == len(rows)
    newest = {name: part["timestamp"].max() for (name,), part in split.group_by("split")}
    oldest = {name: part["timestamp"].min() for (name,), part in split.group_by("split")}
    order = [name for name in ("train", "valid", "test") if name in newest]
    assert all(newest[a] < oldest[b] for a, b in pairwise(order))  # type: ignore[operator]


@settings(max_examples=50, deadline=None)
@given(st.lists(EVENT, min_size=3, max_size=40))
def test_leave_last_gives_each_user_one_test_event(rows: list[tuple[str, str, str, int]]) -> None:
    """Every user has exactly one event in test, and it is the last."""
    split = assign_splits(events(rows).drop("split"), "leave-last", 0.2, 0.2).collect()
    for _, user in split.group_by("user_id"):
        test = user.filter(pl.col("split") == "test")
        assert test.height == 1
        assert test["timestamp"][0] == user["timestamp"].max()


@settings(max_examples=50, deadline=None)
@given(st.lists(EVENT, min_size=1, max_size=40), st.integers(0, 31), st.integers(1, 5))
def test_histories_equal_a_plain_loop(rows: list[tuple[str, str, str, int]], day: int, length: int) -> None:
    """The vectorised search finds the last events strictly before the moment, in order."""
    log = log_of(rows, 5)
    before = START + day * DAY
    users = np.arange(len(log.user_ids))
    found = log.histories(users, np.full(len(users), before), length)
    for row, user in enumerate(log.user_ids):
        past = [(d, n, int(i[1:])) for n, (u, i, _, d) in enumerate(rows) if u == user and d < day]
        expected = [item for _, _, item in sorted(past)][-length:]
        assert found.items[row][found.items[row] >= 0].tolist() == expected
        assert (found.items[row][: length - len(expected)] == -1).all()


def test_events_of_a_request_become_one_request_with_distinct_targets() -> None:
    """A click and a purchase of one item in a request are one target of the stronger type."""
    frame = events([("u0", "i1", "click", 1), ("u0", "i1", "purchase", 1), ("u0", "i2", "click", 1)])
    frame = frame.with_columns(request_id=pl.lit("r1"))
    from features.histories import build_log
    from recsys.events import PURCHASE

    requests = build_log(frame, pl.Series(["i0", "i1", "i2"]), 0.25).requests(EARLY, LATE, VALID, TEST)
    assert len(requests) == 1
    assert requests.targets.tolist() == [1, 2]
    assert requests.types[0] == PURCHASE


def test_two_users_with_the_same_request_id_have_two_requests() -> None:
    """Request ids are only unique within a user."""
    from features.histories import build_log

    frame = events([("u0", "i1", "click", 1), ("u1", "i1", "click", 1)]).with_columns(request_id=pl.lit("r"))
    log = build_log(frame, pl.Series(["i0", "i1"]), 0.25)
    assert len(log.requests(EARLY, LATE)) == 2
    assert log.request_ids == ["r", "r"]


def test_impressions_are_kept_by_request_and_out_of_histories() -> None:
    """What was only shown is no event of the user, but known beside the request."""
    from features.histories import build_log

    frame = events([("u0", "i1", "click", 1), ("u0", "i2", "impression", 1), ("u0", "i0", "impression", 2)])
    frame = frame.with_columns(request_id=pl.Series(["a", "a", "b"]))
    log = build_log(frame, pl.Series(["i0", "i1", "i2"]), 0.25)
    assert len(log) == 1
    key = int(log.request_index[0])
    assert log.impressions[log.impression_offsets[key] : log.impression_offsets[key + 1]].tolist() == [2]
