"""Parameters that several routes share."""

from typing import Annotated

from fastapi import Depends, Path, Request

from serving.api import schemas
from serving.api.workers import Workers

ItemId = Annotated[schemas.Id, Path(description="Id of an item of the catalogue.")]


async def _workers(request: Request) -> Workers:
    workers: Workers = request.app.state.workers
    return workers


ServiceWorkers = Annotated[Workers, Depends(_workers)]
"""The service of the application: `await workers.run(workers.service.search, body)`."""
