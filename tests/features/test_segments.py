"""Texts cut into segments: every text is covered, none twice, none too long."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.segments import (
    BRAND,
    CLAUSE,
    MOST_CHARACTERS,
    MOST_CLAUSES,
    MOST_TAGS,
    TAG,
    TITLE,
    WHOLE,
    Segments,
    cut,
)
from tests.worlds import catalogue

TEXT = st.text(st.characters(codec="utf-8"), max_size=300) | st.text("ab1 .,;()\n।，-+|", max_size=2500)
ITEM = st.tuples(
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=300),
    st.none() | TEXT,
    st.none() | TEXT,
    st.none() | st.lists(TEXT, max_size=9),
    st.none() | TEXT,
)


def segments_of(rows: list[tuple[Any, ...]]) -> Segments:
    titles, *rest = (list(column) for column in zip(*rows, strict=True))
    return cut(catalogue(titles, **dict(zip(("brand", "category", "tags", "description"), rest, strict=True))))


def pairs(segments: Segments, item: int) -> list[tuple[int, int]]:
    """Return kind and row of each segment of an item."""
    own = slice(segments.offsets[item], segments.offsets[item + 1])
    return list(zip(segments.kinds[own].tolist(), segments.rows[own].tolist(), strict=True))


def named(segments: Segments, kind: int, item: int = 0) -> list[str]:
    return [segments.texts[row] for own, row in pairs(segments, item) if own == kind]


def clauses(description: str, tags: list[str] | None = None) -> list[str]:
    return named(segments_of([("thing", None, None, tags, description)]), CLAUSE)


@given(st.lists(ITEM, min_size=1, max_size=6))
@settings(max_examples=60)
def test_every_pair_belongs_to_one_item_and_every_text_is_used_and_there_once(rows: list[tuple[Any, ...]]) -> None:
    """The whole text of item i is row M + i, behind the M distinct ones."""
    segments = segments_of(rows)
    count = len(segments.texts)
    assert len(set(segments.texts)) == count
    assert segments.offsets[0] == 0 and segments.offsets[-1] == len(segments.rows) == len(segments.kinds)
    assert (segments.offsets[1:] - segments.offsets[:-1] >= 2).all()
    for item in range(len(rows)):
        own = pairs(segments, item)
        assert own[-1] == (WHOLE, count + item)
        assert [kind for kind, _ in own].count(TITLE) == [kind for kind, _ in own].count(WHOLE) == 1
    others = segments.rows[segments.kinds != WHOLE]
    assert set(others.tolist()) == set(range(count))


@given(st.lists(ITEM, min_size=1, max_size=6))
@settings(max_examples=60)
def test_no_segment_is_longer_and_no_item_has_more_of_them_than_is_allowed(rows: list[tuple[Any, ...]]) -> None:
    """So the cost of a catalogue is bounded by its number of items."""
    segments = segments_of(rows)
    assert max(map(len, segments.texts)) <= MOST_CHARACTERS
    for item in range(len(rows)):
        kinds = [kind for kind, _ in pairs(segments, item)]
        assert kinds.count(CLAUSE) <= MOST_CLAUSES
        assert kinds.count(TAG) <= MOST_TAGS
        assert kinds.count(BRAND) <= 1


@pytest.mark.parametrize("empty", [None, ""])
def test_what_is_empty_or_unknown_makes_no_segment(empty: str | None) -> None:
    """Title and whole text are there always."""
    segments = segments_of([("lamp", empty, empty, [], empty), ("lamp", empty, empty, None, empty)])
    assert [pairs(segments, item) for item in (0, 1)] == [[(TITLE, 0), (WHOLE, 1)], [(TITLE, 0), (WHOLE, 2)]]
    assert segments.texts == ["lamp"]


def test_an_item_is_cut_into_title_brand_with_category_tags_and_clauses() -> None:
    """Each says one thing; a text that two items share is there once."""
    row = ("Desk lamp", "Lumo", "Lighting", ["metal", "dimmable"], "Dims to a warm glow. Folds flat and ships free!")
    segments = segments_of([row, ("Floor lamp", "Lumo", None, ["metal"], "Folds flat.")])
    assert named(segments, TITLE) == ["Desk lamp"]
    assert named(segments, BRAND) == ["Lumo Lighting"]
    assert named(segments, BRAND, 1) == ["Lumo"]
    assert named(segments, TAG) == ["metal", "dimmable"]
    assert named(segments, CLAUSE) == ["Dims to a warm glow", "Folds flat", "ships free!"]
    assert segments.texts.count("metal") == segments.texts.count("Folds flat") == 1


@pytest.mark.parametrize(
    ("description", "expected"),
    [
        ("Fits a 3.5 mm jack, weighs 1,200 g", ["Fits a 3.5 mm jack", "weighs 1,200 g"]),
        ("Version 2.0. It is faster", ["Version 2.0", "It is faster"]),
        ("For desks, e.g. in offices", ["For desks", "e.g", "in offices"]),
        ("see example.com for more", ["see example.com for more"]),
        ("A well-made lamp – it lasts", ["A well-made lamp", "it lasts"]),
        ("Robust (of steel) | two years\nmade here", ["Robust", "of steel", "two years", "made here"]),
        ("wandering android", ["wandering android"]),
        ("轻便耐用。适合旅行，防水！", ["轻便耐用", "适合旅行"]),
        ("यह हल्का है। यह मजबूत है।", ["यह हल्का है", "यह मजबूत है"]),
        ("خفيف الوزن، قوي جدا؛ مقاوم للماء؟ نعم نعم", ["خفيف الوزن", "قوي جدا", "مقاوم للماء", "نعم نعم"]),
        ("No. A. b", []),
    ],
)
def test_clauses_end_at_the_full_stops_of_many_scripts_and_never_within_a_number(
    description: str, expected: list[str]
) -> None:
    """What is left of one or two letters says nothing."""
    assert clauses(description) == expected


@pytest.mark.parametrize(
    ("description", "tags", "expected"),
    [
        ("This desk lamp is bright. The lamp is light.", ["Desk Lamp", "lamp"], ["is bright", "is light"]),
        ("The lamp shade is red", ["lamp", "lamp shade"], ["is red"]),
        ("A lampshade of glass", ["lamp"], ["A lampshade of glass"]),
        ("Learn c++ at home", ["c++"], ["Learn  at home"]),
        ("Learn c++ at home, c# as well", ["c++ (set)", "c#", "[a-z]*", "\\"], ["Learn c++ at home", "as well"]),
        (
            "Learn with c++ (set) at home",
            ["c++ (set)"],
            ["Learn with c++", "set", "at home"],
        ),  # clauses end at brackets
        ("lamp", ["lamp"], []),
    ],
)
def test_an_items_own_tags_are_left_out_of_its_clauses(description: str, tags: list[str], expected: list[str]) -> None:
    """Whole words of them, in any case, with their article; they are segments already."""
    assert clauses(description, tags) == expected


def test_a_clause_beyond_the_most_is_not_read() -> None:
    """The first ones are kept."""
    assert clauses(". ".join(f"clause number {row}" for row in range(30))) == [
        f"clause number {row}" for row in range(MOST_CLAUSES)
    ]
