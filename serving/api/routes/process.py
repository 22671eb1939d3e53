"""Routes about the server process: health and metrics."""

from fastapi import APIRouter, Response

from serving.api import schemas
from serving.api.access.scopes import ReadRoute
from serving.api.routes.dependencies import ServiceWorkers

open_router = APIRouter(tags=["process"])
"""Needs no key: see `access.callers.OPEN_PATHS`."""
router = APIRouter(tags=["process"], route_class=ReadRoute)


@open_router.get("/healthz")
async def healthz() -> schemas.Health:
    """Report that the process is running."""
    return schemas.Health(status="ok")


@open_router.get("/readyz")
async def readyz(workers: ServiceWorkers) -> schemas.Readiness:
    """Report that the model is loaded and the store is reachable, and which newer models could not be loaded."""
    await workers.probe()
    return schemas.Readiness(status="ok", failed=list(workers.service.holder.failed))


@router.get(
    "/metrics", response_class=Response, responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}
)
async def metrics(workers: ServiceWorkers) -> Response:
    """Return the metrics in the text format of Prometheus."""
    return Response(workers.service.metrics.text(), media_type="text/plain; version=0.0.4")
