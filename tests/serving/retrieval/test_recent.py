"""Counts, popularity, trends and co-visits that follow the events since a fit are those of a fit on all events."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features.histories import EventLog
from features.recent import RecentEvents
from serving.loading import with_items
from serving.recommender import Recommender
from serving.retrieval.retriever import Retriever
from serving.retrieval.sources import SOURCES
from serving.retrieval.sources.popular import TrendingSource
from tests.worlds import DAY, START, catalogue, log_of, tiny_recommender

ITEMS, WEIGHTS = 40, np.array([0, 0.5, 1, 1.5, 2, 2, 2, 3], np.float32)
LATER = START + 61 * DAY
FOLLOWING = ["taste", "covisitation", "popular", "trending", "new"]
EVENT = st.tuples(
    st.sampled_from(["u0", "u1", "u2", "u3"]),
    st.integers(0, 12).map(lambda row: f"i{row}"),
    st.sampled_from(["view", "click", "purchase"]),
    st.integers(0, 60),
)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recommender, object]:
    """Return an untrained recommender of every real part, and its tokenizer."""
    recommender, _, tokenizer = tiny_recommender(tmp_path_factory.mktemp("tiny") / "encoder", ITEMS)
    return recommender, tokenizer


@pytest.fixture(scope="module")
def tiny(parts: tuple[Recommender, object]) -> Retriever:
    """Return its retriever."""
    return parts[0].retriever


def fitted(retriever: Retriever, log: EventLog, until: int) -> Retriever:
    """Return the retriever as of the events of `log` up to a moment."""
    return retriever.as_of(log.only(log.times <= until), WEIGHTS)


def described(retriever: Retriever, log: EventLog) -> dict[str, np.ndarray]:
    """Return each feature `[R, C]` of all items for every user a day after the last event."""
    users = np.arange(len(log.user_ids))
    histories = log.histories(users, np.full(len(users), log.times.max() + DAY), 6)
    batch = retriever.open(histories)
    candidates = batch.requests.candidates(np.tile(np.arange(ITEMS), (len(users), 1)))
    dense, _ = retriever.describe(batch, candidates)
    return dict(zip(retriever.features.names, np.moveaxis(dense, 2, 0), strict=True))


def proposed(retriever: Retriever, log: EventLog) -> dict[str, np.ndarray]:
    """Return what each source proposes to every user a day after the last event."""
    users = np.arange(len(log.user_ids))
    return retriever.propose(retriever.open(log.histories(users, np.full(len(users), log.times.max() + DAY), 6)))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(EVENT, min_size=4, max_size=60), st.integers(1, 59))
def test_what_the_ranker_sees_is_that_of_a_fit_on_all_events(
    tiny: Retriever, rows: list[tuple[str, str, str, int]], day: int
) -> None:
    """Whatever happened before the fit, and since; only `related` stays as it was at the fit."""
    log = log_of(rows, ITEMS)
    before = fitted(tiny, log, START + day * DAY)
    newest = before.features.facts.events.newest
    followed = before.with_recent(RecentEvents.of_log(log, newest), WEIGHTS)
    mine, its = described(followed, log), described(fitted(tiny, log, LATER), log)
    for name in mine:
        if "related" not in name:
            np.testing.assert_allclose(mine[name], its[name], rtol=1e-4, atol=1e-4, err_msg=name)
    ours, theirs = proposed(followed, log), proposed(fitted(tiny, log, LATER), log)
    for name in FOLLOWING:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


def test_events_follow_once_however_often_they_are_taken_in(parts: tuple[Recommender, object], tiny: Retriever) -> None:
    """A source forgets what it followed before, and a new item changes none of it."""
    tokenizer = parts[1]
    log = log_of([(f"u{row % 3}", f"i{row % 7}", "click", row) for row in range(30)], ITEMS)
    before = fitted(tiny, log, START + 10 * DAY)
    recent = RecentEvents.of_log(log, before.features.facts.events.newest)
    once = before.with_recent(recent, WEIGHTS)
    recommender, new = replace(parts[0], retriever=once), catalogue(["steel lamp"]).with_columns(item_id=pl.lit("x"))
    for other in (once.with_recent(recent, WEIGHTS), with_items(recommender, tokenizer, new).retriever):
        mine = described(other, log)
        for name, column in described(once, log).items():
            np.testing.assert_allclose(mine[name], column, rtol=1e-5, atol=1e-5, err_msg=name)


def test_a_burst_of_clicks_is_a_trend_and_popularity_is_none(tiny: Retriever) -> None:
    steady = [("u0", "i1", "click", day) for day in range(60) for _ in range(5)]
    log = log_of(steady + [("u1", "i2", "click", 59)] * 8, ITEMS)
    trending = fitted(tiny, log, LATER).sources["trending"]
    assert isinstance(trending, TrendingSource) and trending.order.tolist() == [2]


def test_recent_events_are_kept_with_what_their_users_did_just_before(tmp_path: Path) -> None:
    rows = [("u0", f"i{day}", "click", day) for day in range(9)] + [("u1", "i1", "view", 1)]
    recent = RecentEvents.of_log(log_of(rows, 9), START + 6 * DAY)
    assert recent.items.tolist() == [3, 4, 5, 6, 7, 8] and recent.new.tolist() == [False] * 4 + [True] * 2
    recent.save(tmp_path / "recent.npz")
    again = RecentEvents.load(tmp_path / "recent.npz")
    assert again.since == recent.since and np.array_equal(again.times, recent.times)


def test_a_source_that_was_saved_follows_as_before(tiny: Retriever, tmp_path: Path) -> None:
    log = log_of([(f"u{row % 3}", f"i{row % 7}", "click", row) for row in range(30)], ITEMS)
    before = fitted(tiny, log, START + 10 * DAY)
    recent = RecentEvents.of_log(log, before.features.facts.events.newest)
    sources = {}
    for name, source in before.sources.items():
        source.save(tmp_path)
        sources[name] = SOURCES[name].load(tmp_path, before.catalogue)
    mine = described(replace(before, sources=sources).with_recent(recent, WEIGHTS), log)
    for name, column in described(before.with_recent(recent, WEIGHTS), log).items():
        np.testing.assert_allclose(mine[name], column, rtol=1e-5, atol=1e-5, err_msg=name)
