"""Numbers, times and lists that people wrote as text are read by the stated rules, or not at all."""

import json
from datetime import UTC, datetime
from decimal import Decimal

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.data import values


def numbers(*texts: str) -> list[float | None]:
    """Return the numbers that a column of `texts` is read as."""
    column = pl.DataFrame({"text": texts})
    comma = column.select(values.comma_is_decimal(pl.col("text"))).item()
    return column.select(values.number(pl.col("text"), comma)).to_series().to_list()


def moments(*texts: str | int) -> list[str | None]:
    """Return the times that a column is read as, in ISO form."""
    frame = pl.DataFrame({"text": [str(text) for text in texts]})
    counts = frame.select(values.times_by_unit(pl.col("text"))).row(0, named=True)
    unit = max(counts, key=lambda name: counts[name])
    read = frame.select(values.moment(pl.col("text"), unit if counts[unit] else None)).to_series()
    return [None if us is None else datetime.fromtimestamp(us / 1e6, UTC).isoformat() for us in read]


@pytest.mark.parametrize(
    ("text", "number"),
    [("$19.99", 19.99), ("62,41 €", 62.41), ("1,299.00", 1299), ("1.299,00", 1299), ("7,49", 7.49), ("EUR 5", 5), ("12 kr", 12),
     ("-3,5", -3.5), ("$-5", -5), ("-$5", -5), ("1 234 567,89", 1234567.89), ("1'299.00", 1299), ("1,299,000", 1299000),
     ("1.299.000", 1299000), ("0,125", 0.125), ("12345,678", 12345.678), ("1e3", 1000), (" 8 ", 8), ("US$ 3", 3), ("¥1,200", 1200)],
)  # fmt: skip
def test_a_number_is_read_with_its_currency_and_either_decimal_mark(text: str, number: float) -> None:
    """What can be read in one way only is read so."""
    assert numbers(text) == [pytest.approx(number)]


@pytest.mark.parametrize("text", ["5 stars", "abc", "12-15", "1,29,5", "1.2.3", "12px", "--3", "1,2,3", "$", "€€3"])
def test_what_is_no_number_is_not_guessed(text: str) -> None:
    """Nothing is taken out of a text that says more than a number."""
    assert numbers(text) == [None]


def test_three_digits_after_a_comma_are_read_as_the_column_says() -> None:
    """`1,299` is a thousand and more, unless other values have a decimal comma and none has a decimal point."""
    assert numbers("1,299", "3") == [1299, 3]
    assert numbers("1,299", "2,50", "1.299") == [1.299, 2.5, 1299]
    assert numbers("1,299", "2,50", "2.50", "1.299") == [1299, 2.5, 2.5, 1.299]


@pytest.mark.parametrize("text", ["", "  ", "NULL", r"\N", "n/a", "None"])
def test_a_word_for_nothing_is_missing(text: str) -> None:
    """It is neither a number nor a text that could not be read."""
    frame = pl.DataFrame({"text": [text]})
    assert frame.select(values.bare(pl.col("text"))).item() is None


@settings(max_examples=60)
@given(
    st.lists(st.decimals("-1e9", "1e9", places=2), min_size=1, max_size=8),
    st.booleans(),
    st.sampled_from(["", " €", " EUR"]),
)
def test_two_decimals_are_read_back_in_both_notations(amounts: list[Decimal], german: bool, sign: str) -> None:
    """Groups of three digits and a decimal mark, English or German, with or without a currency."""
    texts = [f"{amount:,.2f}" for amount in amounts]
    if german:
        texts = [text.translate(str.maketrans(",.", ".,")) for text in texts]
    assert numbers(*(text + sign for text in texts)) == [pytest.approx(float(amount)) for amount in amounts]


