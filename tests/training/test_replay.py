"""What the API knows at a moment is what training would compute for it: a log is replayed through a server."""

from pathlib import Path

import numpy as np

from features.histories import EARLY, LATE, EventLog
from recsys.arrays import Floats
from serving.api.app import create_app
from serving.api.live import ModelHolder
from serving.lookup import PastEvent
from serving.store.store import Store
from tests.worlds import DAY, START, client_of, holder_of, log_of
from training.ranker.data import _described

ITEMS, FIRST_DAY = 40, 30
BEFORE = [(f"u{u}", f"i{(3 * u + s * s) % 35}", "click", 5 * s + u % 5) for u in range(12) for s in range(5)]
"""The log of the tiny bundle."""
SINCE = [
    (f"u{row % 5}" if row % 4 else "newcomer", f"i{(7 * row) % ITEMS}", ("click", "purchase", "view")[row % 3], FIRST_DAY + row)
    for row in range(40)
]  # fmt: skip


def trained(holder: ModelHolder, log: EventLog, user: str, moment: int) -> Floats:
    """Return the features `[N, F]` of all items for a request of the log, from a fit on all events before it."""
    bundle = holder.snapshot.bundle
    retriever = holder.snapshot.lookup.retriever.as_of(log.only(log.times < moment), bundle.weights)
    requests = log.requests(EARLY, LATE)
    row = np.flatnonzero((requests.times == moment) & (requests.users == log.user_ids.index(user)))
    return _described(retriever, log, requests.select(row), lambda batch, rows: np.arange(ITEMS)[None]).dense[0]


def served(holder: ModelHolder, store: Store, user: str, moment: int) -> Floats:
    """Return the features `[N, F]` that the API's model sees at a moment."""
    lookup = holder.snapshot.lookup
    fitted = lookup.past(user)
    past = [PastEvent(event.item_id, event.event_type, event.timestamp) for event in store.history(user, 100)]
    batch = lookup.retriever.open(lookup.histories([(None, [*fitted, *past])], moment))
    return lookup.retriever.describe(batch, batch.requests.candidates(np.arange(ITEMS)[None]))[0][0]


def test_replayed_through_the_api_a_log_gives_the_features_of_training(tiny: Path, tmp_path: Path) -> None:
    """Every few events a request, whose features must not depend on where its events came from."""
    store, now = Store(f"sqlite:///{tmp_path}/store.db"), [START]
    holder = holder_of(tiny, store)
    log = log_of(BEFORE + SINCE, ITEMS)
    names = holder.snapshot.lookup.retriever.features.names
    followed = [row for row, name in enumerate(names) if "related" not in name]  # stays as of the fit
    with client_of(create_app(holder, store, clock=lambda: now[0])) as client:
        for number, (user, item, kind, day) in enumerate(SINCE):
            now[0] = START + day * DAY
            if number % 7 == 6:
                holder.take_events()
                for other in (holder, holder_of(tiny, store)):  # that has been there all along, and one that starts now
                    mine, its = served(other, store, user, now[0]), trained(holder, log, user, now[0])
                    for row in followed:
                        np.testing.assert_allclose(mine[:, row], its[:, row], rtol=1e-3, atol=1e-4, err_msg=names[row])
            event = {"user_id": user, "item_id": item, "event_type": kind}
            assert client.post("/v1/events", json={"events": [event]}).status_code == 200
    store.close()


def test_a_burst_of_clicks_makes_an_item_a_trend_and_a_candidate(tiny: Path, tmp_path: Path) -> None:
    """Of users who are no neighbours of the item, as soon as the events are counted; a forgotten user's count no more."""
    store, now = Store(f"sqlite:///{tmp_path}/store.db"), START + FIRST_DAY * DAY
    holder = holder_of(tiny, store)
    with client_of(create_app(holder, store, clock=lambda: now)) as client:
        events = [{"user_id": f"fan{row}", "item_id": "i39"} for row in range(200)]

        def proposals() -> dict[str, list[int]]:
            retriever = holder.snapshot.lookup.retriever
            batch = retriever.open(holder.snapshot.lookup.histories([("u1", None)], now))
            return {name: items[0].tolist() for name, items in retriever.propose(batch).items()}

        assert 39 not in proposals()["trending"] and 39 in proposals()["new"]
        client.post("/v1/events", json={"events": events})
        holder.take_events()
        assert proposals()["trending"][0] == 39 and proposals()["popular"][0] == 39 and 39 not in proposals()["new"]
        assert holder.snapshot.lookup.retriever.features.facts.counts[39] == 200
        trend = client.get("/v1/trending").json()["items"]
        assert [item["item_id"] for item in trend] == ["i39"] and trend[0]["surprise"] > 40
        client.delete("/v1/users/fan0")
        holder.take_events()
        assert holder.snapshot.lookup.retriever.features.facts.counts[39] == 199
    store.close()


def test_events_on_an_item_count_once_the_item_is_known(tiny: Path, tmp_path: Path) -> None:
    store, now = Store(f"sqlite:///{tmp_path}/store.db"), START + FIRST_DAY * DAY
    holder = holder_of(tiny, store)
    with client_of(create_app(holder, store, clock=lambda: now)) as client:
        client.post("/v1/events", json={"events": [{"user_id": "u1", "item_id": "later"}]})
        snapshot = holder.take_events()
        client.put("/v1/items", json={"items": [{"item_id": "later", "title": "a steel lamp"}]})
        lookup = holder.take_events().lookup
        assert lookup.retriever.features.facts.counts[lookup.rows["later"]] == 1
        assert holder.take_events() is holder.snapshot and holder.snapshot is not snapshot
    store.close()
