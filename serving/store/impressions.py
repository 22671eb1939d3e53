"""The log of answered lists: written behind the answers, bounded, never in their way.

In: `ImpressionList`s. Out: rows of the store, from which `recsys data export` makes impressions.
"""

import logging
import queue
import threading
from collections.abc import Callable

from serving.store.store import ImpressionList, Store, StoreError

log = logging.getLogger("recsys.shown")

WRITTEN_AT_ONCE = 500
RETRY_S = 0.5
GATHERED_S = 0.2
"""Time in which lists come together before they are written in one go."""


class ImpressionLog:
    """A queue of lists and the thread that writes them; what does not fit is dropped and counted."""

    def __init__(self, store: Store, on_dropped: Callable[[], None], most: int = 10_000) -> None:
        self._store, self._on_dropped = store, on_dropped
        self._waiting: queue.Queue[ImpressionList] = queue.Queue(most)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def add(self, shown: ImpressionList) -> None:
        """Have `shown` written soon."""
        try:
            self._waiting.put_nowait(shown)
        except queue.Full:
            self._on_dropped()

    def close(self, timeout_s: float = 5.0) -> None:
        """Write what is waiting and end."""
        self._closing.set()
        self._thread.join(timeout_s)

    def _write(self) -> None:
        batch: list[ImpressionList] = []
        while not (self._closing.is_set() and not batch and self._waiting.empty()):
            batch += self._taken(WRITTEN_AT_ONCE - len(batch))
            try:
                self._store.add_lists(batch)
                batch = []
            except StoreError as error:
                log.warning("%d answered lists wait: %s", len(batch) + self._waiting.qsize(), error)
                if self._closing.wait(RETRY_S):
                    return

    def _taken(self, most: int) -> list[ImpressionList]:
        taken: list[ImpressionList] = []
        try:
            taken.append(self._waiting.get(timeout=RETRY_S))
            self._closing.wait(GATHERED_S)
            while len(taken) < most:
                taken.append(self._waiting.get_nowait())
        except queue.Empty:
            pass
        return taken