@pytest.mark.parametrize(
    ("number", "moment"),
    [(1_655_000_000, "2022-06-12T02:13:20"), (1_655_000_000_000, "2022-06-12T02:13:20"), (20220624, "2022-06-24T00:00:00"),
     (1_655_000_000_000_000, "2022-06-12T02:13:20"), (1_655_000_000_000_000_000, "2022-06-12T02:13:20"),
     (202206242120, "2022-06-24T21:20:00"), (20220624212005, "2022-06-24T21:20:05")],
)  # fmt: skip
def test_a_number_is_a_time_in_the_only_unit_that_fits(number: int, moment: str) -> None:
    """From seconds to nanoseconds since 1970, or a date written as a number."""
    assert moments(number) == [f"{moment}+00:00"]


def test_one_unit_holds_for_the_whole_column() -> None:
    """What is no time from 1990 to 2100 in the unit of most numbers is not read."""
    assert moments(1_655_000_000_000, 1_655_000_000_001, 500, 1_655_000_000) == [
        "2022-06-12T02:13:20+00:00",
        "2022-06-12T02:13:20.001000+00:00",
        None,
        None,
    ]
    assert moments(20220624, 20221399) == ["2022-06-24T00:00:00+00:00", None]
    assert moments(1, 2, 3) == [None] * 3


@pytest.mark.parametrize(
    ("text", "moment"),
    [("2022-06-24 21:20:11 ", "2022-06-24T21:20:11+00:00"), ("2022/06/24", "2022-06-24T00:00:00+00:00"),
     ("2022-06-24T21:20+02:00", None), ("2022-06-24T21:20:11+02:00", "2022-06-24T19:20:11+00:00"), ("24/06/2022", None),
     ("06/24/2022", None), ("June 2022", None), ("2022-02-30", None)],
)  # fmt: skip
def test_a_written_time_is_read_where_it_can_mean_one_thing_only(text: str, moment: str | None) -> None:
    """A day before or after its month is not guessed."""
    assert moments(text) == [moment]


@settings(max_examples=40)
@given(
    st.lists(st.integers(values.EARLIEST, values.LATEST - 1), min_size=1, max_size=9),
    st.sampled_from([*values.PER_SECOND]),
)
def test_whole_seconds_are_read_back_in_every_unit(seconds: list[int], unit: str) -> None:
    """Exactly, also where a float could not hold them."""
    frame = pl.DataFrame({"time": [second * values.PER_SECOND[unit] for second in seconds]})
    counts = frame.select(values.times_by_unit(pl.col("time"))).row(0, named=True)
    assert counts == {other: len(seconds) * (other == unit) for other in values.UNITS}
    read = frame.select(values.moment_of_number(pl.col("time"), unit)).to_series()
    assert read.to_list() == [second * 10**6 for second in seconds]


@pytest.mark.parametrize(
    ("text", "mark", "parts"),
    [("red|small", "|", ["red", "small"]), ('"War, peace", Drama', ",", ["War, peace", "Drama"]), ("a;b; ", ";", ["a", "b"]),
     ('["War, peace", "x"]', "|", ["War, peace", "x"]), ("['a', 'b']", "|", ["a", "b"]), ("[a, b]", "|", ["a", "b"]),
     ('[{"id": 1, "name": "Home"}, [["Lamps"]]]', "|", ["Home", "Lamps"]), ("", "|", []), ("[]", "|", []), ("solo", "|", ["solo"])],
)  # fmt: skip
def test_a_list_in_a_text_is_taken_apart_by_a_parser(text: str, mark: str, parts: list[str]) -> None:
    """Quoted parts stay whole, lists in lists are opened, of an object its name counts."""
    assert values.list_of(text, mark) == parts


@pytest.mark.parametrize(
    ("texts", "mark"),
    [(["a|b, c", "d"], "|"), (["a; b, c"], ";"), (["a, b"], ","), (["a"], "|"), (['["a,b"]', "c"], "|")],
)
def test_what_separates_lists_is_decided_for_the_column(texts: list[str], mark: str) -> None:
    """A comma separates only where nothing else does."""
    assert pl.DataFrame({"text": texts}).select(values.separator(pl.col("text"))).item() == mark


@settings(max_examples=60)
@given(
    st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=8), max_size=6)
)
def test_a_json_list_of_texts_is_read_back(parts: list[str]) -> None:
    """Whatever is in the texts."""
    assert values.list_of(json.dumps(parts), "|") == parts
