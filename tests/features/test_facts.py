"""Facts of items: attributes that cannot be ranking features are refused before anything is fitted."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.facts import ItemEvents, refuse_no_numbers
from recsys.arrays import offsets_of
from recsys.errors import RecsysError

ITEMS = pl.DataFrame(
    {"item_id": ["a", "b"], "weight": ["0.5", "n/a"], "stock": [1, 2], "new": [True, None], "tags": [["x"], []]}
)


@pytest.mark.parametrize(
    ("name", "part"),
    [("wieght", "no column 'wieght'"), ("stok", "did you mean 'stock'"), ("weight", "1 of 2 values are no numbers, for example 'n/a' of b"),
     ("tags", "holds List")],
)  # fmt: skip
def test_an_attribute_that_is_no_number_is_refused_with_an_example(name: str, part: str) -> None:
    """A typo gets the nearest name."""
    with pytest.raises(RecsysError, match=r"ranker\.attributes") as raised:
        refuse_no_numbers(ITEMS, ("stock", name))
    assert part in str(raised.value)


def test_numbers_and_truth_values_are_attributes() -> None:
    """Missing ones, too."""
    refuse_no_numbers(ITEMS, ("stock", "new"))


@given(st.lists(st.lists(st.integers(0, 9), max_size=6), min_size=1, max_size=5), st.data())
def test_events_before_moments_are_counted_alike_for_one_moment_and_for_several(
    times: list[list[int]], data: st.DataObject
) -> None:
    """Lists in batches have one moment, and requests of an API one each; both may be after the newest event."""
    events = ItemEvents.of(
        np.array([time for own in times for time in sorted(own)], np.int64), offsets_of(np.array([*map(len, times)]))
    )
    items = np.tile(np.arange(len(times)), (2, 1))
    for moments in (
        [data.draw(st.integers(0, 12))] * 2,
        data.draw(st.lists(st.integers(0, 12), min_size=2, max_size=2)),
    ):
        counts = events.count_before(items, np.array(moments)[:, None])
        assert counts.tolist() == [[sum(time < moment for time in own) for own in times] for moment in moments]
