"""The search learns from clicked queries what words mean that no text of the catalogue has."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest

from features.histories import Histories
from recsys.config import Config
from recsys.registry import bundle_folder, mlflow_client
from serving.loading import load_bundle, read_sentences, save_bundle, with_items
from serving.lookup import Lookup
from serving.recommender import Recommender, RecommendOptions
from serving.retrieval.queries import FILE, QueryTower
from serving.retrieval.retriever import Retriever
from tests.conftest import Shop
from tests.worlds import DAY, START, catalogue, tiny_recommender
from training import queries as queries_module
from training.pipeline import with_learned_queries
from training.queries import ClickedQueries, learn, ranks_of

FILLERS = ("please", "cheap", "best", "nice", "good", "large", "small", "today", "sale", "buy", "now", "shop")
MEANINGS = {"zonk": "lamp", "blip": "table", "quux": "chair", "frob": "garden"}
FIRST = START + 60 * DAY
MINUTE = 60_000_000
CUTS = (FIRST + 360 * MINUTE, FIRST + 480 * MINUTE)
NOW = START + 70 * DAY

Parts = tuple[Recommender, Any, Any]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    """Return a small recommender, its log and its tokenizer."""
    return tiny_recommender(tmp_path_factory.mktemp("tiny") / "encoder")


def clicks(retriever: Retriever, random: bool = False) -> pl.DataFrame:
    """Return 600 queries, one a minute: a word that no item has and one that says nothing, and an item of what the first means, or any item."""
    rng, titles = np.random.default_rng(0), retriever.items["title"].str.split(" ").to_list()
    rows = []
    for minute in range(600):
        word = list(MEANINGS)[rng.integers(4)]
        meant = [row for row, title in enumerate(titles) if random or MEANINGS[word] in title]
        text = f"{word} {FILLERS[rng.integers(len(FILLERS))]}"
        rows.append((text, f"i{meant[rng.integers(len(meant))]}", FIRST + minute * MINUTE))
    return pl.DataFrame(rows, schema=["query", "item_id", "timestamp"], orient="row")


@pytest.fixture(scope="module")
def taught(parts: Parts) -> Retriever:
    """Return the retriever whose search has learned from these queries."""
    recommender, _, tokenizer = parts
    learned = learn(clicks(recommender.retriever), recommender.retriever, tokenizer, CUTS, "train+valid", 0)
    assert learned.tower is not None, learned.said
    assert learned.test is not None and learned.test.gain.low > 0 and learned.test.queries == 120
    return replace(recommender.retriever, queries=learned.tower)


def found(retriever: Retriever, tokenizer: Any, query: str, k: int = 5) -> list[str]:
    """Return the titles of what `query` finds."""
    items = retriever.matching(read_sentences(retriever, tokenizer, [query]), k, None, NOW)
    return [retriever.items["title"][int(item)] for item in items]


def test_words_that_no_item_has_find_what_was_clicked_after_them(parts: Parts, taught: Retriever) -> None:
    """Before, they find anything."""
    recommender, _, tokenizer = parts
    shares = []
    for retriever in (recommender.retriever, taught):
        lists = {meaning: found(retriever, tokenizer, word) for word, meaning in MEANINGS.items()}
        shares.append(np.mean([meaning in title.split() for meaning, titles in lists.items() for title in titles]))
    assert shares[0] < 0.6 and shares[1] > 0.9


def test_a_new_item_is_found_without_another_training(parts: Parts, taught: Retriever) -> None:
    """Only the side of the query is learned: the word that means a lamp finds a lamp that came later."""
    recommender, _, tokenizer = parts
    new = catalogue(["lamp lamp", "chair chair"]).with_columns(item_id=pl.Series(["new", "newer"]))
    retriever = with_items(replace(recommender, retriever=taught), tokenizer, new).retriever
    for word, title in (("zonk", "lamp lamp"), ("quux", "chair chair")):
        before = found(replace(retriever, queries=None), tokenizer, word, 42).index(title)
        assert found(retriever, tokenizer, word, 42).index(title) < min(before, 21)


def test_an_exact_title_still_comes_first(parts: Parts, taught: Retriever, tmp_path: Path) -> None:
    """Also where what was learned prefers others; a bundle keeps what was learned."""
    recommender, log, tokenizer = parts
    save_bundle(tmp_path, replace(recommender, retriever=taught), tokenizer, log, {"dataset": "-", "metrics": {}})
    bundle = load_bundle(tmp_path)
    kept = bundle.recommender.retriever.queries
    assert kept is not None and taught.queries is not None
    np.testing.assert_array_equal(kept.residual, taught.queries.residual)
    assert kept.words == pytest.approx(taught.queries.words)
    away = replace(taught, queries=QueryTower(-2 * np.eye(32, dtype=np.float32), 0.0))  # the least similar come first
    lookup = Lookup(bundle).with_recommender(replace(recommender, retriever=away))
    title = taught.items["title"][7]
    sentences = read_sentences(away, tokenizer, [title])
    assert lookup.titles[away.matching(sentences, 1, None, NOW)[0]] != title
    assert lookup.titles[lookup.found(title, sentences, 3, None, NOW)[0]] == title


def test_lists_for_a_typed_sentence_stay_as_they_were(parts: Parts, taught: Retriever) -> None:
    """Recommendations were not fitted with what the search has learned."""
    recommender, _, tokenizer = parts
    lists = []
    for one in (recommender, replace(recommender, retriever=taught)):
        sentences = read_sentences(one.retriever, tokenizer, ["zonk"])
        items = np.full((1, 2), -1, np.int32)
        items[0, -1] = len(taught.vectors)
        zeros = np.zeros((1, 2))
        histories = Histories(items, zeros.astype(np.int8), zeros.astype(np.int64), np.array([NOW]))
        lists.append(one.recommend(histories, RecommendOptions(10), sentences).items)
    np.testing.assert_array_equal(lists[0], lists[1])


def test_a_bundle_that_has_not_learned_searches_as_before(parts: Parts, tmp_path: Path) -> None:
    """It has no such file, like those of earlier releases."""
    recommender, log, tokenizer = parts
    save_bundle(tmp_path, recommender, tokenizer, log, {"dataset": "-", "metrics": {}})
    assert not (tmp_path / FILE).exists()
    retriever = load_bundle(tmp_path).recommender.retriever
    assert retriever.queries is None
    untaught = replace(retriever, queries=QueryTower.untaught(32))
    for query in ("red lamp", "zonk"):
        assert found(untaught, tokenizer, query, 20) == found(retriever, tokenizer, query, 20)


def test_what_is_measured_is_the_order_that_the_search_gives(parts: Parts, taught: Retriever) -> None:
    """The ranks of a block of queries are the positions in the lists of each; an item that was not there yet is missed."""
    _, _, tokenizer = parts
    table = clicks(taught)[:40].with_columns(query=pl.col("query") + pl.lit(" red"), timestamp=pl.lit(NOW))
    queries = ClickedQueries.of(table, taught, tokenizer)
    assert taught.queries is not None
    ranks = ranks_of(taught.queries, queries, taught)
    for (query, item_id, _), rank in zip(table.iter_rows(), ranks, strict=True):
        listed = taught.matching(read_sentences(taught, tokenizer, [query]), 40, None, NOW)
        assert taught.items["item_id"][int(listed[int(rank) - 1])] == item_id
    later = replace(taught, items=taught.items.with_columns(available_from=pl.lit(NOW + DAY)))
    assert (ranks_of(taught.queries, queries, later) > 10).all()


def test_what_came_after_valid_teaches_nothing_that_is_measured(parts: Parts, taught: Retriever) -> None:
    """The queries of `test` may be any."""
    recommender, _, tokenizer = parts
    late = pl.when(pl.col("timestamp") >= CUTS[1])
    other = clicks(recommender.retriever).with_columns(item_id=late.then(pl.lit("i0")).otherwise("item_id"))
    tower = learn(other, recommender.retriever, tokenizer, CUTS, "train+valid", 0).tower
    assert tower is not None and taught.queries is not None
    np.testing.assert_array_equal(tower.residual, taught.queries.residual)


def test_clicks_that_say_nothing_are_not_kept(parts: Parts) -> None:
    """What was learned has to be better on `valid`, with its whole interval."""
    recommender, _, tokenizer = parts
    learned = learn(clicks(recommender.retriever, True), recommender.retriever, tokenizer, CUTS, "train+valid", 0)
    assert learned.tower is None and learned.test is None
    assert learned.said.startswith("not kept: MRR@10 of")


def test_a_few_queries_teach_nothing(parts: Parts) -> None:
    """The message says how many there are and how many it takes; titles do not count, since they are found by themselves."""
    recommender, _, tokenizer = parts
    table = clicks(recommender.retriever)
    titles = pl.when(pl.col("timestamp") < CUTS[0] - 100 * MINUTE).then(
        pl.lit(recommender.retriever.items["title"][0].upper())
    )
    learned = learn(
        table.with_columns(query=titles.otherwise("query")), recommender.retriever, tokenizer, CUTS, "train", 0
    )
    assert learned.tower is None
    assert (
        learned.said
        == "too little to learn from: 100 queries of train and 120 of valid; at least 200 and 50 are needed"
    )


def test_queries_of_a_log_that_is_not_split_by_time_teach_nothing(
    parts: Parts, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody could tell which of them come after the events that are measured; without queries nothing is said."""
    recommender, _, _ = parts
    said = []
    for queries in (None, clicks(recommender.retriever)):
        dataset = SimpleNamespace(queries=queries, info=SimpleNamespace(split="leave-last"))
        prepared: Any = SimpleNamespace(dataset=dataset, config=Config())
        assert with_learned_queries(recommender, prepared, "train+valid", "a run") is recommender
        said.append(capsys.readouterr().err)
    assert said[0] == "" and "the search learns from no queries" in said[1]


