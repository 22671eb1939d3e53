"""Both databases pass the same tests: SQLite always, PostgreSQL if RECSYS_TEST_POSTGRES names a server."""

import signal
import subprocess
import sys
import threading
import time
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


def listed(number: int, user: str | None = "u") -> ImpressionList:
    return ImpressionList(f"r{number}", user, number, "m/1", ["a", "b"], [0.5, 0.25], [None, 0.1])


def test_an_event_that_is_sent_twice_is_kept_once(store: Store) -> None:
    """Clients may send an event again if they got no response."""
    assert store.add_events([event(1), event(2)]) == 2
    assert store.add_events([replace(event(1), item_id="other"), event(3)]) == 1
    assert [kept.item_id for kept in store.every_event()] == ["i1", "i2", "i3"]


def test_a_history_is_the_latest_events_in_order_of_time(store: Store) -> None:
    """In whatever order they arrive; impressions and other users' events are left out."""
    store.add_events([event(5), event(1), event(3), event(4, kind="impression"), event(6, user="v")])
    store.add_events([event(2), replace(event(7), timestamp=5)])
    assert [kept.timestamp for kept in store.history("u", 10)] == [1, 2, 3, 5, 5]
    assert [kept.item_id for kept in store.history("u", 2)] == ["i5", "i7"]
    assert store.history("nobody", 5) == []


def test_every_field_of_an_event_comes_back(store: Store) -> None:
    """Text in any script too."""
    whole = StoredEvent("ø", "ユーザー", "i'); DROP TABLE events;--", "purchase", -5, 9.75, "s", "r", 3)
    store.add_events([whole])
    assert store.history("ユーザー", 1) == [whole]
    assert list(store.every_event()) == [whole]


def test_item_changes_are_read_from_a_number_on(store: Store) -> None:
    """Only the last change of an item is kept; a deleted item has no body."""
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


def test_lists_come_back_unchanged(store: Store) -> None:
    """Each once, even if it is added twice."""
    store.add_lists([listed(1), listed(2, None)])
    store.add_lists([listed(1)])
    store.add_lists([])
    assert list(store.every_list()) == [listed(1), listed(2, None)]


def test_of_a_forgotten_user_only_the_name_is_kept(store: Store) -> None:
    """Events that arrive after the deletion count again."""
    store.add_events([event(1), event(2, user="v")])
    store.add_lists([listed(1), listed(2, "v")])
    assert store.forget_user("u") == 2
    assert store.history("u", 5) == [] and store.forgotten_at("u") and store.forgotten_at("v") is None
    assert [impressions.user_id for impressions in store.every_list()] == ["v"]
    assert store.forget_user("u") == 0
    store.add_events([event(3)])
    assert len(store.history("u", 5)) == 1
    assert list(store.forgotten_users()) == ["u"]


def test_searches_from_which_a_user_chose_are_the_users_own(store: Store) -> None:
    """They are shown and deleted with the events that tell it, and go by age like other lists."""
    searches = [replace(listed(number, None), query=f"query {number}") for number in (1, 2, 3)]
    store.add_lists([*searches, listed(4, None)])
    chosen = [
        replace(event(number, user=user), request_id=f"r{number}") for number, user in ((1, "u"), (2, "v"), (4, "u"))
    ]
    store.add_events(chosen)
    assert [row["query"] for row in store.everything_of("u")["lists"]] == ["query 1"]
    assert store.forget_user("u") == 3
    assert [one.query for one in store.every_list()] == ["query 2", "query 3", None]
    store.prune(max(one.timestamp for one in searches) + 1)
    assert [one.request_id for one in store.every_list()] == ["r4"]


