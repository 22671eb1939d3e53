"""Attributes that a head finds in items' texts become columns of a dataset."""

from pathlib import Path

import polars as pl
import pytest

from features.data.dataset import load_dataset
from recsys.config import load_config
from recsys.errors import RecsysError
from serving.api.app import create_app
from serving.filters import Between, matching
from serving.store.store import Store
from serving.text.attributes import SETTINGS, extract, with_attributes
from serving.text.heads import TextHeads
from serving.text.tokens import Found, Tagger
from tests.worlds import catalogue, client_of, holder_of, write_dataset


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
    """Events, and the time at which the items were so, are the same; a configuration names what the ranker can learn from."""
    folder = write_dataset(tmp_path / "shop")
    extract(Colours(), folder, tmp_path / "shop2")
    before, after = load_dataset(folder), load_dataset(tmp_path / "shop2")
    assert after.items.select(before.items.columns).equals(before.items)
    assert {"colour", "colour_confidence"} <= set(after.items.columns) | {"colour"}
    assert after.events.collect().equals(before.events.collect())
    assert after.items_as_of == before.items_as_of
    assert load_config(tmp_path / "shop2" / SETTINGS).ranker.attributes == ("colour_confidence",)


def test_an_item_that_is_put_has_the_attributes_of_its_text(tiny: Path, tmp_path: Path) -> None:
    """What it says of itself stays, of whatever type."""
    store = Store(f"sqlite:///{tmp_path}/store.db")
    holder = holder_of(tiny, store)
    items = [
        {"item_id": "read", "title": "a red hat", "attributes": {"colour": None}},
        {"item_id": "said", "title": "a red hat", "attributes": {"colour": "green", "size": 42}},
        {"item_id": "none", "title": "a hat"},
    ]
    with client_of(create_app(holder, store, heads=TextHeads(tagger=Colours()))) as client:
        assert client.put("/v1/items", json={"items": items}).status_code == 200
    kept = holder.snapshot.lookup.retriever.items.filter(pl.col("item_id").is_in(["read", "said", "none"]))
    assert kept.select("item_id", "colour", "colour_confidence").rows() == [
        ("read", "red", 0.6),
        ("said", "green", 1.0),
        ("none", None, 0.0),
    ]
    store.close()
