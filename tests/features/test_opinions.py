"""What texts of events say of items: mean, count and trend, as of any moment."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.facts import ItemFacts, extend_facts, fit_facts
from features.histories import VALID, EventLog, build_log
from features.leakage import leaking, refuse_leakage
from features.opinions import fit_opinions, refuse_bad_opinions
from features.ranking import RankingFeatures
from features.recent import RecentEvents
from recsys.config import RankerConfig
from recsys.errors import RecsysError
from serving.loading import load_bundle
from serving.lookup import Lookup
from serving.recommender import RecommendOptions
from serving.store.feed import EventFeed
from serving.store.store import Store, StoredEvent
from tests.worlds import DAY, START, catalogue, tiny_bundle
from tests.worlds import log_of as worlds_log

ITEMS = catalogue(["lamp", "table", "chair"])
CONFIG = RankerConfig(opinion="said")


def log_of(rows: list[tuple[str, str, float | None, int]]) -> EventLog:
    """Return the log of events: user, item, opinion and day."""
    names = {"user_id": 0, "item_id": 1, "said": 2}
    frame = pl.DataFrame(
        {name: [row[at] for row in rows] for name, at in names.items()}, schema_overrides={"said": pl.Float64}
    )
    frame = frame.with_columns(
        event_type=pl.lit("click"), timestamp=pl.Series([START + DAY * row[3] for row in rows]), split=pl.lit("train")
    )
    return build_log(frame.lazy(), ITEMS["item_id"], 0.2, CONFIG)


LOG = log_of(
    [
        ("a", "i0", 1.0, 0),
        ("b", "i0", 0.0, 40),
        ("c", "i0", None, 41),
        ("a", "i1", 0.25, 5),
        ("b", "i1", None, 50),
        ("b", "i0", 0.0, 60),
    ]
)


def columns_at(log: EventLog, day: int) -> dict[str, np.ndarray]:
    """Return the features of all items by name, `[3]` each, for a request on a day."""
    features = RankingFeatures(fit_facts(ITEMS, log, ()), True, (), ())
    histories = log.histories(np.array([0]), np.array([START + DAY * day]), 4)
    nothing = np.zeros((1, 3, 4), np.float32)
    dense = features.dense(features.inputs(histories, np.array([[0, 1, 2]]), {}, nothing, nothing, nothing > 0))
    return dict(zip(features.names, dense[0].T, strict=True))


def test_mean_count_and_trend_are_those_before_the_request() -> None:
    """By hand: three texts of 0.5 are counted beforehand; what comes on the day itself or later, not at all."""
    columns = columns_at(LOG, 60)
    np.testing.assert_allclose(columns["opinion"], [(1 + 0 + 1.5) / 5, (0.25 + 1.5) / 4, 0.5], rtol=1e-6)
    np.testing.assert_allclose(columns["opinion_count"], np.log1p([2, 1, 0]), rtol=1e-6)
    np.testing.assert_allclose(columns["opinion_trend"], [(0 + 3 * 0.5) / 4 - 0.5, 0, 0], atol=1e-6)
    assert columns_at(LOG, 61)["opinion_count"][0] == pytest.approx(np.log1p(3))


def test_the_future_changes_no_opinion() -> None:
    """The pipeline's own check finds nothing where all events are known, and finds a mean that knows the future."""
    late = log_of([("a", "i0", 1.0, 0), ("a", "i1", 0.0, 30), ("b", "i0", 0.0, 40), ("a", "i2", 0.9, 50)])
    log = replace(late, segments=np.where(late.times >= START + DAY * 30, VALID, late.segments).astype(np.int8))
    requests = log.requests(VALID)

    def compute(known: EventLog, request: object) -> np.ndarray:
        opinions = fit_opinions(known, 3)
        assert opinions
        moment = request.times[:, None]  # type: ignore[attr-defined]
        whole = opinions.before(np.array([[0]]), np.full_like(moment, START + DAY * 99))[0]
        honest = opinions.mean_before(np.array([[0]]), moment)
        return np.stack([honest, whole], axis=2).astype(np.float32)

    assert leaking(compute, ["honest", "whole"], log, requests) == ["whole"]
    features = RankingFeatures(fit_facts(ITEMS, log, ()), True, (), ())
    with pytest.raises(RecsysError, match="leakage") as error:  # purchases, first event: not the opinions
        refuse_leakage(replace(features, fitted=("purchases", "opinion", "age")), ITEMS, log, log, requests)
    assert "opinion" not in str(error.value)


def test_a_log_without_the_column_has_no_such_feature() -> None:
    """As in all models before."""
    plain = replace(LOG, opinions=None)
    assert "opinion" not in RankingFeatures(fit_facts(ITEMS, plain, ()), True, (), ()).names
    events = pl.DataFrame(
        {"user_id": ["a"], "item_id": ["i0"], "event_type": ["click"], "timestamp": [START], "split": ["train"]}
    )
    unnamed = build_log(events.lazy(), ITEMS["item_id"], 0.2, CONFIG)
    assert (
        "opinion" in RankingFeatures(fit_facts(ITEMS, unnamed, ()), True, (), ()).names
    )  # a model with it reads other data, too
    names = RankingFeatures(fit_facts(ITEMS, LOG, ()), False, (), ()).names
    assert "opinion" in names and "opinion_trend" not in names


