"""What was served is held against what the model was fitted on: drift is found, the same traffic is none."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from prometheus_client.parser import text_string_to_metric_families

from recsys.errors import UsageError
from recsys.metrics import calibration_error
from serving.loading import load_bundle
from serving.lookup import Lookup
from serving.monitor import watch as module
from serving.monitor.described import describe_known, describe_served
from serving.monitor.drift import psi
from serving.monitor.report import write_metrics, write_page
from serving.monitor.watch import Watch, limits_of, watch
from serving.recommender import RecommendOptions
from serving.store.feed import EventFeed
from serving.store.store import ImpressionList, Store, StoredEvent
from tests.command_line import run
from tests.worlds import DAY

SAMPLES = arrays.arrays(np.float64, st.integers(1, 60), elements=st.floats(-1e6, 1e6))


@given(SAMPLES, SAMPLES)
def test_drift_is_never_negative_and_none_from_itself(then: np.ndarray, now: np.ndarray) -> None:
    """For any two samples."""
    assert psi(then, now) >= 0
    assert psi(then, then) == 0


@given(SAMPLES, SAMPLES, st.floats(0.01, 100), st.floats(-100, 100))
def test_drift_does_not_depend_on_the_unit(then: np.ndarray, now: np.ndarray, factor: float, shift: float) -> None:
    """Price in cents drifts as much as price in dollars."""
    then, now = then.round(), now.round()  # so that no two values become one
    assert psi(factor * then + shift, factor * now + shift) == pytest.approx(psi(then, now), abs=0.3)


def test_drift_of_a_moved_sample_is_large_and_of_another_draw_small() -> None:
    """By the customary marks, .1 and .25; a share of zeros that grows counts too."""
    rng = np.random.default_rng(0)
    then, again, moved = rng.normal(size=3000), rng.normal(size=3000), 1 + rng.normal(size=3000)
    assert psi(then, again) < 0.02 < 0.25 < psi(then, moved)
    assert psi(np.maximum(then, 0), np.maximum(moved, 0)) > 0.25


def clock_of(lookup: Lookup) -> int:
    """Return a moment just after the newest event that the model knows."""
    return lookup.newest + 1000


def serve(store: Store, lookup: Lookup, now: int, name: str, *, likes: Any = None, count: int = 120) -> None:
    """Keep lists of `now` as the API does, and clicks on some of their items; with `likes`, of those items alone."""
    rng, users = np.random.default_rng(0), [list(lookup.users)[number % len(lookup.users)] for number in range(count)]
    made = lookup.recommender.recommend(
        lookup.histories([(user, None) for user in users], now), RecommendOptions(10)
    ).items
    rows = made if likes is None else rng.choice(likes, made.shape)
    for number, (user, items) in enumerate(zip(users, lookup.item_ids(rows), strict=True)):
        request = f"r{number}"
        store.add_lists([ImpressionList(request, user, now, name, items, [0.1] * 10, [None] * 10)])
        clicked = [item for item in items if rng.random() < 0.2]
        events = [StoredEvent(f"{request}{item}", user, item, "click", now + 1, request_id=request) for item in clicked]
        store.add_events(events)


@pytest.fixture
def parts(tiny: Path, tmp_path: Path) -> tuple[Lookup, Store, str]:
    """Return a loaded bundle, an empty store and the model's name."""
    lookup = Lookup(load_bundle(tiny))
    return lookup, Store(f"sqlite:///{tmp_path}/store.db"), str(tiny)


def test_the_lists_of_the_model_are_no_drift_and_others_are(parts: tuple[Lookup, Store, str], tmp_path: Path) -> None:
    """Items three times as dear as those that it lists for the same users are found by their price."""
    lookup, store, name = parts
    now = clock_of(lookup)
    serve(store, lookup, now, name)
    same = watch(name, store, 7, {"feature_psi": 0.25}, now)
    assert (same.lists, same.described) == (120, 120)
    dear = Store(f"sqlite:///{tmp_path}/dear.db")
    serve(dear, lookup, now, name, likes=np.argsort(-lookup.retriever.price)[:8])
    other = watch(name, dear, 7, {"feature_psi": 0.25}, now)
    drift_of = [{drift.feature: drift.psi for drift in found.drifts}["price"] for found in (same, other)]
    assert drift_of[0] < 0.25 < drift_of[1]
    assert "feature_psi" in other.exceeded and other.drifts[0].feature in other.exceeded["feature_psi"]


