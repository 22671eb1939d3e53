"""Keeps requests quick while the same process loads a model or encodes items."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

USUAL_S = sys.getswitchinterval()
SHORT_S = 0.0002
"""Seconds after which Python's threads take turns, in place of its 0.005: a request needs some twenty turns, and may wait so long
for each. Not always, since it costs 5 % of the requests that a process can answer."""

_lock = threading.Lock()
_busy = 0


@contextmanager
def taking_turns() -> Iterator[None]:
    """Let other threads interrupt more often than usual while the body runs, in any number of threads at once."""
    _change(1)
    try:
        yield
    finally:
        _change(-1)


def _change(by: int) -> None:
    global _busy
    with _lock:
        _busy += by
        sys.setswitchinterval(SHORT_S if _busy else USUAL_S)
