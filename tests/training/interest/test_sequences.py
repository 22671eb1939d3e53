"""The sequences that the interest model is fitted on, against a plain loop, and their budget."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.histories import EARLY, LATE, EventLog
from recsys.config import Config
from recsys.events import DEFAULT_EVENT_WEIGHTS
from recsys.models.encoder import Tokens
from tests.worlds import log_of
from training.interest.data import InterestData
from training.interest.sequences import prepare

ITEMS = 7
EVENT = st.tuples(
    st.sampled_from(["u0", "u1", "u2", "u3"]),
    st.sampled_from([f"i{row}" for row in range(ITEMS)]),
    st.just("click"),
    st.integers(0, 30),
)


def prepared(log: EventLog, length: int, most: int = 1000, has_clock: bool = True) -> InterestData:
    config = Config.model_validate({"interest": {"max_history": length, "max_sequences": most}})
    tokens = Tokens(np.zeros(ITEMS, np.int32), np.arange(ITEMS + 1))
    return prepare(log, (EARLY, LATE), tokens, weights=DEFAULT_EVENT_WEIGHTS, has_clock=has_clock, config=config)


def plain(log: EventLog, length: int) -> list[list[int]]:
    """Return the items of each sequence: a user's last `length` + 1 events, then those before the first of these, and it."""
    sequences = []
    for user in range(len(log.user_ids)):
        own = log.items[log.offsets[user] : log.offsets[user + 1]].tolist()
        while len(own) > 1:
            sequences.append(own[-length - 1 :])
            own = own[:-length]
    return sequences


@settings(max_examples=60)
@given(st.lists(EVENT, min_size=1, max_size=60), st.integers(1, 6))
def test_sequences_and_counts_equal_a_plain_loop(rows: list[tuple[str, str, str, int]], length: int) -> None:
    log = log_of(rows, ITEMS)
    data = prepared(log, length)
    expected = plain(log, length)
    assert [[item for item in row if item >= 0] for row in data.items.tolist()] == expected
    flat = np.array([item for row in expected for item in row], np.int64)
    np.testing.assert_array_equal(data.counts, np.bincount(flat, minlength=ITEMS))


@pytest.mark.parametrize("has_clock", [True, False])
def test_a_budget_takes_the_newest_sequences_in_the_same_order(
    has_clock: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a clock, any; the counts are those of all sequences, and the console says what was left out."""
    rows = [
        (f"u{user}", f"i{(user + step) % ITEMS}", "click", 3 * step + user) for user in range(4) for step in range(9)
    ]
    log = log_of(rows, ITEMS)
    whole, part = prepared(log, 3), prepared(log, 3, most=5, has_clock=has_clock)
    assert len(whole.items) > 5 == len(part.items)
    ends = whole.times[:, -1]
    if has_clock:
        kept = np.flatnonzero(ends >= np.sort(ends)[-5])
        np.testing.assert_array_equal(part.items, whole.items[kept])
    np.testing.assert_array_equal(part.counts, whole.counts)
    said = " ".join(capsys.readouterr().err.split())
    assert f"interest.max_sequences: training on 5 of {len(whole.items)} sequences" in said


def test_the_budget_leaves_a_smaller_log_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    log = log_of(
        [("u0", "i0", "click", 0), ("u0", "i1", "click", 1), ("u1", "i2", "click", 2), ("u1", "i3", "click", 3)], 4
    )
    whole, part = prepared(replace(log), 3), prepared(log, 3, most=2)
    np.testing.assert_array_equal(whole.items, part.items)
    assert "max_sequences" not in capsys.readouterr().err