def test_a_price_that_a_put_tripled_is_found(parts: tuple[Lookup, Store, str]) -> None:
    """The catalogue that is served counts, not that of the training."""
    lookup, store, name = parts
    now = clock_of(lookup)
    items = lookup.retriever.items.select("item_id", "title", "price")
    store.change_items([(item, {"title": title, "price": 3 * price}) for item, title, price in items.iter_rows()])
    serve(store, lookup, now, name)
    drifts = {drift.feature: drift.psi for drift in watch(name, store, 7, {}, now).drifts}
    assert drifts["price"] > 0.25


def test_what_is_fitted_of_a_forgotten_user_is_not_read(parts: tuple[Lookup, Store, str]) -> None:
    """A list after the deletion is described as one of nobody."""
    lookup, store, name = parts
    now = clock_of(lookup)
    store.forget_user("u1")
    one = ImpressionList("r", "u1", int(1e15) * 2, name, lookup.ids[:10], [0.1] * 10, [None] * 10)
    column = lookup.retriever.features.names.index("history_length")
    assert describe_served(lookup, [one], store, 10).dense[0, 0, column] == 0
    assert now < one.timestamp


def test_a_list_is_described_as_it_was_served(parts: tuple[Lookup, Store, str]) -> None:
    """With the features and p(click) that the list was made by, from events before it alone."""
    lookup, store, name = parts
    now = clock_of(lookup)
    serve(store, lookup, now, name, count=12)
    lists = list(store.every_list())
    store.add_events([StoredEvent("later", lists[0].user_id or "", "i1", "click", now + 5)])
    described = describe_served(lookup, lists, store, 10)
    for row, one in enumerate(lists):
        ranking = lookup.recommender.recommend(lookup.histories([(one.user_id, None)], now), RecommendOptions(10))
        np.testing.assert_allclose(described.p_click[row], ranking.p_click[0], rtol=1e-4)
    assert described.present.all()
    assert described.dense.shape == (12, 10, len(lookup.retriever.features.names))
    assert len(describe_known(lookup, 5, 10).p_click) == 5


