"""Micro-batches: requests that arrive while others are answered share one call of the model.

In: requests, one at a time. Out: their responses. Nothing waits for company: a request that finds a worker
free is answered at once, alone; those that arrive meanwhile are the next batch. Nothing waits for a worker beyond its deadline.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

from serving.api.refusals import BusyError

Request = TypeVar("Request")
Response = TypeVar("Response")

Work = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Runs a call in a worker thread."""


class MicroBatcher(Generic[Request, Response]):
    """Calls `answer` with the requests that wait, at most `size` in a call and `at_once` calls at a time.

    `answer` returns a response or an error for each request, in their order.
    """

    def __init__(
        self,
        work: Work,
        answer: Callable[[list[Request]], list[Response | Exception]],
        *,
        size: int,
        at_once: int,
    ) -> None:
        self._work, self._answer, self._size, self._free = work, answer, size, at_once
        self._waiting: list[tuple[Request, asyncio.Future[Response]]] = []
        self._running: set[asyncio.Task[None]] = set()

    async def __call__(self, request: Request, deadline: float = math.inf) -> Response:
        """Return the response to one request, or raise its error.

        Raises:
            BusyError: no worker was free before the `deadline`, which is a time of `time.monotonic`.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Response] = loop.create_future()
        self._waiting.append((request, future))
        self._start()
        if self._waiting and deadline < math.inf:
            timer = loop.call_later(max(0.0, deadline - time.monotonic()), self._give_up, request, future)
            future.add_done_callback(lambda _: timer.cancel())
        return await future

    def _give_up(self, request: Request, future: "asyncio.Future[Response]") -> None:
        """Have a request wait no longer, unless it is being answered."""
        if not future.done() and any(other is future for _, other in self._waiting):
            self._waiting = [(each, other) for each, other in self._waiting if other is not future]
            future.set_exception(BusyError(f"no worker was free in time; {len(self._waiting)} others wait"))

    def _start(self) -> None:
        if self._waiting and self._free:
            self._free -= 1
            batch, self._waiting = self._waiting[: self._size], self._waiting[self._size :]
            task = asyncio.create_task(self._run(batch))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _run(self, batch: list[tuple[Request, "asyncio.Future[Response]"]]) -> None:
        responses: list[Response | Exception]
        try:
            responses = await self._work(lambda: self._answer([request for request, _ in batch]))
        except Exception as error:
            responses = [error] * len(batch)
        self._free += 1
        self._start()
        for (_, future), response in zip(batch, responses, strict=True):
            if future.done():  # its caller went away
                continue
            if isinstance(response, Exception):
                future.set_exception(response)
            else:
                future.set_result(response)
