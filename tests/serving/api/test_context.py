"""Context in requests: what the API makes of it is what training computes, and what it does not know it refuses."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from fastapi.testclient import TestClient

from features.context import UserAttributes
from features.data.dataset import load_dataset
from features.histories import EARLY, LATE, EventLog, build_log
from recsys.arrays import Floats, Ints
from recsys.config import RankerConfig
from serving.api import schemas
from serving.api.app import create_app
from serving.api.live import ModelHolder
from serving.api.metrics import Metrics
from serving.api.service import Service
from serving.batch import histories_of
from serving.recommender import RecommendOptions
from serving.store.export import export
from serving.store.store import Store
from tests.worlds import DAY, START, client_of, holder_of, tiny_bundle, write_dataset
from training.ranker.data import _described

RANKER = {"context": ["device", "speed", "session_id"], "user_attributes": ["plan", "age"]}
ITEMS = 40
MINUTE = 60_000_000
NOW = START + 40 * DAY
DEVICES = ["phone", "computer", None]
USERS = pl.DataFrame(
    {
        "user_id": [f"u{row}" for row in range(12)],
        "plan": ["free", "family"] * 6,
        "age": [20 + row for row in range(12)],
    }
)
SINCE: list[dict[str, Any]] = [
    {"user_id": f"u{row % 4}", "item_id": f"i{7 * row % ITEMS}", "session_id": f"s{row % 4}-{row // 12}",
     "attributes": {"device": DEVICES[row % 2], "speed": row / 4}}
    for row in range(24)
]  # fmt: skip
"""What is sent to the API, an event every two minutes."""


def moment(row: int) -> int:
    return START + 30 * DAY + 2 * MINUTE * row


def log(rows: int) -> EventLog:
    """Return the log of the bundle, and of the first `rows` events since."""
    fitted = [
        (f"u{u}", f"i{(3 * u + s * s) % 35}", START + (5 * s + u % 5) * DAY, f"s{u}", DEVICES[(u + s) % 3], float(u))
        for u in range(12)
        for s in range(5)
    ]
    later = [
        (event["user_id"], event["item_id"], moment(row), event["session_id"], *event["attributes"].values())
        for row, event in enumerate(SINCE[:rows])
    ]
    names = ("user_id", "item_id", "timestamp", "session_id", "device", "speed")
    frame = pl.DataFrame(fitted + later, schema=names, orient="row")
    frame = frame.with_columns(event_type=pl.lit("click"), split=pl.lit("train"))
    config = RankerConfig.model_validate(RANKER)
    built = build_log(frame.lazy(), pl.Series([f"i{row}" for row in range(ITEMS)]), 0.25, config)
    return replace(built, attributes=UserAttributes.read(USERS, config))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small untrained bundle that knows two columns of context, sessions and two attributes of users."""
    return tiny_bundle(tmp_path_factory.mktemp("context"), log(0), RANKER)


@pytest.fixture
def holder(bundle: Path, store: Store) -> ModelHolder:
    return holder_of(bundle, store)


@pytest.fixture
def client(holder: ModelHolder, store: Store) -> Iterator[TestClient]:
    with client_of(create_app(holder, store, clock=lambda: NOW)) as opened:
        yield opened


def trained(holder: ModelHolder, row: int) -> tuple[Floats, Ints]:
    """Return what training computes for the event `row` of `SINCE`."""
    whole, bundle = log(row + 1), holder.snapshot.bundle
    retriever = holder.snapshot.lookup.retriever.as_of(whole.only(whole.times < moment(row)), bundle.weights)
    requests = whole.requests(EARLY, LATE)
    chosen = requests.select(np.flatnonzero(requests.times == moment(row)))
    data = _described(retriever, whole, chosen, lambda batch, rows: np.arange(ITEMS)[None])
    return data.dense[0], data.categorical[0]


def served(service: Service, body: dict[str, Any]) -> tuple[Floats, Ints]:
    """Return what the ranker is given for all items by a request of /v1/rank."""
    request = schemas.RankRequest.model_validate({**body, "candidates": [f"i{row}" for row in range(ITEMS)]})
    snapshot = service.holder.snapshot
    pending, retriever = service._pending_rank(snapshot, request), snapshot.lookup.retriever
    batch = retriever.open(pending.histories)
    dense, categorical = retriever.describe(batch, batch.requests.candidates(np.arange(ITEMS)[None]))
    return dense[0], categorical[0]


def test_a_served_request_has_the_features_that_training_computes_for_it(
    client: TestClient, holder: ModelHolder, store: Store
) -> None:
    """Events and context go in over HTTP; device, speed, plan, age and the session are the same, at every few events."""
    now = [NOW]
    service = Service(holder, store, Metrics(lambda: "-"), None, clock=lambda: now[0])
    names = holder.snapshot.lookup.retriever.features.names
    followed = [row for row, name in enumerate(names) if "related" not in name]  # stays as of the fit
    varied: dict[str, set[float]] = {name: set() for name in names if name.startswith(("session", "context", "user"))}
    for row, event in enumerate(SINCE):
        if row % 4 == 3 or row == 10:
            holder.take_events()
            now[0] = moment(row)
            context = {"session_id": event["session_id"], "attributes": event["attributes"]}
            dense, codes = served(service, {"user_id": event["user_id"], "context": context})
            expected, expected_codes = trained(holder, row)
            np.testing.assert_array_equal(codes, expected_codes)
            for column in followed:
                mine, its = dense[:, column], expected[:, column]
                np.testing.assert_allclose(mine, its, rtol=1e-3, atol=1e-4, err_msg=names[column])
            for name, values in varied.items():
                values |= set(dense[:, names.index(name)].tolist())
        assert client.post("/v1/events", json={"events": [{**event, "timestamp": moment(row)}]}).status_code == 200
    del varied["session_category_share"]  # the items have no categories
    assert {name for name, values in varied.items() if len(values) < 2} == set()


