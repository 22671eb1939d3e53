"""Every candidate source passes the same suite; a new one enters it through `SOURCES`."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from scipy import sparse

from features.histories import EventLog, Histories
from recsys.config import Config
from recsys.events import DEFAULT_EVENT_WEIGHTS, EVENT_TYPES
from recsys.models.taste import TasteModel
from serving.retrieval.index import VectorIndex
from serving.retrieval.sources import (
    SOURCES,
    Candidates,
    CandidateSource,
    Catalogue,
    FitContext,
    RequestBatch,
    Sentences,
    graphs,
)
from serving.retrieval.sources.base import products
from serving.retrieval.sources.graphs import CovisitationSource, LexicalSource, RecentVisits
from tests.worlds import catalogue, log_of

COUNT = 12
TITLES = [f"{color} {thing}" for color in ("red", "blue", "green") for thing in ("lamp", "chair", "table", "rug")]
PAST = [[-1, 3, 1], [-1, -1, -1], [0, 2, 4]]
WEIGHTS = np.array([DEFAULT_EVENT_WEIGHTS[name] for name in EVENT_TYPES], np.float32)
EVENTS = [(f"u{u}", f"i{(u + 2 * s) % 10}", "click", 3 * s + u) for u in range(6) for s in range(5)]


def context_of(log: EventLog | None = None) -> FitContext:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(COUNT, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    taste = TasteModel(4, 8).eval()
    category = np.arange(COUNT) % 3
    return FitContext(
        catalogue(TITLES),
        vectors,
        vectors[::-1].copy(),
        category,
        taste,
        log=log or log_of(EVENTS, COUNT),
        weights=WEIGHTS,
        has_clock=True,
    )


def batch_of(histories: list[list[int]], catalogue: Catalogue) -> RequestBatch:
    items, vectors, tastes = np.array(histories, np.int32), catalogue.vectors, catalogue.tastes
    users = np.where(np.any(items >= 0, axis=1)[:, None, None], vectors[items[:, -1]][:, None, :].repeat(2, 1), 0)
    zeros = np.zeros(items.shape, np.int64)
    made = Histories(items, zeros.astype(np.int8), zeros, np.zeros(len(items), np.int64))
    sentences = Sentences.none(len(items), vectors.shape[1], tastes.shape[1])
    return RequestBatch(made, users, vectors[items], tastes[items], sentences, catalogue)


def everything(batch: RequestBatch) -> Candidates:
    """Return the whole catalogue as the candidates of every request."""
    return batch.candidates(np.tile(np.arange(len(batch.catalogue.vectors)), (len(batch.users), 1)))


def grown_by(context: FitContext, title: str) -> FitContext:
    items = pl.concat([context.items, catalogue([title]).with_columns(item_id=pl.lit(title))])
    vectors, tastes, category = (
        np.concatenate([array, array[:1]]) for array in (context.vectors, context.tastes, context.category)
    )
    return replace(context, items=items, vectors=vectors, tastes=tastes, category=category)


@pytest.fixture(params=list(SOURCES.values()), ids=list(SOURCES))
def kind(request: pytest.FixtureRequest) -> type[CandidateSource]:
    """Return each kind of source in turn."""
    return request.param


@pytest.fixture
def batch() -> RequestBatch:
    """Return three requests, one without history."""
    return batch_of(PAST, context_of())


def test_the_quota_of_every_source_is_configured_by_its_name(kind: type[CandidateSource]) -> None:
    """A source without a key in the configuration could not be turned off."""
    assert kind.name in Config().sources.model_dump()


def test_top_items_are_distinct_and_no_other_item_scores_more(kind: type[CandidateSource], batch: RequestBatch) -> None:
    """`top` and `of` agree."""
    scores = kind.fit(context_of()).open(batch)
    top = scores.top(4)
    assert top.shape == (3, 4)
    every = scores.of(everything(batch))
    for row, best in enumerate(top):
        chosen = best[best >= 0]
        assert len(set(chosen.tolist())) == len(chosen)
        if len(chosen):
            rest = np.setdiff1d(np.arange(COUNT), chosen)
            limit = every[row, chosen].min() if len(chosen) == 4 else 0
            assert every[row, rest].max() <= limit + 1e-6
            assert (np.diff(every[row, chosen]) <= 1e-6).all()


def test_a_batch_equals_its_requests_alone(kind: type[CandidateSource], batch: RequestBatch) -> None:
    """Who else asks changes nothing."""
    source = kind.fit(context_of())
    whole, whole_top = source.open(batch).of(everything(batch)), source.open(batch).top(5)
    for row in range(3):
        one = slice(row, row + 1)
        past = (batch.past[one], batch.past_tastes[one])
        parts = (batch.histories.rows(one), batch.users[one], *past, batch.sentences.rows(one))
        request = RequestBatch(*parts, batch.catalogue)
        alone = source.open(request)
        np.testing.assert_allclose(alone.of(everything(request))[0], whole[row], rtol=1e-5)
        np.testing.assert_array_equal(alone.top(5)[0], whole_top[row])


def test_scores_are_the_same_before_and_after_the_best_items_are_asked_for(
    kind: type[CandidateSource], batch: RequestBatch
) -> None:
    """Bit for bit, though graphs have computed the scores of all items by then."""
    source = kind.fit(context_of())
    before, scores = source.open(batch).of(everything(batch)), source.open(batch)
    scores.top(3)
    assert np.array_equal(before, scores.of(everything(batch)))


def test_products_are_those_of_each_candidate() -> None:
    """Those of a padded candidate are finite, and of no further interest."""
    rng = np.random.default_rng(0)
    vectors, against = rng.normal(size=(9, 4)).astype(np.float32), rng.normal(size=(2, 3, 4)).astype(np.float32)
    items = np.array([[8, 0, 3], [5, 5, -1]])
    found = products(vectors, items, against)
    right = np.einsum("rcd,rqd->rcq", vectors[items], against)
    np.testing.assert_allclose(found[items >= 0], right[items >= 0], atol=1e-6)
    assert np.isfinite(found).all()


def test_graphs_are_followed_as_they_are_multiplied() -> None:
    """Also from repeated items, and along the links of sentences, of later items and of later visits."""
    rng = np.random.default_rng(5)

    def drawn(rows: int) -> sparse.csr_matrix:
        return sparse.csr_matrix(rng.random((rows, COUNT), np.float32) * (rng.random((rows, COUNT)) < 0.4))

    words = LexicalSource.of_items(catalogue(TITLES)).words
    recent = RecentVisits(drawn(COUNT), rng.random(COUNT, np.float32))
    batch = batch_of(rng.integers(0, COUNT, (5, 9)).tolist(), context_of())
    batch = replace(batch, sentences=replace(batch.sentences, matches={"lexical": drawn(5)}))
    for source in (
        LexicalSource(drawn(COUNT), words, drawn(COUNT)),
        CovisitationSource(drawn(COUNT), np.ones(COUNT), recent),
    ):
        followed = np.stack([source.scores_of(batch, row) for row in range(5)])
        assert np.array_equal(followed, source.scores(batch).toarray())


def test_a_saved_source_is_read_back_the_same(kind: type[CandidateSource], batch: RequestBatch, tmp_path: Path) -> None:
    """Scores and order survive the bundle."""
    source = kind.fit(context_of())
    source.save(tmp_path)
    again = kind.load(tmp_path, context_of())
    np.testing.assert_array_equal(source.open(batch).top(6), again.open(batch).top(6))
    np.testing.assert_array_equal(source.open(batch).of(everything(batch)), again.open(batch).of(everything(batch)))


def test_fitting_twice_gives_the_same(kind: type[CandidateSource], batch: RequestBatch) -> None:
    """No source is random."""
    one, other = (kind.fit(context_of()).open(batch).top(6) for _ in range(2))
    np.testing.assert_array_equal(one, other)


def test_padding_and_unknown_items_score_nothing(kind: type[CandidateSource], batch: RequestBatch) -> None:
    """-1 is no item."""
    assert (kind.fit(context_of()).open(batch).of(batch.candidates(np.full((3, 2), -1))) == 0).all()


def test_a_grown_catalogue_keeps_old_scores_and_has_room_for_new_items(
    kind: type[CandidateSource], batch: RequestBatch
) -> None:
    """New items are at the end; known ones keep their scores."""
    context = context_of()
    source, larger = kind.fit(context), grown_by(context, "red sofa")
    extended = source.extended(larger, np.array([COUNT]))
    larger_batch = batch_of(PAST, larger)
    grown = extended.open(larger_batch)
    assert grown.top(COUNT + 1).max(initial=-1) <= COUNT
    scores = grown.of(everything(larger_batch))
    assert np.isfinite(scores).all()
    np.testing.assert_allclose(scores[:, :COUNT], source.open(batch).of(everything(batch)), rtol=1e-5)


def test_growing_twice_is_growing_once(kind: type[CandidateSource]) -> None:
    """Items that come one by one end where items that come together do."""
    context = context_of()
    first = grown_by(context, "red sofa")
    second = grown_by(first, "blue sofa")
    source = kind.fit(context)
    one = source.extended(first, np.array([COUNT]))
    twice = one.extended(second, np.array([COUNT + 1]))
    once = source.extended(second, np.array([COUNT, COUNT + 1]))
    batch = batch_of([[3, 1], [COUNT, 0]], second)
    np.testing.assert_allclose(
        twice.open(batch).of(everything(batch)), once.open(batch).of(everything(batch)), rtol=1e-5
    )
    np.testing.assert_array_equal(twice.open(batch).top(5), once.open(batch).top(5))


def test_what_is_not_allowed_is_not_proposed_and_takes_no_position(
    kind: type[CandidateSource], batch: RequestBatch
) -> None:
    """The other items move up, in their order; also in a grown catalogue."""
    context = context_of()
    grown = grown_by(context, "red sofa")
    source = kind.fit(context)
    extended = source.extended(grown, np.array([1, COUNT]))
    views = ((source.open(batch), COUNT), (extended.open(batch_of(PAST, grown)), COUNT + 1))
    for view, count in views:
        allowed = np.arange(count) % 3 > 0
        for before, after in zip(view.top(count), view.top(count, allowed), strict=True):
            assert after[after >= 0].tolist() == [item for item in before if item >= 0 and allowed[item]]


def test_a_log_without_events_is_no_error(kind: type[CandidateSource], batch: RequestBatch) -> None:
    """A source that learnt nothing proposes what it can."""
    empty = log_of(EVENTS, COUNT).in_segments()
    top = kind.fit(context_of(empty)).open(batch).top(3)
    assert top.shape == (3, 3)


def test_covisitation_leads_to_where_users_went_next() -> None:
    """The later item counts more than the earlier, and a near one more than a far one."""
    log = log_of([(user, item, "click", day) for user in "abc" for day, item in enumerate(("i0", "i1", "i2"))], COUNT)
    batch = batch_of([[0], [1]], context_of())
    scores = SOURCES["covisitation"].fit(context_of(log)).open(batch)
    near, far = scores.of(batch.candidates(np.array([[1, 2], [1, 2]])))[0]
    assert near > far > 0
    forward, backward = scores.of(batch.candidates(np.array([[2, 0], [2, 0]])))[1]
    assert forward > backward > 0


@pytest.mark.parametrize(("pairs", "events"), [(40, 7), (1, 1), (300, 10_000)])
def test_visits_counted_in_blocks_are_those_of_all_events_at_once(
    monkeypatch: pytest.MonkeyPatch, pairs: int, events: int
) -> None:
    """Whatever part of the items and of the users is counted at a time."""
    rng = np.random.default_rng(0)
    rows = [(f"u{rng.integers(9)}", f"i{rng.integers(10)}", "click", int(day)) for day in rng.integers(0, 90, 200)]
    context = context_of(log_of(rows, COUNT))
    whole = SOURCES["covisitation"].fit(context)
    monkeypatch.setattr(graphs, "MOST_PAIRS", pairs)
    monkeypatch.setattr(graphs, "CHUNK", events)
    parts = SOURCES["covisitation"].fit(context)
    assert isinstance(whole, CovisitationSource) and isinstance(parts, CovisitationSource)
    np.testing.assert_allclose(parts.graph.toarray(), whole.graph.toarray(), rtol=1e-6)
    assert whole.total is not None and parts.total is not None
    np.testing.assert_allclose(parts.total, whole.total, rtol=1e-12)


def test_blocks_hold_at_most_so_much_unless_a_row_alone_has_more() -> None:
    assert graphs.blocks_of(np.array([3, 3, 9, 1, 1, 1, 5]), 6) == [(0, 2), (2, 3), (3, 6), (6, 7)]
    assert graphs.blocks_of(np.zeros(0, np.int64), 6) == [(0, 0)]


def test_lexical_finds_items_that_share_words() -> None:
    """A red lamp leads to red things and to lamps."""
    top = SOURCES["lexical"].fit(context_of()).open(batch_of([[0]], context_of())).top(20)[0]
    assert set(top[top >= 0].tolist()) == {1, 2, 3, 4, 8}


def test_lexical_links_a_new_item_both_ways_and_reads_sentences() -> None:
    """An item that came after the fit leads to those that share its words, and they to it."""
    context = context_of()
    grown = grown_by(context, "red sofa")
    fitted = SOURCES["lexical"].fit(context)
    source = fitted.extended(grown, np.array([COUNT]))
    top = source.open(batch_of([[0], [COUNT]], grown)).top(20)
    assert COUNT in top[0]
    assert set(top[1][top[1] >= 0].tolist()) == {0, 1, 2, 3}
    assert isinstance(source, LexicalSource)
    assert set(source.read(["a rug, please", "nothing known"])[0].indices.tolist()) == {3, 7, 11}


def test_an_index_takes_new_vectors_instead_of_old_ones() -> None:
    """As if it had been built from the new ones."""
    vectors = context_of().vectors
    changed = vectors.copy()
    changed[[2, 5]] = vectors[[7, 8]]
    index = VectorIndex.build(vectors, np.arange(COUNT)).extended(changed, np.array([2, 5]))
    largest = np.sort(-(vectors @ changed.T), axis=1)[:, :5]
    neighbours = index.search(vectors, 5)
    np.testing.assert_allclose(-np.take_along_axis(vectors @ changed.T, neighbours, 1), largest, rtol=1e-5)


def topics(count: int, seed: int = 0) -> np.ndarray:
    """Return unit vectors `[count, 16]` around twenty centres."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(20, 16))[rng.integers(20, size=count)] + 0.4 * rng.normal(size=(count, 16))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def recall_of(index: VectorIndex, vectors: np.ndarray, allowed: np.ndarray, k: int = 20) -> float:
    """Return the share of the k nearest `allowed` items that the index finds, over 50 queries."""
    queries = topics(50, seed=1)
    nearest = np.argsort(-np.where(allowed, queries @ vectors.T, -np.inf), axis=1)[:, : min(k, allowed.sum())]
    neighbours = index.search(queries, k, allowed)
    assert allowed[neighbours[neighbours >= 0]].all()
    return float(np.mean([np.isin(true, listed).mean() for true, listed in zip(nearest, neighbours, strict=True)]))


