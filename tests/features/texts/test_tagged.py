"""Files of texts whose words are tagged."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.texts.spans import Span, tagged, write_spans
from features.texts.tagged import Entity, begun, entities, read_tagged, tags_of
from recsys.errors import RecsysError
from recsys.text.words import case, shapes, spelt

TWO = "Anna\tB-person\nmet\tO\nIBM\tB-company\n\t\n"
FOUR = "-DOCSTART- -X- -X- O\n\nU.N. NNP I-NP I-ORG\nofficial NN I-NP O\nEkeus NNP I-NP I-PER\n\n"
SPANS = {"text": "a red shoe, size 4", "spans": [{"start": 2, "end": 5, "label": "colour"}]}
WORDS = {"words": ["red", "shoe"], "tags": ["B-colour", "O"]}


def test_two_columns_are_a_word_and_its_tag(tmp_path: Path) -> None:
    """A line of tabs alone ends a text."""
    (tmp_path / "a.conll").write_text(TWO * 5)
    texts = read_tagged(tmp_path / "a.conll")
    assert texts.words == [["Anna", "met", "IBM"]] * 5
    assert texts.labels == ["company", "person"]


def test_four_columns_are_those_of_conll_2003(tmp_path: Path) -> None:
    """Lines of documents are no text, and an entity may begin with I-."""
    (tmp_path / "a.conll").write_text(FOUR * 5)
    texts = read_tagged(tmp_path / "a.conll")
    assert texts.words == [["U.N.", "official", "Ekeus"]] * 5
    assert texts.tags == [["B-ORG", "O", "B-PER"]] * 5


def test_spans_and_tagged_words_read_alike(tmp_path: Path) -> None:
    """Spans count characters; signs are words of their own."""
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (SPANS, WORDS) for _ in range(3)))
    texts = read_tagged(tmp_path / "a.jsonl")
    assert texts.words[0] == ["a", "red", "shoe", ",", "size", "4"]
    assert texts.tags[0] == ["O", "B-colour", "O", "O", "O", "O"]
    assert texts.tags[-1] == ["B-colour", "O"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (TWO.replace("B-company", "S-company") * 5, "5 of 15 tags are not of BIO, for example 'S-company' in line 3"),
        (TWO * 5 + "lost\n", "1 of 16 lines have not 2 columns as the first, for example line 21 with 1, 'lost'"),
        ("word\n" * 9, "line 1 has 1 column, 'word'"),
        (TWO, "1 texts; label at least 5"),
        ("word\tO\n\n" * 5, "no entity is labelled in 5 texts"),
    ],
)
def test_columns_that_are_wrong_are_named(tmp_path: Path, text: str, problem: str) -> None:
    """By their line."""
    (tmp_path / "a.conll").write_text(text)
    with pytest.raises(RecsysError) as error:
        read_tagged(tmp_path / "a.conll")
    assert problem in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("{", "line 6: not JSON"),
        ('{"text": "a"}', "has not the keys text and spans, or words and tags"),
        ('{"words": ["a", "b"], "tags": ["O"]}', "2 words and 1 tags; give each word its tag"),
        ('{"words": ["a"], "tags": ["X"]}', "the tag 'X' is not of BIO"),
        (
            '{"text": "ab", "spans": [{"start": 0, "end": 3, "label": "x"}]}',
            "the span 0 to 3 is not within the 2 characters",
        ),
        ('{"text": "ab", "spans": [{"start": "0", "end": 1, "label": "x"}]}', "a span is not like"),
        (
            '{"text": "a b", "spans": [{"start": 0, "end": 3, "label": "x"}, {"start": 2, "end": 3, "label": "y"}]}',
            "the span 2 to 3 overlaps with another",
        ),
    ],
)
def test_spans_that_are_wrong_are_named(tmp_path: Path, row: str, problem: str) -> None:
    """By their line, and how many they are."""
    (tmp_path / "a.jsonl").write_text((json.dumps(SPANS) + "\n") * 5 + row + "\n")
    with pytest.raises(RecsysError) as error:
        read_tagged(tmp_path / "a.jsonl")
    assert "1 of 6 lines are wrongly labelled" in str(error.value)
    assert problem in str(error.value)


def test_a_span_within_a_word_takes_the_word() -> None:
    """The encoder's head tells whole words."""
    assert tagged("iPhones sell", [Span(0, 6, "product")]) == (["iPhones", "sell"], ["B-product", "O"])


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """With its spans."""
    write_spans(tmp_path / "a.jsonl", ["a red shoe"] * 5, [[Span(2, 5, "colour")]] * 5)
    assert read_tagged(tmp_path / "a.jsonl").tags == [["O", "B-colour", "O"]] * 5


@given(st.lists(st.sampled_from(["O", "B-x", "I-x", "B-y", "I-y"]), max_size=12))
def test_tags_and_entities_say_the_same(tags: list[str]) -> None:
    """Once each entity has its beginning."""
    good = begun(tags)
    assert tags_of(entities(good), len(good)) == good
    assert begun(good) == good


def test_entities_are_words() -> None:
    """By their index."""
    assert entities(["O", "B-x", "I-x", "B-x"]) == [Entity("x", 1, 3), Entity("x", 3, 4)]


@given(st.text(max_size=60))
def test_words_are_where_they_are_said_to_be(text: str) -> None:
    """None overlaps, and each is of one shape."""
    cut = spelt(text)
    assert [text[start:stop] for start, stop in zip(cut.starts, cut.stops, strict=True)] == cut.words
    assert shapes(cut.words).shape == (len(cut.words), 3)


def test_words_are_told_by_how_they_are_written() -> None:
    """An encoder that lowers letters sees no difference in most of them."""
    words = ["apple", "Apple", "APPLE", "A", "iPad", "42", "4th", "!", "@anna", "#now", "http://a.b", "東京"]
    assert [case(word) for word in words] == list(range(12))