def test_context_changes_the_list_and_its_absence_is_unknown(client: TestClient, holder: ModelHolder) -> None:
    """In lists and rankings, alone and for whoever else is in the batch; a text that was never seen is unknown."""
    candidates = [f"i{row}" for row in range(ITEMS)]

    def scores(path: str, **attributes: Any) -> dict[str, float]:
        body: dict[str, Any] = {"user_id": "u3", "context": {"attributes": attributes}}
        answer = client.post(
            path, json={**body, **({"candidates": candidates} if path == "/v1/rank" else {"k": ITEMS})}
        )
        assert answer.status_code == 200, answer.text
        return {item["item_id"]: item["score"] for item in answer.json()["items"]}

    for path in ("/v1/rank", "/v1/recommend"):
        assert scores(path, device="phone") != scores(path, device="computer") != scores(path)
        assert scores(path, device="fridge") == scores(path)
        assert scores(path, speed=1) != scores(path)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"devise": "phone"}, "the model knows nothing of 'devise'; it knows device, speed"),
        ({"device": 3}, "'device' is a text in this model, not '3"),
        ({"speed": "fast"}, "'speed' is a number in this model, not 'fast'"),
    ],
)
def test_what_the_model_does_not_know_is_refused(client: TestClient, attributes: Any, message: str) -> None:
    body = {"user_id": "u3", "context": {"attributes": attributes}}
    for path, more in (("/v1/recommend", {}), ("/v1/rank", {"candidates": ["i1"]})):
        answer = client.post(path, json=body | more)
        assert answer.status_code == 422 and message in answer.json()["detail"]


def test_a_model_without_context_says_so(tiny: Path, store: Store) -> None:
    """It takes a session and a time, which harm nothing."""
    with client_of(create_app(holder_of(tiny, store), store, clock=lambda: NOW)) as client:
        answer = client.post("/v1/recommend", json={"context": {"attributes": {"device": "phone"}}})
        assert answer.status_code == 422 and "knows nothing of 'device'" in answer.json()["detail"]
        assert client.post("/v1/recommend", json={"context": {"session_id": "s", "time": NOW}}).status_code == 200


def test_attributes_that_are_put_win_over_those_of_the_training_until_the_user_is_forgotten(
    client: TestClient, holder: ModelHolder, store: Store
) -> None:
    service = Service(holder, store, Metrics(lambda: "-"), None, clock=lambda: NOW)
    features = holder.snapshot.lookup.retriever.features

    def age() -> float:
        return float(served(service, {"user_id": "u3"})[0][0, features.names.index("user_age")])

    assert age() == 23
    put = client.put("/v1/users/u3", json={"attributes": {"age": 77, "shoe": "43"}})
    assert put.status_code == 200 and put.json()["unused"] == ["shoe"] and age() == 77
    wrong = client.put("/v1/users/u3", json={"attributes": {"age": "old"}})
    assert wrong.status_code == 422 and "'age' is a number in this model" in wrong.json()["detail"] and age() == 77
    client.delete("/v1/users/u3")
    assert age() == features.context.numbers["user_age"].usual


def test_events_keep_other_names_for_a_later_model_but_not_other_kinds(client: TestClient, store: Store) -> None:
    event = {"user_id": "u1", "item_id": "i1"}
    assert client.post("/v1/events", json={"events": [{**event, "attributes": {"os": "x"}}]}).status_code == 200
    assert store.history("u1", 1)[0].context == {"os": "x"}
    wrong = client.post("/v1/events", json={"events": [{**event, "attributes": {"device": 1}}]})
    assert wrong.status_code == 422 and "events.attributes: 'device' is a text" in wrong.json()["detail"]
    own = client.post("/v1/events", json={"events": [{**event, "attributes": {"value": 1}}]})
    assert own.status_code == 422 and "is a field of the event itself" in own.json()["detail"]


def test_the_export_has_context_and_attributes_as_columns(client: TestClient, store: Store, tmp_path: Path) -> None:
    """Of the types that the dataset has, where it has them; users are added where there were none."""
    users = "user_id,plan\nu1,free\nu2,free\n"
    shop = write_dataset(tmp_path / "shop", **{"users.csv": users})
    client.post("/v1/events", json={"events": [{**SINCE[1], "event_id": "e"}]})
    client.put("/v1/users/u2", json={"attributes": {"plan": "family", "age": 41}})
    client.put("/v1/users/new", json={"attributes": {"age": 7}})
    export(shop, store, tmp_path / "out")
    dataset = load_dataset(tmp_path / "out")
    last = dataset.events.collect().sort("timestamp").row(-1, named=True)
    assert (last["device"], last["speed"], last["session_id"]) == ("computer", 0.25, "s1-0")
    assert dataset.users is not None
    rows = sorted(dataset.users.select("user_id", "plan", "age").rows())
    assert rows == [("new", None, 7.0), ("u1", "free", None), ("u2", "family", 41.0)]


def test_lists_of_the_dataset_know_the_attributes_of_users(holder: ModelHolder) -> None:
    """As a request without context does; of users without events, too."""
    lookup, known = holder.snapshot.lookup, log(0)
    ranking = holder.snapshot.lookup.recommender.recommend(
        histories_of(lookup.recommender, known, [known.user_ids.index("u3")], NOW), RecommendOptions(ITEMS)
    )
    asked = lookup.recommender.recommend(lookup.histories([("u3", None)], NOW), RecommendOptions(ITEMS))
    np.testing.assert_array_equal(ranking.items, asked.items)
    np.testing.assert_allclose(ranking.score, asked.score, rtol=1e-5)