@pytest.mark.parametrize("share", [1.0, 0.5, 0.02, 0.001])
def test_an_index_of_many_items_finds_nearly_all_nearest_ones(
    share: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all items, of half of them, and of the few that a filter leaves; after saving and changes, too."""
    monkeypatch.setattr("serving.retrieval.index.EXACT_UP_TO", 300)
    vectors = topics(5000)
    allowed = np.random.default_rng(2).random(5000) < share
    index = VectorIndex.build(vectors, np.arange(5000))
    index.save(tmp_path / "index")
    index = VectorIndex.load(tmp_path / "index", vectors, np.arange(5000))
    assert recall_of(index, vectors, allowed) >= 0.97
    changed = np.concatenate([vectors, topics(50, seed=3)])
    changed[:50] = topics(50, seed=4)
    index = index.extended(changed, np.append(np.arange(50), np.arange(5000, 5050)))
    assert recall_of(index, changed, np.append(allowed, np.ones(50, bool))) >= 0.97


def test_popular_prefers_recent_events_where_there_is_a_clock() -> None:
    """Old glory fades with the configured half-life."""
    log = log_of(
        [("a", "i0", "click", 0), ("b", "i0", "click", 0), ("a", "i1", "click", 60), ("b", "i2", "click", 0)], 12
    )
    assert SOURCES["popular"].fit(context_of(log)).open(batch_of([[0]], context_of())).top(2)[0].tolist() == [
        1,
        0,
    ]


def test_the_index_finds_exactly_the_largest_inner_products(tmp_path: Path) -> None:
    """Flat search equals sorting all products, before and after saving."""
    vectors = context_of().vectors
    index = VectorIndex.build(vectors, np.arange(COUNT))
    nearest = np.argsort(-(vectors @ vectors.T), axis=1)[:, :5]
    np.testing.assert_array_equal(index.search(vectors, 5), nearest)
    index.save(tmp_path / "index")
    np.testing.assert_array_equal(
        VectorIndex.load(tmp_path / "index", vectors, np.arange(COUNT)).search(vectors, 5), nearest
    )
    assert (index.search(vectors, COUNT + 2)[:, COUNT:] == -1).all()


def test_covisitation_leads_back_to_an_item_that_users_repeat() -> None:
    """Users buy an item again, too."""
    log = log_of([(user, item, "purchase", day) for user in "abc" for day, item in enumerate(("i0", "i0"))], COUNT)
    batch = batch_of([[0]], context_of())
    scores = SOURCES["covisitation"].fit(context_of(log)).open(batch)
    assert scores.top(1)[0, 0] == 0
    assert scores.of(batch.candidates(np.array([[0]])))[0, 0] > 0


def test_related_leads_to_what_is_popular_within_the_brand() -> None:
    """Other brands do not count, and an item does not lead to itself."""
    items = catalogue(TITLES, brand=["oak"] * 4 + ["elm"] * 8)
    log = log_of([("a", "i1", "click", 0), ("b", "i1", "click", 1), ("b", "i2", "click", 2)], COUNT)
    context = replace(context_of(log), items=items)
    top = SOURCES["related"].fit(context).open(batch_of([[0]], context)).top(6)[0]
    assert top[0] == 1 and top[1] == 2
    assert set(top) == {1, 2, 3, -1}


def test_new_proposes_only_items_with_hardly_an_event() -> None:
    """The nearest of them first, an item of a grown catalogue among them."""
    rows = [(f"u{user}", f"i{item}", "click", item) for user in range(3) for item in range(10)]
    context = context_of(log_of(rows, COUNT))
    batch = batch_of([[11]], context)
    source = SOURCES["new"].fit(context)
    assert source.open(batch).top(3)[0].tolist() == [11, 10, -1]
    vectors = np.concatenate([context.vectors, context.vectors[11:]])
    grown = source.extended(replace(grown_by(context, "red sofa"), vectors=vectors), np.array([COUNT]))
    assert set(grown.open(batch).top(2)[0]) == {11, COUNT}
    assert (source.open(batch).of(batch.candidates(np.arange(10)[None])) == 0).all()


def test_taste_proposes_what_its_scores_rank_highest_among_the_near_ones() -> None:
    """Where the whole catalogue is near, that is the best of all."""
    context = context_of()
    batch, source = batch_of(PAST, context), SOURCES["taste"].fit(context)
    view = source.open(batch)
    scores = view.of(everything(batch))
    known = np.flatnonzero((np.array(PAST) >= 0).any(1))
    best = np.argsort(-scores, axis=1, kind="stable")
    np.testing.assert_array_equal(view.top(COUNT)[known], best[known])
    for row in known:
        few = view.top(4)[row]
        assert (np.diff(scores[row][few]) <= 0).all()
        assert few[0] in best[row][:4]
    nobody = [row for row in range(len(PAST)) if row not in known]
    assert (view.top(4)[nobody] == -1).all() and not scores[nobody].any()


def test_taste_scores_are_the_relevance_of_the_model_alone() -> None:
    """Event by event: similarity and category of the pair, the weight of the event, the counts of the item."""
    context = context_of()
    batch, source = batch_of([[3, 1]], context), SOURCES["taste"].fit(context)
    assert context.taste is not None
    counts = np.bincount(context.log.items, minlength=COUNT)
    similarity = context.tastes @ context.tastes[[3, 1]].T  # [N, L]
    same = (context.category[:, None] == context.category[[3, 1]]) & (context.category[[3, 1]] > 0)
    with torch.no_grad():
        expected = context.taste.relevance(
            torch.from_numpy(similarity)[None],
            torch.from_numpy(same)[None],
            context.taste.event_weights(torch.ones(1, 2, dtype=torch.bool)),
            context.taste.bias(torch.from_numpy(counts).float(), torch.from_numpy(counts > 0)),
        )
    np.testing.assert_allclose(source.open(batch).of(everything(batch)), expected.numpy(), rtol=1e-5)


def test_taste_proposes_an_item_that_came_after_the_fit() -> None:
    """By its text alone: it has the taste of the history's item."""
    context = context_of()
    grown = grown_by(context, "red sofa")
    source = SOURCES["taste"].fit(context).extended(grown, np.array([COUNT]))
    view = source.open(batch_of([[-1, 0]], grown))
    assert COUNT in view.top(4)[0]
    assert COUNT not in view.top(4, np.arange(COUNT + 1) < COUNT)[0]


def test_taste_follows_a_typed_sentence() -> None:
    """In a history it is the item N; it has a taste and no category."""
    context = context_of()
    source, wanted = SOURCES["taste"].fit(context), 3
    items, zeros = np.array([[-1, COUNT]], np.int32), np.zeros((1, 2), np.int64)
    sentences = replace(
        Sentences.none(1, context.vectors.shape[1], context.tastes.shape[1]), tastes=context.tastes[[wanted]]
    )
    past, tastes = np.zeros((1, 2, 8), np.float32), np.stack([np.zeros((1, 8), np.float32), sentences.tastes], 1)
    made = Histories(items, zeros.astype(np.int8), zeros, np.zeros(1, np.int64))
    batch = RequestBatch(made, np.zeros((1, 2, 8), np.float32), past, tastes, sentences, context)
    assert not everything(batch).same_category.any()
    assert source.open(batch).top(2)[0, 0] == wanted
