"""A model for notebooks: the lists of the engine as data frames, and one clear line where a name is wrong."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

import recsys
from recsys.errors import RecsysError
from serving.model import Model

LIST = ["user_id", "rank", "item_id", "title", "score", "interest", "p_click", "p_purchase"]


@pytest.fixture(scope="module")
def model(tiny: Path) -> Model:
    """Return the small bundle as a model."""
    return recsys.load(str(tiny))


def test_several_users_get_the_lists_that_each_gets_alone(model: Model) -> None:
    """By the columns of batch lists, and the titles."""
    lists = model.recommend(model.users.to_list(), k=5)
    assert lists.columns == LIST
    assert lists.group_by("user_id").len()["len"].to_list() == [5] * len(model.users)
    for user in model.users.head(3):
        assert_frame_equal(lists.filter(user_id=user), model.recommend(user, k=5), rel_tol=1e-3)
    assert model.recommend([]).columns == LIST


def test_a_history_replaces_the_user(model: Model) -> None:
    """The same events give the same list, and nobody in particular gets one as well."""
    past = model.history("u3")["item_id"].to_list()
    assert past
    ours, theirs = model.recommend("u3", k=8), model.recommend(history=past[:1], k=8)
    assert theirs["user_id"].to_list() == [None] * 8
    assert ours["item_id"].to_list() != theirs["item_id"].to_list()
    assert model.recommend(k=4).height == 4
    assert model.history("nobody").is_empty()


def test_conditions_hold_for_every_item(model: Model) -> None:
    """As on the command line."""
    listed = model.recommend("u1", k=40, where=["brand=brand 1", "price<=20"])
    told = listed.join(model.items, on="item_id")
    assert told.height and (told["brand"] == "brand 1").all() and (told["price"] <= 20).all()
    with pytest.raises(RecsysError, match="did you mean 'brand'"):
        model.recommend("u1", where=["brnad=x"])


def test_candidates_come_back_in_the_order_of_their_value(model: Model) -> None:
    """All of them."""
    ranked = model.rank(["i3", "i1", "i7"], "u2")
    assert sorted(ranked["item_id"]) == ["i1", "i3", "i7"]
    assert ranked["score"].is_sorted(descending=True)
    assert ranked["user_id"].to_list() == ["u2"] * 3


def test_a_search_finds_the_exact_title_first(model: Model) -> None:
    """And as many items as were asked for."""
    title = model.items["title"][5]
    found = model.search(title.upper(), k=6)
    assert found.height == 6
    assert found["title"][0] == title
    assert found["rank"].to_list() == [1, 2, 3, 4, 5, 6]
    cheap = model.search(title, k=3, where=["price<=10"])["item_id"]
    assert set(cheap) <= set(model.items.filter(pl.col("price") <= 10)["item_id"])


def test_a_sentence_is_worth_a_list(model: Model) -> None:
    """Alone, and beside what a user did."""
    assert model.recommend(query="a red lamp", k=3).height == 3
    assert model.recommend(["u1", "u2"], query="a red lamp", k=3)["user_id"].unique().sort().to_list() == ["u1", "u2"]


def test_similar_items_are_sorted_by_similarity(model: Model) -> None:
    """Without the item itself."""
    near = model.similar("i4", k=5)
    assert near["rank"].to_list() == [1, 2, 3, 4, 5]
    assert near["similarity"].is_sorted(descending=True)
    assert "i4" not in near["item_id"]


def test_every_feature_says_what_it_adds(model: Model) -> None:
    """The largest first; the nearest items are those of the history."""
    told = model.explain("i9", "u1")
    assert told.columns == ["feature", "log_odds"]
    assert np.all(np.diff(told["log_odds"].abs().to_numpy()) <= 0)
    assert set(model.nearest("i9", "u1")["item_id"]) <= set(model.history("u1")["item_id"])
    assert model.nearest("i9").is_empty()


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (lambda model: model.recommend("u1", k=0), "k=0: a list has at least one item"),
        (lambda model: model.recommend(history=["i1", "x9"]), "history: 1 of 2 are no items of .*'x9'"),
        (lambda model: model.recommend(history="i1"), r"history: a list of item ids is needed, not the text 'i1'"),
        (lambda model: model.rank(["zz"]), "candidates: 1 of 1 are no items"),
        (lambda model: model.similar("zz"), "item: 1 of 1 are no items"),
        (lambda model: model.search("lamp", k=-1), "k=-1"),
    ],
)
def test_what_is_wrong_is_one_line(model: Model, call: Callable[[Model], object], problem: str) -> None:
    """It names what, where, how many and an example."""
    with pytest.raises(RecsysError, match=problem) as caught:
        call(model)
    assert "\n" not in str(caught.value)


def test_a_model_that_is_not_there_is_one_line() -> None:
    """With the way out."""
    with pytest.raises(RecsysError, match="no such folder; name a bundle folder or a registered model"):
        recsys.load("nowhere")


def test_the_model_says_which_it_is(model: Model, tiny: Path) -> None:
    """And how much it knows."""
    assert repr(model) == f"<{tiny}: 40 items, 12 users>"
