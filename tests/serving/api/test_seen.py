"""Which items a list leaves out because the user met them: all that is known of the user counts."""

from fastapi.testclient import TestClient

from serving.store.store import Store, StoredEvent
from tests.serving.api.conftest import NOW
from tests.worlds import DAY

LENGTH = 6
"""Events that the tiny model reads."""


def bought(store: Store, user: str, items: list[str]) -> None:
    """Store a purchase a day of `items`, oldest first."""
    store.add_events(
        [
            StoredEvent(f"{user}-{row}", user, item, "purchase", NOW - (len(items) - row) * DAY)
            for row, item in enumerate(items)
        ]
    )


def listed(client: TestClient, **body: object) -> list[str]:
    """Return the items of the longest list without seen ones."""
    answer = client.post("/v1/recommend", json={"k": 200, "exclude_seen": True, **body}).json()
    return [item["item_id"] for item in answer["items"]]


def test_nothing_bought_comes_back_however_long_ago(client: TestClient, store: Store) -> None:
    """The model reads a few events; the rule on seen items, all."""
    items = [f"i{row}" for row in range(3 * LENGTH)]
    bought(store, "collector", items)
    assert not set(items) & set(listed(client, user_id="collector"))
    assert set(listed(client, user_id="collector")) == {f"i{row}" for row in range(40)} - set(items)


def test_a_long_history_that_is_sent_is_left_out_as_a_whole(client: TestClient) -> None:
    items = [f"i{row}" for row in range(3 * LENGTH)]
    assert not set(items) & set(listed(client, history=items))


def test_events_on_unknown_items_do_not_hide_the_known_ones(client: TestClient, store: Store) -> None:
    """A user who only met new items lately is still the user of before."""
    bought(store, "loyal", ["i1", "i2", "i3"])
    body = {"user_id": "loyal", "k": 5, "exclude_seen": False}
    before = client.post("/v1/recommend", json=body).json()["items"]
    later = [StoredEvent(f"x{row}", "loyal", f"unknown-{row}", "click", NOW - DAY + 1 + row) for row in range(30)]
    store.add_events(later)
    assert client.post("/v1/recommend", json=body).json()["items"] == before