def test_lists_of_a_shop_in_full_swing_are_no_drift(parts: tuple[Lookup, Store, str]) -> None:
    """The counts that a list was made by are those of its moment, not those of the training."""
    lookup, store, name = parts
    days = [
        StoredEvent(f"d{n}", f"other{n}", f"i{n % 35}", "click", clock_of(lookup) + n * DAY // 4) for n in range(160)
    ]
    store.add_events(days)
    now, feed = days[-1].timestamp + 1000, EventFeed(store, lookup)
    feed.read()
    serve(store, feed.followed_by(lookup), now, name)
    drifts = {drift.feature: drift for drift in watch(name, store, 7, {}, now + 2).drifts}
    assert drifts["popularity_7d"].now > 0.5 * drifts["popularity_7d"].before > 0


def test_what_is_unknown_and_what_was_clicked_is_counted(parts: tuple[Lookup, Store, str]) -> None:
    """By version and by position; too few lists say nothing of drift."""
    lookup, store, name = parts
    now = clock_of(lookup)
    for request, user, items in (
        ("a", "u1", ["i1", "i2"]),
        ("b", "stranger", ["i1", "i3"]),
        ("c", None, []),
        ("d", "u1", ["i4", "i1"]),
    ):
        store.add_lists(
            [
                ImpressionList(
                    request, user, now, "v1" if request == "a" else name, items, [0.0] * len(items), [None] * len(items)
                )
            ]
        )
    store.add_events(
        [
            StoredEvent("1", "u1", "i2", "click", now + 1, request_id="a"),
            StoredEvent("2", "u1", "i2", "purchase", now + 2, request_id="a"),
            StoredEvent("3", "u1", "nowhere", "view", now + 2),
            StoredEvent("4", "u1", "i9", "click", now + 3, request_id="d"),
        ]
    )
    found = watch(name, store, 7, limits_of({"unknown_users": 0.2}), now)
    assert not found.drifts and found.described == 0
    assert found.figures == {"unknown_users": 1 / 3, "no_user": 0.25, "unknown_items": 0.25, "empty_lists": 0.25}
    assert list(found.exceeded) == ["unknown_items", "empty_lists", "unknown_users"]
    clicks = [(rate.what, rate.shown, rate.clicks.value, rate.purchases.value) for rate in found.by_model]
    assert sorted(clicks) == sorted([("v1", 2, 0.5, 0.5), (name, 4, 0.0, 0.0)])
    assert [(rate.what, rate.shown, rate.clicks.value) for rate in found.by_position] == [
        ("1", 3, 0.0),
        ("2", 3, 1 / 3),
    ]


def test_calibration_is_that_of_the_items_listed(parts: tuple[Lookup, Store, str]) -> None:
    """The mean gap between p(click) and what was clicked."""
    lookup, store, name = parts
    serve(store, lookup, clock_of(lookup), name)
    described = describe_served(lookup, list(store.every_list()), store, 10)
    clicked = {(event.request_id, event.item_id) for event in store.every_event()}
    truth = np.array([[(one.request_id, item) in clicked for item in one.items] for one in store.every_list()], float)
    expected = calibration_error(described.p_click.ravel(), truth.ravel())
    assert watch(name, store, 7, {}, clock_of(lookup)).figures["calibration_error"] == pytest.approx(expected, abs=1e-6)


def test_the_command_exits_with_1_beyond_a_limit_and_writes_its_reports(
    parts: tuple[Lookup, Store, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a page, as JSON and as metrics that Prometheus' own parser reads."""
    lookup, store, name = parts
    serve(store, lookup, int((time.time() - 60) * 1e6), name)
    files = [
        f"--{kind}={tmp_path / name}"
        for kind, name in (("html", "page.html"), ("json", "found.json"), ("metrics", "recsys.prom"))
    ]
    command = ["monitor", "--model", name, "--store", f"sqlite:///{tmp_path}/store.db", *files]
    generous = [f"--limit={figure}=99" for figure in module.LIMITS]
    code, printed, _ = run(capsys, *command, *generous)
    assert code == 0 and "click-through" in printed
    code, _, problem = run(capsys, *command, *generous, "--limit=calibration_error=0")
    assert code == 1 and "calibration_error is" in problem and problem.strip().count("\n") <= 2
    assert json.loads((tmp_path / "found.json").read_text())["exceeded"].keys() == {"calibration_error"}
    families = {
        family.name: family for family in text_string_to_metric_families((tmp_path / "recsys.prom").read_text())
    }
    limits = {sample.labels["figure"]: sample.value for sample in families["recsys_monitor_limit"].samples}
    assert limits["calibration_error"] == 0 and limits["feature_psi"] == 99
    assert "<html" in (tmp_path / "page.html").read_text()


def test_a_wrong_limit_or_time_is_one_clear_line(
    parts: tuple[Lookup, Store, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With what is known, or what to do."""
    _, _, name = parts
    with pytest.raises(UsageError, match="did you mean 'feature_psi'"):
        limits_of({"feature_ps": 1.0})
    command = ["monitor", "--model", name, "--store", f"sqlite:///{tmp_path}/store.db"]
    assert "write NAME=NUMBER" in run(capsys, *command, "--limit", "feature_psi")[2]
    assert "no list was served in the last 7 days" in run(capsys, *command)[2]
    _, store, _ = parts
    store.add_lists([ImpressionList("r", "u1", int(time.time() * 1e6) - 5, "models:/recsys/7", ["i1"], [0.1], [None])])
    assert "none of the 1 lists is by" in run(capsys, *command)[2]


def test_the_page_escapes_what_callers_sent(tmp_path: Path) -> None:
    """The name of a model is the only text that is not ours."""
    found = Watch("<script>alert(1)</script>", 7, 1, 0, {"no_user": 0.0}, {}, [], [], [])
    write_page(found, tmp_path / "page.html")
    write_metrics(found, tmp_path / "recsys.prom")
    page = (tmp_path / "page.html").read_text()
    assert "<script" not in page and "&lt;script&gt;" in page and "http" not in page