def test_facts_keep_opinions_when_saved_and_when_items_are_added(tmp_path: Path) -> None:
    """New items have none."""
    facts = fit_facts(ITEMS, LOG, ())
    facts.save(tmp_path / "facts.npz")
    loaded = ItemFacts.load(tmp_path / "facts.npz")
    more = ITEMS.vstack(catalogue(["new"]).with_columns(item_id=pl.lit("n1")))
    grown = extend_facts(loaded, ITEMS, more, np.array([3]), ())
    moment = np.array([[START + DAY * 99]])
    assert facts.opinions and grown.opinions
    np.testing.assert_array_equal(
        grown.opinions.mean_before(np.array([[0, 1, 2]]), moment),
        facts.opinions.mean_before(np.array([[0, 1, 2]]), moment),
    )
    assert grown.opinions.before(np.array([[3]]), moment)[0].item() == 0


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (["0.5", "good", None], "1 of 2 values of 'said' are no numbers from 0 to 1, for example 'good'"),
        (["5"], "1 of 1 values"),
        ([None], "0 of 0"),
    ],
)
def test_what_is_no_opinion_is_refused(values: list[str | None], problem: str) -> None:
    """With one of the values."""
    with pytest.raises(RecsysError, match=problem):
        refuse_bad_opinions(pl.LazyFrame({"said": values}, schema={"said": pl.String}), "said")


def test_a_bundle_with_opinions_gives_lists_by_them(tmp_path: Path) -> None:
    """Its ranker gets the very columns that it was fitted on."""
    events = [
        (f"u{user}", f"i{(3 * user + step * step) % 35}", "click", 5 * step + user % 5)
        for user in range(12)
        for step in range(5)
    ]
    log = worlds_log(events, 40)
    opinions = np.where(np.arange(len(log)) % 3 > 0, np.arange(len(log)) % 2, np.nan)
    lookup = Lookup(load_bundle(tiny_bundle(tmp_path, replace(log, opinions=opinions))))
    features = lookup.retriever.features
    assert {"opinion", "opinion_count", "opinion_trend"} <= set(features.names)
    assert features.facts.opinions and features.facts.opinions.offsets[-1] == np.isfinite(opinions).sum()
    ranking = lookup.recommender.recommend(lookup.histories([("u0", None)]), RecommendOptions(5))
    assert ranking.items.shape == (1, 5)


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.one_of(st.none(), st.floats(0, 1)), st.integers(0, 90)), min_size=1),
    st.integers(0, 90),
)
def test_opinions_that_follow_a_fit_are_those_of_a_fit_on_all_events(
    rows: list[tuple[int, float | None, int]], fitted_until: int
) -> None:
    """As of any moment, also where items were added in between."""
    log = log_of([("b", "i0", 0.5, 0), *(("a", f"i{item}", value, day) for item, value, day in rows)])
    newest = START + DAY * fitted_until
    before = fit_facts(ITEMS, log.only(log.times <= newest), ())
    followed = before.with_recent(RecentEvents.of_log(log, newest)).with_recent(RecentEvents.of_log(log, newest))
    more = ITEMS.vstack(catalogue(["new"]).with_columns(item_id=pl.lit("n1")))
    grown, known = extend_facts(followed, ITEMS, more, np.array([3]), ()).opinions, fit_facts(ITEMS, log, ()).opinions
    assert grown and known
    items = np.array([[0, 1, 2]])
    for day in (0, fitted_until, 60, 99):
        moment = np.array([[START + DAY * day]])
        np.testing.assert_allclose(
            grown.trend(items, moment, 30 * DAY), known.trend(items, moment, 30 * DAY), atol=1e-6
        )
        np.testing.assert_array_equal(grown.before(items, moment)[0], known.before(items, moment)[0])


def test_opinions_of_the_stores_events_count_from_the_next_look_on(tmp_path: Path) -> None:
    """What is no number from 0 to 1 does not."""
    log = worlds_log([(f"u{step % 12}", f"i{step % 35}", "click", step) for step in range(60)], 40)
    log = replace(log, opinions=np.full(len(log), 0.5))
    lookup = Lookup(load_bundle(tiny_bundle(tmp_path, log, {"opinion": "said"})))
    store = Store(f"sqlite:///{tmp_path}/store.db")
    said: list[dict[str, Any] | None] = [
        {"said": 1.0},
        {"said": 0},
        {"said": "good"},
        {"said": 7},
        {"said": True},
        {"other": 1.0},
        None,
    ]
    store.add_events(
        [StoredEvent(f"e{n}", "u0", "i3", "click", lookup.newest + 1 + n, context=own) for n, own in enumerate(said)]
    )
    feed = EventFeed(store, lookup)
    feed.read()
    store.close()
    fitted, followed = (one.retriever.features.facts.opinions for one in (lookup, feed.followed_by(lookup)))
    assert fitted and followed
    item, moment = np.array([[3]]), np.array([[lookup.newest + DAY]])
    before, after = fitted.before(item, moment), followed.before(item, moment)
    assert after[0] - before[0] == 2 and after[1] - before[1] == 1.0
