"""Every store passes the same suite: SQLite always, PostgreSQL where RECSYS_TEST_POSTGRES names a server."""

import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.store.store import ImpressionList, Store, StoredEvent, StoredKey, StoreError


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    """Return an empty store."""
    opened = Store(url)
    yield opened
    opened.close()


def event(number: int, user: str = "u", kind: str = "click", at: int | None = None) -> StoredEvent:
    return StoredEvent(f"e{number}", user, f"i{number}", kind, number if at is None else at)


def shown(number: int, user: str | None = "u") -> ImpressionList:
    return ImpressionList(f"r{number}", user, number, "m/1", ["a", "b"], [0.5, 0.25], [None, 0.1])


def test_an_event_that_is_sent_twice_is_kept_once(store: Store) -> None:
    """Clients may repeat what they are not sure of."""
    assert store.add_events([event(1), event(2)]) == 2
    assert store.add_events([replace(event(1), item_id="other"), event(3)]) == 1
    assert [kept.item_id for kept in store.every_event()] == ["i1", "i2", "i3"]


def test_a_history_is_the_latest_events_in_order_of_time(store: Store) -> None:
    """Whatever the order of arrival; impressions and other users are left out."""
    store.add_events([event(5), event(1), event(3), event(4, kind="impression"), event(6, user="v")])
    store.add_events([event(2), replace(event(7), timestamp=5)])
    assert [kept.timestamp for kept in store.history("u", 10)] == [1, 2, 3, 5, 5]
    assert [kept.item_id for kept in store.history("u", 2)] == ["i5", "i7"]
    assert store.history("nobody", 5) == []


def test_every_field_of_an_event_comes_back(store: Store) -> None:
    """Text of any script as well."""
    whole = StoredEvent("ø", "ユーザー", "i'); DROP TABLE events;--", "purchase", -5, 9.75, "s", "r", 3)
    store.add_events([whole])
    assert store.history("ユーザー", 1) == [whole]
    assert list(store.every_event()) == [whole]


def test_item_changes_are_read_from_where_one_stopped(store: Store) -> None:
    """The last change of an item stands for all; a deleted one has no body."""
    first = store.change_items([("a", {"title": "A"}), ("b", {"title": "B", "tags": ["x"]})])
    assert [(change.item_id, change.body) for change in store.item_changes()] == [
        ("a", {"title": "A"}),
        ("b", {"title": "B", "tags": ["x"]}),
    ]
    assert store.item_changes(first) == []
    second = store.change_items([("a", None)])
    assert second > first
    assert [(change.item_id, change.body) for change in store.item_changes(first)] == [("a", None)]
    assert [change.item_id for change in store.item_changes()] == ["b", "a"]
    third = store.change_items([("a", {"title": "again"})])
    assert third > second


def test_lists_come_back_as_they_were_shown(store: Store) -> None:
    """Once each."""
    store.add_lists([shown(1), shown(2, None)])
    store.add_lists([shown(1)])
    store.add_lists([])
    assert sorted(store.every_list(), key=lambda one: one.request_id) == [shown(1), shown(2, None)]


def test_a_forgotten_user_leaves_nothing_but_the_wish(store: Store) -> None:
    """New events after the deletion count again."""
    store.add_events([event(1), event(2, user="v")])
    store.add_lists([shown(1), shown(2, "v")])
    assert store.forget_user("u") == 2
    assert store.history("u", 5) == [] and store.is_forgotten("u") and not store.is_forgotten("v")
    assert [one.user_id for one in store.every_list()] == ["v"]
    assert store.forget_user("u") == 0
    store.add_events([event(3)])
    assert len(store.history("u", 5)) == 1
    assert store.forgotten_users() == ["u"]


def test_pruning_deletes_what_is_older(store: Store) -> None:
    """Strictly before the time that is named."""
    store.add_events([event(number) for number in range(5)])
    store.add_lists([shown(number) for number in range(5)])
    assert store.prune(3) == (3, 3)
    assert [kept.timestamp for kept in store.every_event()] == [3, 4]


def test_a_revoked_key_stays_revoked(store: Store) -> None:
    """And is still listed."""
    store.add_key(StoredKey("k1", "shop", "d", "read", 1, None))
    store.add_key(StoredKey("k2", "job", "d", "write", 2, None))
    assert store.revoke_key("k1") and not store.revoke_key("k1") and not store.revoke_key("k9")
    assert [(key.key_id, key.revoked is None) for key in store.every_key()] == [("k1", False), ("k2", True)]


