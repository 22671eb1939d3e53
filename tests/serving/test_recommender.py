"""What a list may contain: allowed items, typed sentences, items that changed since the fit."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from features.histories import EventLog, Histories
from serving import loading
from serving.batch import histories_of
from serving.encoding import encode_items
from serving.loading import changed_catalogue, load_bundle, read_sentences, with_items
from serving.lookup import Lookup
from serving.recommender import ItemFilter, Recommender, RecommendOptions
from serving.retrieval.sources.popular import PopularSource
from tests.worlds import DAY, catalogue, tiny_bundle, tiny_recommender

NOW = 1_700_000_000_000_000 + 100 * DAY


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recommender, EventLog, object]:
    """Return a small recommender, its log and tokenizer."""
    return tiny_recommender(tmp_path_factory.mktemp("tiny") / "encoder")


def typed(recommender: Recommender) -> Histories:
    """Return the history of somebody who only typed a sentence."""
    length = recommender.retriever.config.interest.max_history
    items, zeros = np.full((1, length), -1, np.int32), np.zeros((1, length), np.int64)
    items[0, -1] = len(recommender.retriever.vectors)
    return Histories(items, zeros.astype(np.int8), zeros + NOW, np.array([NOW]))


def test_a_list_is_full_as_long_as_enough_items_are_allowed(parts: tuple[Recommender, EventLog, object]) -> None:
    """However few they are, and for users with and without a history."""
    recommender, log, _ = parts
    histories = histories_of(recommender, log, [0, 3, -1], NOW)
    for share in (2, 5, 13):
        allowed = np.arange(len(recommender.retriever.vectors)) % share == 1
        items = recommender.recommend(histories, RecommendOptions(3, ItemFilter("", allowed))).items
        assert (items % share == 1).all()


def test_an_item_is_in_lists_from_its_creation_on(parts: tuple[Recommender, EventLog, object]) -> None:
    """Lists of the past, as evaluation and the ranker's training make them, have no items of the future."""
    recommender, log, tokenizer = parts
    new = catalogue([f"newest lamp {row}" for row in range(5)]).with_columns(
        item_id=pl.format("new{}", pl.int_range(pl.len())), created_at=NOW + DAY * pl.int_range(pl.len())
    )
    grown = with_items(recommender, tokenizer, new)
    first = len(recommender.retriever.vectors)
    days = np.array([-1, 0, 3, 9])
    histories = replace(histories_of(grown, log, [0, 1, 2, -1], NOW), now=NOW + DAY * days)
    lists = grown.recommend(histories, RecommendOptions(first + 5)).items
    for day, items in zip(days, lists, strict=True):
        assert set(items[items >= first]) == set(range(first, first + min(5, day + 1)))


def test_the_caller_may_leave_out_what_a_user_has_seen(parts: tuple[Recommender, EventLog, object]) -> None:
    """Whatever the model does by itself."""
    recommender, log, _ = parts
    histories = histories_of(recommender, log, [0, 1], NOW)
    kept = recommender.recommend(histories, RecommendOptions(40)).items
    left = recommender.recommend(histories, RecommendOptions(40, exclude_seen=True)).items
    for row, past in enumerate(histories.items):
        seen = set(past[past >= 0].tolist())
        assert seen <= set(kept[row].tolist())
        assert not seen & set(left[row].tolist())


def test_a_sentence_is_understood_as_an_item_with_that_title(parts: tuple[Recommender, EventLog, object]) -> None:
    """Its vector leads the interest, its words the lexical source."""
    recommender, _, tokenizer = parts
    sentences = read_sentences(recommender.retriever, tokenizer, ["red lamp for the garden"])
    batch = recommender.retriever.open(typed(recommender), sentences).requests
    twin = with_items(recommender, tokenizer, catalogue(["red lamp for the garden"]).with_columns(item_id=pl.lit("t")))
    np.testing.assert_allclose(batch.past[0, -1], twin.retriever.vectors[-1], atol=1e-5)
    words = recommender.retriever.items["title"].str.split(" ").to_list()
    matches = sentences.matches["lexical"][0].indices
    assert len(matches)
    assert all({"red", "lamp", "garden"} & set(words[item]) for item in matches)
    ranking = recommender.recommend(typed(recommender), RecommendOptions(10), sentences)
    assert (ranking.items >= 0).all() and (ranking.items < len(recommender.retriever.vectors)).all()


