"""Bytes that the store needs for an event and for an answered list.

    python -m benchmarks.store_size
    python -m benchmarks.store_size postgresql://user@host/an_empty_database

In: the address of an empty database, by default SQLite in a temporary folder. Out: two figures, indexes and logs included.
"""

import random
import sys
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa

from serving.store.store import ImpressionList, Store, StoredEvent

BATCHES, EVENTS, LISTS, LENGTH = 100, 1000, 100, 20
START_US = 1_790_000_000_000_000
RANDOM = random.Random(0)


def main(url: str, size: Callable[[], int]) -> None:
    """Print the bytes an event and a list take in the store at `url`."""
    store = Store(url)
    empty = size()
    for batch in range(BATCHES):
        store.add_events([_event(START_US + EVENTS * batch + n) for n in range(EVENTS)])
    with_events = size()
    for batch in range(BATCHES):
        store.add_lists([_list(START_US + LISTS * batch + n) for n in range(LISTS)])
    print(f"an event: {(with_events - empty) / (BATCHES * EVENTS):.0f} bytes")
    print(f"a list of {LENGTH} items: {(size() - with_events) / (BATCHES * LISTS):.0f} bytes")


def _event(moment: int) -> StoredEvent:
    return StoredEvent(_id(), _name("u"), _name("i"), "click", moment, request_id=_id(), position=1)


def _list(moment: int) -> ImpressionList:
    items, scores = [_name("i") for _ in range(LENGTH)], [RANDOM.random() for _ in range(LENGTH)]
    return ImpressionList(_id(), _name("u"), moment, "models:/recsys/1", items, scores, [None] * LENGTH)


def _id() -> str:
    return uuid.UUID(int=RANDOM.getrandbits(128)).hex


def _name(letter: str) -> str:
    return f"{letter}{RANDOM.randrange(10_000):06d}"


def _size_in_postgres(url: str) -> int:
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.connect() as connection:
        bytes_used = int(connection.scalar(sa.text("SELECT pg_database_size(current_database())")) or 0)
    engine.dispose()
    return bytes_used


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(sys.argv[1], lambda: _size_in_postgres(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(
                f"sqlite:///{folder}/store.db",
                lambda: sum(path.stat().st_size for path in Path(folder).glob("store.db*")),
            )
