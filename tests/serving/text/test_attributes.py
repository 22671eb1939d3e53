"""Attributes that a head finds in items' texts become columns of a dataset."""

from pathlib import Path

import polars as pl
import pytest

from features.data.dataset import load_dataset
from recsys.errors import RecsysError
from serving.filters import Between, matching
from serving.text.attributes import extract, with_attributes
from serving.text.tokens import Found, Tagger
from tests.worlds import catalogue, write_dataset


class Colours(Tagger):
    """Finds colours by their names, as a fitted head would."""

    def __init__(self) -> None:
        self.tags = ["O", "B-colour", "I-colour"]

    def found(self, texts: object) -> list[list[Found]]:
        """Return red and blue, blue with more confidence."""
        sure = {"red": 0.6, "blue": 0.9}
        return [
            [
                Found("colour", name, text.index(name), text.index(name) + len(name), value)
                for name, value in sure.items()
                if name in text
            ]
            for text in texts  # type: ignore[attr-defined]
        ]


def test_the_surest_entity_of_a_type_is_the_items_attribute() -> None:
    """And a filter, by what it says and by its confidence."""
    items = with_attributes(catalogue(["red and blue shoe", "red hat", "lamp"]), Colours())
    assert items["colour"].to_list() == ["blue", "red", None]
    assert items["colour_confidence"].to_list() == [0.9, 0.6, 0]
    assert matching(items, {"colour": "red"}, "").tolist() == [False, True, False]
    assert matching(items, {"colour_confidence": Between(0.7)}, "").tolist() == [True, False, False]


def test_what_the_catalogue_says_already_stays() -> None:
    """Its gaps are filled."""
    items = catalogue(["red shoe", "red hat"]).with_columns(colour=pl.Series(["green", None]))
    made = with_attributes(items, Colours())
    assert made["colour"].to_list() == ["green", "red"]
    assert made["colour_confidence"].to_list() == [1, 0.6]


def test_a_column_of_numbers_is_not_overwritten() -> None:
    """One line says which."""
    with pytest.raises(RecsysError, match="the column 'colour' holds Int64"):
        with_attributes(catalogue(["red shoe"]).with_columns(colour=pl.Series([1])), Colours())


def test_the_new_dataset_is_the_old_one_with_more_columns(tmp_path: Path) -> None:
    """Events, and the time at which the items were so, are the same."""
    folder = write_dataset(tmp_path / "shop")
    extract(Colours(), folder, tmp_path / "shop2")
    before, after = load_dataset(folder), load_dataset(tmp_path / "shop2")
    assert after.items.select(before.items.columns).equals(before.items)
    assert {"colour", "colour_confidence"} <= set(after.items.columns) | {"colour"}
    assert after.events.collect().equals(before.events.collect())
    assert after.items_as_of == before.items_as_of
