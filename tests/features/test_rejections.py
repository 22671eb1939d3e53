"""What users dislike or hide: which items are rejected at a moment, and what a rejection teaches."""

from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.data.dataset import load_dataset
from features.histories import EARLY, LATE, VALID, Histories, build_log, read_log
from features.rejections import standing
from recsys.config import Config
from tests.worlds import DAY, START, events, log_of, write_dataset
from training.interest.sequences import impression_table

Rows = list[tuple[str, str, str, int]]

KINDS = st.tuples(
    st.sampled_from(["u0", "u1", "u2"]),
    st.sampled_from([f"i{row}" for row in range(4)]),
    st.sampled_from(["click", "like", "purchase", "dislike", "hide"]),
)
IDS = pl.Series([f"i{row}" for row in range(6)])


def at_times(kinds: list[tuple[str, str, str]]) -> Rows:
    """Return events a day apart, after one click of each user."""
    return [("u0", "i5", "click", 0), ("u1", "i5", "click", 0), ("u2", "i5", "click", 0)] + [
        (*kind, 1 + day) for day, kind in enumerate(kinds)
    ]


@settings(max_examples=60)
@given(st.lists(KINDS, max_size=30), st.integers(0, 31))
def test_what_is_rejected_at_a_moment_is_what_a_plain_loop_finds(kinds: list[tuple[str, str, str]], day: int) -> None:
    """Of what happened strictly before, also after requests were taken apart and put together."""
    rows = at_times(kinds)
    log = log_of(rows, 6)
    users = np.arange(3)
    histories = log.histories(users, np.full(3, START + day * DAY), 4)
    for chosen in (slice(None), slice(1, None), users[::-1]):
        joined = Histories.join([log.histories(users[:1], np.array([START]), 4), histories.rows(chosen)])
        unwanted = joined.unwanted(np.tile(np.arange(-1, 6), (len(joined), 1)))
        assert not unwanted[0].any()
        for row, user in enumerate(users[chosen], start=1):
            past = [(item, kind) for u, item, kind, d in rows if u == f"u{user}" and d < day]
            expected = standing(past)
            assert np.flatnonzero(unwanted[row]).tolist() == sorted(1 + int(item[1:]) for item in expected)
            if histories.rejected and isinstance(chosen, slice) and chosen.start is None:
                disliked = histories.rejected.disliked.by_request()[user].tolist()
                assert set(disliked) == {int(item[1:]) for item, said in expected.items() if said}
    table = log.rejections.table()
    for number in range(3):
        left = standing((item, kind) for user, item, kind, _ in rows if user == f"u{number}")
        assert set(table.filter(user_id=f"u{number}")["item"]) == {int(item[1:]) for item in left}


def test_histories_requests_and_the_split_know_nothing_of_rejections() -> None:
    """Neither do counts: a log is the same with and without them."""
    rows = at_times([("u0", "i1", "click"), ("u1", "i2", "click"), ("u0", "i3", "purchase")])
    with_rejections = [*rows, ("u0", "i1", "hide", 2), ("u1", "i4", "dislike", 3), ("u9", "i2", "hide", 1)]
    plain, log = log_of(rows, 6), log_of(with_rejections, 6)
    assert plain.user_ids == log.user_ids == ["u0", "u1", "u2"]
    for name in ("items", "types", "times", "segments", "offsets"):
        assert getattr(plain, name).tolist() == getattr(log, name).tolist()
    assert plain.requests(EARLY, LATE, VALID).targets.tolist() == log.requests(EARLY, LATE, VALID).targets.tolist()
    rejected = log.rejections.at(["u9", None, "unheard-of"], np.full(3, START + 9 * DAY))
    assert rejected and [row.tolist() for row in rejected.items.by_request()] == [[2], [], []]


def test_an_action_on_the_item_takes_a_rejection_back() -> None:
    """A like does; a click, which may be a mistake, does not."""
    for kind, left in (("like", []), ("purchase", []), ("click", [1]), ("view", [1])):
        log = log_of(at_times([("u0", "i1", "hide"), ("u0", "i1", kind)]), 6)
        assert log.rejections.table()["item"].to_list() == left


def requested(rows: list[tuple[str, str, str, int, str | None]]) -> Any:
    """Return the log of events with request ids."""
    frame = events([row[:4] for row in rows]).with_columns(request_id=pl.Series([row[4] for row in rows]))
    return build_log(frame, IDS, 0.25)


def test_a_rejection_teaches_the_request_it_belongs_to() -> None:
    """It comes before the impressions, of which only the first are looked at."""
    log = requested(
        [("u0", "i1", "click", 1, "a"), ("u0", "i2", "impression", 1, "a"), ("u0", "i3", "dislike", 1, "a")]
    )
    assert impression_table(log)[log.request_index[0]].tolist() == [3, 2]


@pytest.mark.parametrize("own", [None, "unanswered"])
@pytest.mark.parametrize("following", [None, "b"])
def test_a_rejection_without_an_action_in_its_request_teaches_the_users_next_one(
    own: str | None, following: str | None
) -> None:
    """Whether that has a request id or not; the requests stay the same, and another user's learn nothing."""
    rows: list[tuple[str, str, str, int, str | None]] = [
        ("u0", "i1", "click", 1, None), ("u0", "i3", "hide", 2, own), ("u1", "i4", "click", 2, "b"),
        ("u0", "i2", "click", 3, following), ("u0", "i4", "click", 3, following), ("u0", "i5", "click", 4, None),
    ]  # fmt: skip
    log, plain = requested(rows), requested([row for row in rows if row[2] != "hide"])
    requests, before = log.requests(EARLY, LATE, VALID), plain.requests(EARLY, LATE, VALID)
    assert requests.targets.tolist() == before.targets.tolist() and requests.times.tolist() == before.times.tolist()
    table, taught = impression_table(log), []
    for request in requests.request_index:
        taught.append([] if request < 0 else table[request][table[request] >= 0].tolist())
    assert sorted(taught) == [[], [], [], [3]]
    assert taught[
        [request.tolist() for request in np.split(requests.targets, requests.offsets[1:-1])].index([2, 4])
    ] == [3]


def test_a_dataset_may_have_rejections(tmp_path: Any) -> None:
    """They are valid events."""
    rows = (
        "user_id,item_id,event_type,timestamp\nu0,i1,click,1700000000\nu0,i2,hide,1700000100\nu1,i3,click,1700000200\n"
    )
    folder = write_dataset(tmp_path / "shop", **{"events.csv": rows})
    log = read_log(load_dataset(folder), Config())
    assert log.items.tolist() == [1, 3] and log.rejections.items.tolist() == [2]
