"""Load on an address of this machine: requests at a fixed rate, or as many as are answered.

In: a port and ready requests. Out: milliseconds of each answer, or answers a second.
"""

import http.client
import json
import threading
import time
from collections.abc import Callable
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

Request = tuple[str, str, bytes]
"""Method, path, body."""


class Caller:
    """One connection that is kept open."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def __call__(self, request: Request) -> Any:
        """Send `request` and return the answer's JSON.

        Raises:
            RuntimeError: the status is not 200.
        """
        method, path, body = request
        self._connection.request(method, path, body, {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{method} {path}: {answer.status} {content[:200]!r}")
        return content

    def json(self, method: str, path: str, body: Any = None) -> Any:
        """Send `body` as JSON and return what the answer's JSON stands for."""
        return json.loads(self((method, path, b"" if body is None else json.dumps(body).encode())))


def at_rate(
    port: int,
    requests: list[Request],
    per_second: float,
    seconds: float,
    callers: int = 8,
    on_failure: Callable[[Exception], object] | None = None,
) -> NDArray[Any]:
    """Send requests at even moments and return the milliseconds from each moment to its answer.

    A request that waits for a slow one before it counts its waiting. A failure ends all, unless `on_failure` takes it; its
    time is NaN.
    """
    total = int(per_second * seconds)
    start, number, taken = time.perf_counter() + 0.1, count(), np.full(total, np.nan)

    def work() -> None:
        call = Caller(port)
        while (index := next(number)) < total:
            moment = start + index / per_second
            time.sleep(max(moment - time.perf_counter(), 0))
            try:
                call(requests[index % len(requests)])
                taken[index] = 1000 * (time.perf_counter() - moment)
            except (OSError, http.client.HTTPException, RuntimeError) as error:
                if on_failure is None:
                    raise
                on_failure(error)
                call = Caller(port)

    _together(work, callers)
    return taken


def as_many(port: int, requests: list[Request], seconds: float, callers: int = 4) -> float:
    """Send requests one after another on each of `callers` connections and return the answers a second."""
    start, number = time.perf_counter(), count()

    def work() -> None:
        call = Caller(port)
        while time.perf_counter() - start < seconds:
            call(requests[next(number) % len(requests)])

    _together(work, callers)
    return next(number) / (time.perf_counter() - start)


def _together(work: Callable[[], None], threads: int) -> None:
    failures: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    running = [threading.Thread(target=guarded) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    if failures:
        raise failures[0]


def wait_until_ready(port: int, seconds: float = 120) -> None:
    """Return when the server on `port` is ready.

    Raises:
        OSError: it is not by then.
    """
    until = time.monotonic() + seconds
    while True:
        try:
            Caller(port)(("GET", "/readyz", b""))
            return
        except (OSError, http.client.HTTPException, RuntimeError):
            if time.monotonic() > until:
                raise
            time.sleep(0.2)
