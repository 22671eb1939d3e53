"""Requests that come while others are worked on, gathered into batches: one call of the model answers many.

In: requests, one at a time. Out: their answers. Nothing is waited for: a request that finds a worker
free is worked on at once, alone; those that come meanwhile are the next batch.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

Asked = TypeVar("Asked")
Answered = TypeVar("Answered")

Work = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Runs a call in a worker thread."""


class MicroBatcher(Generic[Asked, Answered]):
    """Calls `answer` with what is waiting, at most `most` requests in a call and `at_once` calls at a time.

    `answer` returns an answer or an error for each request, in their order.
    """

    def __init__(
        self, work: Work, answer: Callable[[list[Asked]], list[Answered | Exception]], most: int, at_once: int
    ) -> None:
        self._work, self._answer, self._most, self._free = work, answer, most, at_once
        self._waiting: list[tuple[Asked, asyncio.Future[Answered]]] = []
        self._running: set[asyncio.Task[None]] = set()

    async def __call__(self, asked: Asked) -> Answered:
        """Return the answer to one request, or raise its error."""
        future: asyncio.Future[Answered] = asyncio.get_running_loop().create_future()
        self._waiting.append((asked, future))
        self._start()
        return await future

    def _start(self) -> None:
        if self._waiting and self._free:
            self._free -= 1
            batch, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
            task = asyncio.create_task(self._run(batch))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _run(self, batch: list[tuple[Asked, "asyncio.Future[Answered]"]]) -> None:
        answers: list[Answered | Exception]
        try:
            answers = await self._work(lambda: self._answer([asked for asked, _ in batch]))
        except Exception as error:
            answers = [error] * len(batch)
        self._free += 1
        self._start()
        for (_, future), answer in zip(batch, answers, strict=True):
            if future.done():  # its caller went away
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)