def test_of_many_queries_the_newest_are_read_and_measured(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are, a training has an end."""
    recommender, _, tokenizer = parts
    monkeypatch.setattr(queries_module, "MOST_READ", 470)
    table = clicks(recommender.retriever).reverse()
    kept = queries_module.newest_queries(table, recommender.retriever.items)["timestamp"]
    assert kept.len() == 470 and kept.is_sorted() and kept.min() == FIRST + 130 * MINUTE
    read = ClickedQueries.of(table, recommender.retriever, tokenizer)
    np.testing.assert_array_equal(read.newest(60).times, read.times[-60:])
    assert len(read.newest(1000)) == 600


def test_a_training_learns_from_the_queries_of_its_dataset_and_measures_them(inside: Shop) -> None:
    """The registered bundle has what was learned, the run its figures on `test`."""
    with mlflow_client() as client:
        metrics = client.get_run(inside.trained.run_id).data.metrics
    assert metrics["test_search_gain_mrr_at_10_low"] > 0
    after, before = metrics["test_search_mrr_at_10"], metrics["test_search_unlearned_mrr_at_10"]
    assert metrics["test_search_gain_mrr_at_10"] == pytest.approx(after - before)
    assert load_bundle(bundle_folder(inside.model)).recommender.retriever.queries is not None
