"""The service for the event loop: every call of it runs in a worker thread.

Lists and rankings that wait at the same time are made together (`serving.api.batching`). What may take seconds has a lane of
its own, and so have probes: neither lists nor probes wait for a catalogue that is being encoded.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from serving.api import schemas
from serving.api.batching import MicroBatcher
from serving.api.refusals import BusyError
from serving.api.service import Service
from serving.store.store import StoreError

P = ParamSpec("P")
T = TypeVar("T")

THREADS = 4
"""Calls of the service that run at once; others wait."""
BATCH = 8
"""Lists made in one call of the model, where that many are waiting."""
BATCHES = 2
"""Batches of lists in progress: one reads the store while the other is in the model."""
RANK_BATCHES = 1
"""Batches of rankings in progress: most have all they need in the request, and two would share one interpreter."""
SLOW_WAITING = 8
"""Slow calls that wait for the one that runs; more are refused."""
PROBE_S = 1.0
"""Seconds within which the store has to answer a probe."""


class Workers:
    """The worker threads of a `service`."""

    def __init__(self, service: Service, batch: int = BATCH) -> None:
        """Up to `batch` lists are made in one call of the model."""
        self.service = service
        self._threads = ThreadPoolExecutor(THREADS, "recsys")
        self._slow, self._slow_calls = ThreadPoolExecutor(1, "recsys-slow"), 0
        self._probing = ThreadPoolExecutor(1, "recsys-probe")
        self._probe: asyncio.Future[None] | None = None
        alone = batch == 1
        self._recommend: MicroBatcher[schemas.RecommendRequest, schemas.RecommendResponse] = MicroBatcher(
            self.run, service.recommend_all, size=batch, at_once=THREADS if alone else BATCHES
        )
        self._rank: MicroBatcher[schemas.RankRequest, schemas.RecommendResponse] = MicroBatcher(
            self.run, service.rank_all, size=batch, at_once=THREADS if alone else RANK_BATCHES
        )

    async def recommend(self, request: schemas.RecommendRequest) -> schemas.RecommendResponse:
        """Return the list that was requested.

        Raises:
            BusyError: no worker was free before its deadline.
        """
        return await self._recommend(request, request.deadline(self.service.timeout_ms))

    async def rank(self, request: schemas.RankRequest) -> schemas.RecommendResponse:
        """Return the ranking that was requested; see `recommend`."""
        return await self._rank(request, request.deadline(self.service.timeout_ms))

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return the result of `call`, which runs in a worker thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(call, *args, **kwargs))

    async def run_slowly(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return the result of `call`, which may take seconds and waits for others of its kind.

        Raises:
            BusyError: too many others wait.
        """
        if self._slow_calls > SLOW_WAITING:
            raise BusyError(f"{self._slow_calls} changes of the catalogue or the model are in progress")
        self._slow_calls += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._slow, partial(call, *args, **kwargs))
        finally:
            self._slow_calls -= 1

    async def probe(self) -> None:
        """Return if the store answers; probes that come meanwhile share the answer.

        Raises:
            StoreError: it does not, or not in time.
        """
        if self._probe is None or self._probe.done():
            self._probe = asyncio.get_running_loop().run_in_executor(self._probing, self.service.store.ping)
        try:
            await asyncio.wait_for(asyncio.shield(self._probe), PROBE_S)
        except TimeoutError as error:
            raise StoreError(f"{self.service.store} does not answer within {PROBE_S:g} s") from error

    def close(self) -> None:
        """Wait for the calls that are running, and end the threads."""
        for threads in (self._threads, self._slow, self._probing):
            threads.shutdown()