def test_a_changed_item_keeps_its_row_and_takes_its_new_text(parts: tuple[Recommender, EventLog, object]) -> None:
    """Brand, price and vector are the new ones; other items stay as they were."""
    recommender, log, tokenizer = parts
    changes = catalogue(["wooden chair", "steel table"], brand=["brand 2", "unheard"], price=[7.0, None])
    changes = changes.with_columns(item_id=pl.Series(["i3", "fresh"]))
    changed = with_items(recommender, tokenizer, changes)
    assert changed.retriever.items["item_id"].to_list() == [*recommender.retriever.items["item_id"], "fresh"]
    assert changed.retriever.items.row(3, named=True)["title"] == "wooden chair"
    np.testing.assert_array_equal(
        np.delete(changed.retriever.vectors[:-1], 3, 0), np.delete(recommender.retriever.vectors, 3, 0)
    )
    assert not np.allclose(changed.retriever.vectors[3], recommender.retriever.vectors[3])
    facts = changed.retriever.features.facts
    assert facts.brand[3] == recommender.retriever.features.facts.brand[2]
    assert facts.brand[-1] == 0
    assert facts.price[3] == pytest.approx(np.log(8))
    assert facts.price[-1] == pytest.approx(np.median(recommender.retriever.features.facts.price))
    histories = histories_of(changed, log, [0, 1, -1], NOW)
    assert {3, 40} <= set(changed.recommend(histories, RecommendOptions(41)).items[0].tolist())


def test_a_catalogue_that_changed_item_by_item_is_the_one_that_changed_at_once(tmp_path: Path) -> None:
    """Ids, titles, lists and the order of popular items; the catalogue before stays as it was."""
    bundle = load_bundle(tiny_bundle(tmp_path / "bundle"))
    first = Lookup(bundle)
    vectors, ids = first.retriever.vectors.copy(), list(first.ids)
    changes = catalogue([f"steel lamp {row}" for row in range(6)]).with_columns(
        item_id=pl.Series(["new0", "new1", "i3", "new2", "new0", "i3"])
    )
    lookup = first
    for row in range(len(changes)):
        recommender = with_items(lookup.recommender, bundle.tokenizer, changes[row])
        lookup = Lookup(replace(bundle, recommender=recommender), before=lookup)
    latest = changes[[4, 1, 5, 3]]
    at_once = Lookup(replace(bundle, recommender=with_items(bundle.recommender, bundle.tokenizer, latest)))
    assert (lookup.ids, lookup.rows, lookup.titles, lookup.users) == (
        at_once.ids, at_once.rows, at_once.titles, at_once.users
    )  # fmt: skip
    one, other = lookup.retriever, at_once.retriever
    np.testing.assert_allclose(one.vectors, other.vectors, atol=1e-6)
    for name, source in one.sources.items():
        if isinstance(source, PopularSource):
            np.testing.assert_array_equal(source.order, np.argsort(-source.scores, kind="stable"), name)
    histories = lookup.histories([("u3", None), ("u5", None), (None, ["new1", "i3"])])
    lists = [each.recommender.recommend(histories, RecommendOptions(20)) for each in (lookup, at_once)]
    np.testing.assert_array_equal(lists[0].items, lists[1].items)
    np.testing.assert_allclose(lists[0].score, lists[1].score, atol=1e-6)
    assert (first.ids, len(first.rows)) == (ids, 40) and np.array_equal(first.retriever.vectors, vectors)


def test_a_catalogue_that_new_items_extend_one_by_one_stays_in_few_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "MOST_CHUNKS", 4)
    items = catalogue(["lamp"])
    for row in range(1, 12):
        items = changed_catalogue(items, catalogue(["table"]).with_columns(item_id=pl.lit(f"i{row}")))
        assert items.n_chunks() <= 4
    assert items["item_id"].to_list() == [f"i{row}" for row in range(12)]


