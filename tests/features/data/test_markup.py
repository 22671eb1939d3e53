"""Markup is taken out of texts, and nothing else is."""

import html
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.data.dataset import load_dataset
from features.data.markup import TAGS, plain
from recsys.errors import RecsysError
from recsys.schema import ITEM_COLUMNS
from serving.columns import items_table
from tests.worlds import write_dataset

EXAMPLES = {
    "<p>5 &amp; 6</p>": "5 & 6",
    "&lt;p&gt;escaped&lt;/p&gt;": "escaped",
    "<A HREF=\"a>b\" title='x'>link</A><br/>below": "link below",
    '<iframe src="x" allowfullscreen></iframe>film': "film",
    "<style type='text/css'>p > b {color: red}</style>Lamp": "Lamp",
    "Lamp <script>if (a < b) run()": "Lamp",
    "<!-- hidden -->shown": "shown",
    "don&#39;t&nbsp;&#x26; caf&eacute;": "don't & café",
    "<o:p></o:p>from a word processor": "from a word processor",
    "&amp;lt;b&amp;gt;": "&lt;b&gt;",
}
UNTOUCHED = [
    "3 < 4 & 5 > 2", "AT&T", "<3", "R&D;", "a <b and c> d", "vector<int>", "<john@example.com>", "?a=1&copy=2&lt=3", "",
    "<title here>", "  two  spaces ",
]  # fmt: skip


@pytest.mark.parametrize("text", EXAMPLES)
def test_markup_leaves_the_text(text: str) -> None:
    """Entities are decoded once; tags, style sheets, scripts and comments go."""
    assert plain(pl.Series([text])).to_list() == [EXAMPLES[text]]


def test_what_only_looks_like_markup_stays() -> None:
    """To the last space, also in a column that has markup elsewhere."""
    assert plain(pl.Series([*UNTOUCHED, None, "<b>x</b>"])).to_list() == [*UNTOUCHED, None, "x"]


SIGNS = st.sampled_from([" < ", " > ", " & ", "<3", "&T", "<=", "&&", "<-"])
WORDS = st.text(st.characters(blacklist_characters="<&", blacklist_categories=["Cs"]))
PLAIN = st.lists(WORDS | SIGNS).map(" ".join)


@given(PLAIN)
def test_text_without_tags_and_entities_is_unchanged(text: str) -> None:
    """Whatever else it consists of."""
    assert plain(pl.Series([text, "<p>"]))[0] == text


@given(st.lists(WORDS | SIGNS | st.sampled_from(TAGS.split("|")).map(lambda name: f"<{name}>")).map(" ".join))
def test_plain_text_stays_as_it_is_the_second_time(text: str) -> None:
    """A dataset that was exported and is read again has the same texts."""
    once = plain(pl.Series([text]))
    assert plain(once).equals(once)


@given(PLAIN)
def test_escaped_text_is_what_was_escaped(text: str) -> None:
    """But for white space."""
    assert plain(pl.Series([html.escape(text)]))[0].split() == text.split()


def test_a_catalogue_that_is_read_and_an_item_that_is_put_have_the_same_texts(tmp_path: Path) -> None:
    """Of every text column, lists included; other columns keep what they hold."""
    row = {"title": "<b>Lamp</b>", "description": "5 &amp; 6", "brand": "A&amp;B", "category": "Home &amp; Garden"}
    head, values = ",".join(row), ",".join(row.values())
    items = f"item_id,{head},tags,note\ni1,{values},<i>red</i>|blue,<b>\ni2,Chair,,,,,\n"
    events = "user_id,item_id,event_type,timestamp\nu1,i1,click,1700000000\nu2,i2,click,1700000001\n"
    read = load_dataset(write_dataset(tmp_path / "shop", **{"items.csv": items, "events.csv": events})).items
    put = items_table([row | {"item_id": "i1", "tags": ["<i>red</i>", "blue"], "note": "<b>"}], read.schema)
    known = ("i1", "Lamp", "5 & 6", ["red", "blue"], "A&B", "Home & Garden")
    unstated = [name for name in ITEM_COLUMNS if name not in items.partition("\n")[0].split(",")]
    assert read.row(0) == (*known, *[None] * len(unstated), "<b>")
    assert put.row(0, named=True).items() <= read.row(0, named=True).items()
    assert set(put.columns) == {*ITEM_COLUMNS, "note"} - set(unstated)


def test_a_title_of_nothing_but_markup_is_an_empty_title(tmp_path: Path) -> None:
    """It would be a line without text in every list."""
    folder = write_dataset(tmp_path / "bad", **{"items.csv": "item_id,title\ni1,<br>\n"})
    with pytest.raises(RecsysError, match="empty title"):
        load_dataset(folder)
