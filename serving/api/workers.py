"""The service for the event loop: every call of it runs in a worker thread.

Lists and rankings that wait at the same time are made together (`serving.api.batching`).
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from serving.api import schemas
from serving.api.batching import MicroBatcher
from serving.api.service import Service

P = ParamSpec("P")
T = TypeVar("T")

THREADS = 4
"""Calls of the service that run at once; others wait."""
BATCH = 8
"""Lists made in one call of the model, where that many are waiting."""
BATCHES = 2
"""Batches in progress: one reads the store while the other is in the model."""


class Workers:
    """The worker threads of a `service`."""

    def __init__(self, service: Service, batch: int = BATCH) -> None:
        """Up to `batch` lists are made in one call of the model."""
        self.service = service
        self._threads = ThreadPoolExecutor(THREADS, "recsys")
        at_once = THREADS if batch == 1 else BATCHES
        self.recommend: MicroBatcher[schemas.RecommendRequest, schemas.RecommendResponse] = MicroBatcher(
            self.run, service.recommend_all, size=batch, at_once=at_once
        )
        self.rank: MicroBatcher[schemas.RankRequest, schemas.RecommendResponse] = MicroBatcher(
            self.run, service.rank_all, size=batch, at_once=at_once
        )

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return the result of `call`, which runs in a worker thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(call, *args, **kwargs))

    def close(self) -> None:
        """Wait for the calls that are running, and end the threads."""
        self._threads.shutdown()