def test_an_item_whose_price_alone_changes_is_not_encoded_again(
    parts: tuple[Recommender, EventLog, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It keeps its vector, in the same array as before, and its brand also where no other item has it."""
    recommender, _, tokenizer = parts
    encoded: list[int] = []

    def encode(model: Any, tokenizer: Any, items: pl.DataFrame, *rest: Any) -> Any:
        encoded.append(items.height)
        return encode_items(model, tokenizer, items, *rest)

    monkeypatch.setattr("serving.loading.encode_items", encode)
    items = recommender.retriever.items
    changed = with_items(recommender, tokenizer, items.with_columns(price=pl.lit(7.0)))
    assert encoded == [] and changed.retriever.vectors is recommender.retriever.vectors
    facts, before = changed.retriever.features.facts, recommender.retriever.features.facts
    np.testing.assert_array_equal(facts.brand, before.brand)
    assert facts.price == pytest.approx(np.full(items.height, np.log(8)))
    with_items(recommender, tokenizer, items[:3].with_columns(title=pl.Series(["a red lamp", *items["title"][1:3]])))
    assert encoded == [1]


def test_a_batch_of_histories_of_any_length_equals_each_alone(
    parts: tuple[Recommender, EventLog, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests are grouped by length within; the answer keeps their order."""
    monkeypatch.setattr("serving.recommender.BLOCK", 5)
    recommender, log, _ = parts
    users = np.arange(12) % len(log.user_ids)
    histories = log.histories(users, log.times[log.offsets[users] + np.arange(12) % 5], 6)
    assert len(set(histories.lengths.tolist())) > 2
    together = recommender.recommend(histories, RecommendOptions(5))
    for row in range(12):
        alone = recommender.recommend(histories.rows(np.array([row])), RecommendOptions(5))
        np.testing.assert_array_equal(together.items[row], alone.items[0])
        np.testing.assert_allclose(together.score[row], alone.score[0], rtol=1e-4)


def test_similar_items_are_the_nearest_available_ones_but_the_item_itself(
    parts: tuple[Recommender, EventLog, object],
) -> None:
    """With the interest source turned off as well."""
    recommender, _, _ = parts
    available = np.arange(len(recommender.retriever.vectors)) % 4 > 0
    for one in (recommender.retriever, replace(recommender.retriever, sources={})):
        neighbours, cosines = one.restricted(available).similar(5, 6, now=0)
        expected = np.where(available & (np.arange(len(available)) != 5), one.vectors @ one.vectors[5], -np.inf)
        np.testing.assert_array_equal(neighbours, np.argsort(-expected, kind="stable")[:6])
        np.testing.assert_allclose(cosines, expected[neighbours], rtol=1e-5)


def test_a_list_that_popular_items_fill_does_not_depend_on_who_else_asks(
    parts: tuple[Recommender, EventLog, object],
) -> None:
    """A neighbour with a long history brings no further candidates into the list of one with a short history."""
    recommender, log, _ = parts
    quotas = dict.fromkeys(recommender.retriever.config.sources.model_dump(), 1)
    sources = type(recommender.retriever.config.sources).model_validate(quotas)
    config = recommender.retriever.config.model_copy(update={"sources": sources})
    few = replace(recommender, retriever=replace(recommender.retriever, config=config))
    options = RecommendOptions(8, exclude_seen=True)
    histories = log.histories(np.array([0, 1]), np.array([log.times[log.offsets[0] + 1], NOW]), 6)
    assert histories.lengths.tolist() == [1, 5]
    together = few.recommend(histories, options)
    alone = few.recommend(histories.rows(np.array([0])), options)
    np.testing.assert_array_equal(together.items[0], alone.items[0])
    np.testing.assert_allclose(together.score[0], alone.score[0], rtol=1e-4)


def test_each_request_of_a_batch_has_the_items_of_its_time(parts: tuple[Recommender, EventLog, object]) -> None:
    """Lists of the past are as if made alone, and full."""
    recommender, log, _ = parts
    row, until = pl.int_range(pl.len()), NOW - DAY
    limits = {
        "available_from": pl.when(row % 4 == 1).then(until),
        "available_until": pl.when(row % 4 == 2).then(until),
    }
    retriever = replace(recommender.retriever, items=recommender.retriever.items.with_columns(**limits))
    limited = replace(recommender, retriever=retriever)
    moments = np.array([until - 1, until, NOW])
    together = limited.recommend(histories_of(limited, log, [0, 1, 2], moments), RecommendOptions(25)).items
    for user, (moment, gone) in enumerate(zip(moments.tolist(), (1, 2, 2), strict=True)):
        alone = limited.recommend(histories_of(limited, log, [user], moment), RecommendOptions(25)).items
        np.testing.assert_array_equal(together[user], alone[0])
        assert (alone >= 0).all() and gone not in alone % 4
