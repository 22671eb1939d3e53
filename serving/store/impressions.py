"""Writes the lists that were returned to clients, in the background, so that responses don't wait for the store.

In: `ImpressionList`s. Out: rows of the store, from which `recsys data export` makes impressions.
"""

import logging
import queue
import threading
from collections.abc import Callable

from serving.store.store import ImpressionList, Store, StoreError

log = logging.getLogger("recsys.impressions")

WRITE_LISTS = 500
"""Lists that one transaction writes at most."""
RETRY_S = 0.5
COLLECT_S = 0.2
"""Seconds to wait for further lists before a transaction."""


class ImpressionLog:
    """A queue of lists, and a thread that writes them to the store. A list that does not fit is dropped."""

    def __init__(self, store: Store, on_dropped: Callable[[], None], *, capacity: int = 10_000) -> None:
        """Start the thread. `on_dropped` is called once per dropped list."""
        self._store, self._on_dropped = store, on_dropped
        self._queue: queue.Queue[ImpressionList] = queue.Queue(capacity)
        self._waiting: dict[str, ImpressionList] = {}
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def add(self, impressions: ImpressionList) -> None:
        """Put the list into the queue; never blocks."""
        self._waiting[impressions.request_id] = impressions
        try:
            self._queue.put_nowait(impressions)
        except queue.Full:
            del self._waiting[impressions.request_id]
            self._on_dropped()

    def list_of(self, request_id: str) -> ImpressionList | None:
        """Return the list that answered a request, also where it waits to be written; None where there is none.

        Raises:
            StoreError: the store cannot be read.
        """
        return self._waiting.get(request_id) or self._store.list_of(request_id)

    def close(self, timeout_s: float = 5.0) -> None:
        """Write the lists in the queue and stop the thread; give up after `timeout_s` seconds."""
        self._closing.set()
        self._thread.join(timeout_s)

    def _write(self) -> None:
        batch: list[ImpressionList] = []
        while not (self._closing.is_set() and not batch and self._queue.empty()):
            batch += self._next_lists(WRITE_LISTS - len(batch))
            try:
                self._store.add_lists(batch)
                for written in batch:
                    self._waiting.pop(written.request_id, None)
                batch = []
            except StoreError as error:
                log.warning("%d lists are waiting to be written: %s", len(batch) + self._queue.qsize(), error)
                if self._closing.wait(RETRY_S):
                    return

    def _next_lists(self, limit: int) -> list[ImpressionList]:
        """Return up to `limit` lists from the queue; none if none arrives within `RETRY_S`."""
        lists: list[ImpressionList] = []
        try:
            lists.append(self._queue.get(timeout=RETRY_S))
            self._closing.wait(COLLECT_S)
            while len(lists) < limit:
                lists.append(self._queue.get_nowait())
        except queue.Empty:
            pass
        return lists
