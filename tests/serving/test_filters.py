"""Conditions on items: as the API sends them, and as people write them."""

import polars as pl
import pytest

from recsys.errors import RecsysError
from serving.filters import Between, matching, read_conditions, why_none

ITEMS = pl.DataFrame(
    {
        "item_id": ["a", "b", "c", "d"],
        "price": [5.0, 20.0, None, 80.0],
        "category": ["Tents", "Tents", "Lamps", None],
        "tags": [["red", "new"], [], ["blue"], None],
        "in_stock": [True, False, True, None],
        "created_at": [1_700_000_000_000_000, 1_750_000_000_000_000, None, 1_760_000_000_000_000],
    }
)


@pytest.mark.parametrize(
    ("texts", "passing"),
    [
        ([], "abcd"),
        (["price<=20"], "ab"),
        (["price >= 20", "price <= 50"], "b"),
        (["price=80"], "d"),
        (["category=Tents", "category=Lamps"], "abc"),
        (["category=Tents", "in_stock=true"], "a"),
        (["tags=blue"], "c"),
        (["created_at>=2025-06-01"], "bd"),
    ],
)
def test_a_written_condition_leaves_the_items_that_pass(texts: list[str], passing: str) -> None:
    """All conditions hold, of several values of a column one; a missing value passes none."""
    mask = matching(ITEMS, read_conditions(texts, ITEMS.schema, "--where "), "--where ")
    assert "".join(ITEMS.filter(mask)["item_id"]) == passing


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("price", "write NAME=VALUE"),
        ("=3", "write NAME=VALUE"),
        ("prise<=3", "did you mean 'price'"),
        ("price<=cheap", "write a number"),
        ("in_stock=perhaps", "write true or false"),
        ("created_at>=soon", "write 2026-01-31"),
        ("category>=Tents", "give values"),
        ("price=3", "both a value and a range"),
    ],
)
def test_what_is_no_condition_is_refused_with_a_hint(text: str, part: str) -> None:
    """The message begins with the option."""
    with pytest.raises(RecsysError, match=part) as raised:
        read_conditions([text, "price<=9"], ITEMS.schema, "--where ")
    assert str(raised.value).startswith("--where ")


def test_what_leaves_no_item_is_named() -> None:
    """By itself, or only together with others; nothing is said where some pass."""
    assert why_none(ITEMS, {"category": "Tens", "price": Between(high=50)}, "filters.") == [
        "filters.category: no item passes"
    ]
    assert why_none(ITEMS, {"category": "Tents", "price": Between(low=50)}, "filters.") == [
        "filters: no item passes all of them"
    ]
    assert why_none(ITEMS, {"category": "Tents", "price": Between(high=50)}, "filters.") == []


def test_an_open_interval_has_one_limit() -> None:
    """And needs a value at all."""
    assert matching(ITEMS, {"price": Between(low=10)}, "").tolist() == [False, True, False, True]
    assert matching(ITEMS, {"price": Between()}, "").tolist() == [True, True, False, True]