def test_a_list_that_waited_while_its_user_was_forgotten_stays_out(store: Store) -> None:
    """Also one of another server; a list of afterwards is kept, and so are those of others."""
    before = time.time_ns() // 1000
    store.forget_user("u")
    later = replace(listed(3), timestamp=time.time_ns() // 1000 + 1)
    store.add_lists([replace(listed(1), timestamp=before), listed(2, "v"), later, listed(4, None)])
    assert [impressions.request_id for impressions in store.every_list()] == ["r2", "r3", "r4"]
    store.forget_user("v")
    store.add_lists([listed(5, "v")])
    assert "r5" not in [impressions.request_id for impressions in store.every_list()]


def test_deletions_and_lists_that_are_written_meanwhile_leave_nothing_behind(store: Store) -> None:
    """Whichever comes first: a list of before the deletion is deleted with the others, or not written."""
    for number in range(20):
        one = replace(listed(number), timestamp=time.time_ns() // 1000)
        threads = [
            threading.Thread(target=store.add_lists, args=([one],)),
            threading.Thread(target=store.forget_user, args=("u",)),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not list(store.every_list())


def test_everything_of_a_user_is_shown(store: Store) -> None:
    """And nothing of others."""
    store.add_events([event(1), event(2, user="v")])
    store.add_lists([listed(1), listed(2, "v")])
    shown = store.everything_of("u")
    assert [row["event_id"] for row in shown["events"]] == ["e1"] and shown["lists"][0]["items"] == ["a", "b"]
    assert shown["forgotten_at"] is None and len(shown["lists"]) == 1
    nothing: dict[str, object] = {
        "user_id": "nobody",
        "forgotten_at": None,
        "attributes": {},
        "events": [],
        "lists": [],
    }
    assert store.everything_of("nobody") == nothing


def test_attributes_of_a_user_are_replaced_shown_and_forgotten(store: Store) -> None:
    """With the context of the user's events."""
    assert store.user_attributes("u") == {}
    store.add_events([StoredEvent("e1", "u", "a", "click", 1, context={"device": "phone", "speed": 2.5})])
    store.put_user("u", {"plan": "free", "age": 41})
    store.put_user("u", {"plan": "family"})
    store.put_user("v", {"plan": "free"})
    assert store.history("u", 5)[0].context == {"device": "phone", "speed": 2.5}
    assert store.everything_of("u")["attributes"] == {"plan": "family"}
    assert dict(store.every_user()) == {"u": {"plan": "family"}, "v": {"plan": "free"}}
    assert store.forget_user("u") == 2 and store.user_attributes("u") == {}


@pytest.mark.parametrize("rows_at_once", [2, 3, 10_000])
def test_pruning_deletes_older_events_and_lists(
    store: Store, rows_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Strictly before the given time, in whatever order they came, and however many at a time."""
    monkeypatch.setattr("serving.store.store.PAGE_ROWS", rows_at_once)
    assert store.prune(3) == (0, 0)
    store.add_events([event(number) for number in (4, 0, 3, 1, 2)])
    store.add_lists([listed(number) for number in range(5)])
    assert store.prune(3) == (3, 3)
    assert [kept.timestamp for kept in store.every_event()] == [4, 3]
    assert [kept.timestamp for kept in store.every_list()] == [3, 4]


def test_nothing_is_written_into_tables_that_a_newer_program_has_migrated(store: Store) -> None:
    """What was kept can be read, and the probe says why nothing is written."""
    store.add_events([event(1)])
    store.ping()
    with store.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE store_revision SET version_num = '9000'")
    for write in (store.ping, lambda: store.add_events([event(2)]), lambda: store.forget_user("u")):
        with pytest.raises(StoreError, match="migrated to revision 9000"):
            write()
    assert [kept.event_id for kept in store.history("u", 5)] == ["e1"]


def test_a_revoked_key_stays_revoked(store: Store) -> None:
    """It is still listed."""
    store.add_key(StoredKey("k1", "shop", "d", "read", 1, None))
    store.add_key(StoredKey("k2", "job", "d", "write", 2, None))
    assert store.revoke_key("k1") and not store.revoke_key("k1") and not store.revoke_key("k9")
    assert [(key.key_id, key.revoked is None) for key in store.every_key()] == [("k1", False), ("k2", True)]


def test_pages_of_an_export_miss_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the last page is full or not."""
    monkeypatch.setattr("serving.store.store.PAGE_ROWS", 3)
    for count in (6, 7):
        store.add_events([event(number) for number in range(count)])
        store.add_lists([listed(number) for number in range(count)])
        assert [kept.timestamp for kept in store.every_event()] == list(range(count))
        assert len(list(store.every_list())) == count


def test_many_writers_at_once_lose_nothing(url: str) -> None:
    """Two stores with connections of their own, each written by several threads."""
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


def test_acknowledged_events_survive_kill_9(url: str) -> None:
    """The writer prints each number after the store has acknowledged it, and is killed while it writes."""
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
def test_a_url_of_another_kind_is_refused_in_one_line(wrong: str) -> None:
    """The line has an example of a valid URL."""
    with pytest.raises(StoreError, match="sqlite:///") as raised:
        Store(wrong)
    assert "\n" not in str(raised.value)


def test_an_unreachable_store_is_one_line_without_the_password() -> None:
    """Neither a traceback nor a secret reaches the user."""
    with pytest.raises(StoreError) as raised:
        Store("postgresql://me:hunter2@127.0.0.1:9/none")
    assert "hunter2" not in str(raised.value) and "\n" not in str(raised.value)


def test_a_full_disk_is_an_error_and_harms_nothing(tmp_path: Path) -> None:
    """Once there is space again, the same store works again."""
    store = Store(f"sqlite:///{tmp_path}/store.db")
    store.add_events([event(1)])
    with store.engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()

    @sa.event.listens_for(store.engine, "begin")
    def fill(connection: sa.engine.Connection) -> None:
        connection.exec_driver_sql(f"PRAGMA max_page_count={limit}")

    limit = pages
    with pytest.raises(StoreError, match="full"):
        store.add_events([replace(event(number), session_id="x" * 900) for number in range(2, 200)])
    limit = 1_000_000
    assert [kept.event_id for kept in store.every_event()] == ["e1"]
    assert store.add_events([event(2)]) == 1
    store.close()


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(-(2**60), 2**60), st.sampled_from("uvw")), max_size=20),
    st.integers(1, 8),
)
def test_histories_equal_sorting_all_events(tmp_path: Path, rows: list[tuple[int, int, str]], length: int) -> None:
    """The first event of an id counts; events of the same time keep their order of arrival."""
    store = Store(f"sqlite:///{tmp_path}/{uuid.uuid4().hex}.db")
    kept: dict[str, StoredEvent] = {}
    for number, at, user in rows:
        made = event(number, user, at=at)
        store.add_events([made])
        kept.setdefault(made.event_id, made)
    for user in "uvw":
        of_user = [event for event in kept.values() if event.user_id == user]
        assert store.history(user, length) == sorted(of_user, key=lambda event: event.timestamp)[-length:]
    store.close()


def test_an_error_without_a_text_is_reported_by_its_class(tmp_path: Path) -> None:
    """A driver may raise one if a connection breaks."""
    store = Store(f"sqlite:///{tmp_path}/store.db")

    @sa.event.listens_for(store.engine, "begin", insert=True)
    def broken(connection: sa.engine.Connection) -> None:
        raise sa.exc.OperationalError("statement", {}, Exception(""))

    with pytest.raises(StoreError, match=r"store\.db: OperationalError; check"):
        store.add_events([event(1)])
    store.close()


def test_nothing_is_acknowledged_into_a_file_that_was_removed_or_replaced(tmp_path: Path) -> None:
    """Reads fail as well, so that the server is not ready."""
    path = tmp_path / "store.db"
    store = Store(f"sqlite:///{path}")
    store.add_events([event(1)])
    path.rename(tmp_path / "moved.db")
    for call in (store.ping, lambda: store.add_events([event(2)])):
        with pytest.raises(StoreError, match=r"store\.db: No such file"):
            call()
    Store(f"sqlite:///{path}").close()
    with pytest.raises(StoreError, match="was replaced while it was open"):
        store.add_events([event(3)])


def test_the_file_and_its_log_are_for_their_owner_alone(tmp_path: Path) -> None:
    """Whatever the mask of the process is."""
    store = Store(f"sqlite:///{tmp_path}/store.db")
    store.add_events([event(1)])
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {
        "store.db": 0o600, "store.db-wal": 0o600, "store.db-shm": 0o600,
    }  # fmt: skip


@pytest.mark.parametrize("url", ["mysql://me:secret@host/db", "postgresql://me:secret@host:port/db"])
def test_a_refused_url_is_named_without_its_password(url: str) -> None:
    """It may be printed by the command line."""
    with pytest.raises(StoreError) as raised:
        Store(url)
    assert "secret" not in str(raised.value) and "me:***@host" in str(raised.value)
