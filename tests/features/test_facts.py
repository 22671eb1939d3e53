"""Facts of items: attributes that cannot be ranking features are refused before anything is fitted."""

import polars as pl
import pytest

from features.facts import refuse_no_numbers
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