def test_pages_of_an_export_miss_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether or not the last page is full."""
    monkeypatch.setattr("serving.store.store.PAGE_ROWS", 3)
    for count in (6, 7):
        store.add_events([event(number) for number in range(count)])
        store.add_lists([shown(number) for number in range(count)])
        assert [kept.timestamp for kept in store.every_event()] == list(range(count))
        assert len(list(store.every_list())) == count


def test_many_writers_at_once_lose_nothing(url: str) -> None:
    """Two processes' worth of connections, each with threads."""
    stores = [Store(url), Store(url)]

    def write(worker: int) -> None:
        for number in range(10):
            stores[worker % 2].add_events([event(100 * worker + number, user=f"u{worker}")])
            stores[worker % 2].change_items([(f"i{number}", {"title": str(worker)})])

    threads = [threading.Thread(target=write, args=(worker,)) for worker in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(stores[0].every_event())) == 60
    assert len(stores[1].item_changes()) == 10
    for store in stores:
        store.close()


def test_what_was_acknowledged_survives_kill_9(url: str) -> None:
    """The writer prints each number after the store took it, and is killed in the middle."""
    program = (
        "import sys; from serving.store.store import Store, StoredEvent\n"
        "store = Store(sys.argv[1])\n"
        "for n in range(10**6):\n"
        "    store.add_events([StoredEvent(f'e{n}', 'u', 'i', 'click', n)]); print(n, flush=True)\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", program, url], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    acknowledged = [int(writer.stdout.readline()) for _ in range(20)][-1]
    writer.send_signal(signal.SIGKILL)
    acknowledged = max([acknowledged, *(int(line) for line in writer.stdout.read().split())])
    writer.wait()
    store = Store(url)
    assert {kept.timestamp for kept in store.every_event()} >= set(range(acknowledged + 1))
    assert store.add_events([event(-1)]) == 1
    store.close()


@pytest.mark.parametrize("wrong", ["mysql://host/db", "sqlite://", "sqlite:///:memory:", "no url"])
def test_a_url_of_another_kind_is_one_clear_line(wrong: str) -> None:
    """With an example of a right one."""
    with pytest.raises(StoreError, match="sqlite:///") as raised:
        Store(wrong)
    assert "\n" not in str(raised.value)


def test_a_store_that_is_away_says_so_and_hides_the_password() -> None:
    """One line, no traceback, no secret."""
    with pytest.raises(StoreError) as raised:
        Store("postgresql://me:hunter2@127.0.0.1:9/none")
    assert "hunter2" not in str(raised.value) and "\n" not in str(raised.value)


def test_a_full_disk_is_an_error_and_harms_nothing(tmp_path: Path) -> None:
    """When there is space again the same store goes on."""
    store = Store(f"sqlite:///{tmp_path}/store.db")
    store.add_events([event(1)])
    with store._engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()

    @sa.event.listens_for(store._engine, "begin")
    def fill(connection: sa.engine.Connection) -> None:
        connection.exec_driver_sql(f"PRAGMA max_page_count={limit}")

    limit = pages
    with pytest.raises(StoreError, match="full"):
        store.add_events([replace(event(number), session_id="x" * 900) for number in range(2, 200)])
    limit = 1_000_000
    assert [kept.event_id for kept in store.every_event()] == ["e1"]
    assert store.add_events([event(2)]) == 1
    store.close()


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(-(2**60), 2**60), st.sampled_from("uvw")), max_size=20),
    st.integers(1, 8),
)
def test_histories_equal_sorting_all_events(tmp_path: Path, rows: list[tuple[int, int, str]], length: int) -> None:
    """The first event of an id counts; ties stand in order of arrival."""
    store = Store(f"sqlite:///{tmp_path}/{uuid.uuid4().hex}.db")
    kept: dict[str, StoredEvent] = {}
    for number, at, user in rows:
        made = event(number, user, at=at)
        store.add_events([made])
        kept.setdefault(made.event_id, made)
    for user in "uvw":
        wanted = sorted((one for one in kept.values() if one.user_id == user), key=lambda one: one.timestamp)
        assert store.history(user, length) == wanted[-length:]
    store.close()


def test_an_error_without_a_text_is_named_by_its_kind(tmp_path: Path) -> None:
    """A driver may raise one when a connection breaks."""
    store = Store(f"sqlite:///{tmp_path}/store.db")

    @sa.event.listens_for(store._engine, "begin", insert=True)
    def broken(connection: sa.engine.Connection) -> None:
        raise sa.exc.OperationalError("statement", {}, Exception(""))

    with pytest.raises(StoreError, match=r"store\.db: OperationalError; check"):
        store.add_events([event(1)])
    store.close()
