"""Labels from the catalogue's own columns."""

import polars as pl
import pytest

from features.texts.tagged import entities
from features.texts.weak import weakly_tagged
from recsys.errors import RecsysError
from tests.worlds import catalogue

TITLES = ["Acme red shoe", "red hat by ACME", "Redmond lamp", "blue desk", "Acme lamp"]


def items() -> pl.DataFrame:
    """Return items, some of which have a colour or a brand."""
    found = catalogue(TITLES * 5, brand=["Acme", "Acme", None, "", "Other"] * 5)
    return found.with_columns(colour=pl.Series(["red", "red", "red", "blue", None] * 5))


def test_values_are_found_as_whole_words_in_any_letters() -> None:
    """And items whose text says none of their values are left out."""
    texts = weakly_tagged(items(), ("brand", "colour"), "--weak")
    named = [
        {(entity.label, " ".join(words[entity.start : entity.stop])) for entity in entities(tags)}
        for words, tags in zip(texts.words, texts.tags, strict=True)
    ]
    assert named[:3] == [
        {("brand", "Acme"), ("colour", "red")},
        {("brand", "ACME"), ("colour", "red")},
        {("colour", "blue")},
    ]
    assert len(texts) == 15


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        (("brnd",), "no column 'brnd'"),
        (("price",), "the column 'price' holds Float64"),
        (("category",), "values of 'category' stand in the texts of 0 of 25 items"),
    ],
)
def test_columns_that_teach_nothing_are_named(columns: tuple[str, ...], problem: str) -> None:
    """In one line."""
    with pytest.raises(RecsysError) as error:
        weakly_tagged(items(), columns, "--weak")
    assert problem in str(error.value)
