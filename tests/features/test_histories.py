"""Splits, histories, requests and the log that they come from."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.data.dataset import load_dataset
from features.data.split import assign_splits
from features.histories import EARLY, LATE, TEST, VALID, Histories, build_log, read_log
from recsys.config import Config
from recsys.events import PURCHASE
from tests.worlds import DAY, START, events, log_of, write_dataset

EVENT = st.tuples(
    st.sampled_from(["u0", "u1", "u2"]),
    st.sampled_from([f"i{row}" for row in range(5)]),
    st.sampled_from(["click", "purchase", "view"]),
    st.integers(0, 30),
)


@settings(max_examples=50)
@given(st.lists(EVENT, min_size=5, max_size=60))
def test_time_split_keeps_order_and_loses_nothing(rows: list[tuple[str, str, str, int]]) -> None:
    """No event of a later split comes before one of an earlier split."""
    split = assign_splits(events(rows).drop("split"), "time", 0.2, 0.2).collect()
    assert split.height == len(rows)
    newest = {name: part["timestamp"].max() for (name,), part in split.group_by("split")}
    oldest = {name: part["timestamp"].min() for (name,), part in split.group_by("split")}
    order = [name for name in ("train", "valid", "test") if name in newest]
    assert all(newest[a] < oldest[b] for a, b in pairwise(order))  # type: ignore[operator]


@settings(max_examples=50)
@given(st.lists(EVENT, min_size=3, max_size=40))
def test_leave_last_gives_each_user_one_test_event(rows: list[tuple[str, str, str, int]]) -> None:
    """Every user has exactly one event in test, and it is the last."""
    split = assign_splits(events(rows).drop("split"), "leave-last", 0.2, 0.2).collect()
    for _, user in split.group_by("user_id"):
        test = user.filter(pl.col("split") == "test")
        assert test.height == 1
        assert test["timestamp"][0] == user["timestamp"].max()


@settings(max_examples=50)
@given(st.lists(EVENT, min_size=1, max_size=40), st.integers(0, 31), st.integers(1, 5))
def test_histories_equal_a_plain_loop(rows: list[tuple[str, str, str, int]], day: int, length: int) -> None:
    """A history is the last events strictly before the moment, oldest first, padded on the left."""
    log = log_of(rows, 5)
    before = START + day * DAY
    users = np.arange(len(log.user_ids))
    histories = log.histories(users, np.full(len(users), before), length)
    for row, user in enumerate(log.user_ids):
        past = [(d, n, int(i[1:])) for n, (u, i, _, d) in enumerate(rows) if u == user and d < day]
        items = [item for _, _, item in sorted(past)]
        expected = items[-length:]
        assert histories.items[row].tolist() == [-1] * (length - len(expected)) + expected
        assert histories.events[row] == len(items)
    for chosen in (slice(None), slice(1, None), users[::-1]):  # none is lost where requests are taken apart and joined
        part = Histories.join([histories.rows(chosen), histories])
        seen = part.seen(np.tile(np.arange(-1, 5), (len(part), 1)))
        for row, user in enumerate([*users[chosen], *users]):
            met = {int(i[1:]) for u, i, _, d in rows if u == log.user_ids[user] and d < day}
            assert np.flatnonzero(seen[row]).tolist() == [1 + item for item in sorted(met)]


def test_events_of_a_request_become_one_request_with_distinct_targets() -> None:
    """A click and a purchase of one item in a request are one target of the stronger type."""
    frame = events([("u0", "i1", "click", 1), ("u0", "i1", "purchase", 1), ("u0", "i2", "click", 1)])
    frame = frame.with_columns(request_id=pl.lit("r1"))
    requests = build_log(frame, pl.Series(["i0", "i1", "i2"]), 0.25).requests(EARLY, LATE, VALID, TEST)
    assert len(requests) == 1
    assert requests.targets.tolist() == [1, 2]
    assert requests.types[0] == PURCHASE


def test_two_users_with_the_same_request_id_have_two_requests() -> None:
    """Request ids are only unique within a user."""
    frame = events([("u0", "i1", "click", 1), ("u1", "i1", "click", 1)]).with_columns(request_id=pl.lit("r"))
    log = build_log(frame, pl.Series(["i0", "i1"]), 0.25)
    assert len(log.requests(EARLY, LATE)) == 2
    assert log.request_ids == ["r", "r"]


def test_impressions_are_kept_by_request_and_out_of_histories() -> None:
    """An item that was only shown is not in the user's history, but among the request's impressions."""
    frame = events([("u0", "i1", "click", 1), ("u0", "i2", "impression", 1), ("u0", "i0", "impression", 2)])
    frame = frame.with_columns(request_id=pl.Series(["a", "a", "b"]))
    log = build_log(frame, pl.Series(["i0", "i1", "i2"]), 0.25)
    assert len(log) == 1
    request = int(log.request_index[0])
    assert log.impressions[log.impression_offsets[request] : log.impression_offsets[request + 1]].tolist() == [2]
    assert log.request_ids[request] == "a"
    assert log.impression_offsets.tolist() == [0, 1, 2]


def test_a_request_id_that_only_impressions_have_is_known_too() -> None:
    """A request without an action has impressions, and no event points at it."""
    frame = events([("u0", "i1", "click", 1), ("u0", "i2", "impression", 2)])
    log = build_log(frame.with_columns(request_id=pl.Series([None, "b"])), pl.Series(["i0", "i1", "i2"]), 0.25)
    assert log.request_index.tolist() == [-1]
    assert (log.request_ids, log.impressions.tolist()) == (["b"], [2])


def test_the_late_segment_is_the_last_share_of_train() -> None:
    """A quarter of eight train events are two; impressions do not count, and valid stays valid."""
    rows = [("u0", "i1", "click", day) for day in range(8)] + [("u1", "i1", "impression", day) for day in range(50)]
    splits = ["train"] * len(rows) + ["valid"]
    log = build_log(events([*rows, ("u0", "i0", "click", 60)], splits), pl.Series(["i0", "i1"]), 0.25)
    assert log.segments.tolist() == [EARLY] * 6 + [LATE] * 2 + [VALID]


@pytest.mark.parametrize("ordinal", [True, False])
def test_without_comparable_times_the_late_segment_is_the_last_moment_of_every_user(
    ordinal: bool, tmp_path: Path
) -> None:
    """Or it would hold long histories alone; who has one moment in train has it in the early segment."""
    info = {"dataset.json": '{"name": "d", "split": "leave-last", "timestamp": "ordinal"}'} if ordinal else {}
    rows = [("long", 9), ("middle", 4), ("short", 3)]
    head = "user_id,item_id,event_type,timestamp\n"
    lines = "".join(f"{user},i{n % 3},click,{1_700_000_000 + n}\n" for user, count in rows for n in range(count))
    folder = write_dataset(tmp_path / "data", **info, **{"events.csv": head + lines})
    log = read_log(load_dataset(folder), Config.model_validate({"data": {"split": "leave-last"}}))
    by_user = [log.segments[log.user_rows == user].tolist() for user in range(3)]
    assert by_user == [
        [EARLY] * 6 + [LATE, VALID, TEST],
        [EARLY, LATE, VALID, TEST],
        [EARLY, VALID, TEST],
    ]


@pytest.mark.parametrize(
    ("valid", "expected"),
    [
        (1, [[EARLY] * 7 + [LATE, VALID], [EARLY, EARLY, LATE, VALID]]),
        (2, [[EARLY] * 4 + [LATE] * 3 + [VALID] * 2, [EARLY] * 2 + [VALID] * 2]),
    ],
)
def test_without_a_clock_the_late_segment_is_cut_as_valid_is(
    valid: int, expected: list[list[int]], tmp_path: Path
) -> None:
    """One event of each user where `valid` has one of each; otherwise the last ones, several of a user."""
    rows = [("long", 9), ("short", 4)]
    head = "user_id,item_id,event_type,timestamp,split\n"
    lines = "".join(
        f"{user},i{n % 3},click,{n},{'valid' if n >= count - valid else 'train'}\n"
        for user, count in rows
        for n in range(count)
    )
    info = '{"name": "d", "split": "column", "timestamp": "ordinal"}'
    folder = write_dataset(tmp_path / "data", **{"dataset.json": info, "events.csv": head + lines})
    log = read_log(load_dataset(folder), Config())
    assert [log.segments[log.user_rows == user].tolist() for user in range(2)] == expected


@pytest.mark.parametrize("rule", ["time", "leave-last"])
def test_the_events_are_read_once(rule: str, tmp_path: Path) -> None:
    """Splitting and laying out the log do not read the files again."""
    dataset, reads = load_dataset(write_dataset(tmp_path / "data")), []

    def count(frame: pl.DataFrame) -> pl.DataFrame:
        reads.append(frame.height)
        return frame

    counted = replace(dataset, events=dataset.events.map_batches(count))
    log = read_log(counted, Config.model_validate({"data": {"split": rule}}))
    assert reads == [36]
    assert len(log) == 36 and set(log.segments.tolist()) >= {VALID, TEST}
