"""Routes about the model that serves."""

from fastapi import APIRouter

from serving.api import schemas
from serving.api.access.scopes import AdminRoute, ReadRoute
from serving.api.errors import NOT_LOADED
from serving.api.routes.dependencies import ServiceWorkers

router = APIRouter(prefix="/v1", tags=["model"], route_class=ReadRoute)
admin_router = APIRouter(prefix="/v1", tags=["model"], route_class=AdminRoute)


@router.get("/model")
async def about_model(workers: ServiceWorkers) -> schemas.ModelResponse:
    """Describe the model that serves now, and list newer ones that failed to load."""
    return workers.service.about_model()


@admin_router.post("/model/reload", responses=NOT_LOADED)
async def reload_model(workers: ServiceWorkers) -> schemas.ModelResponse:
    """Load the model that the alias points to now.

    The current model serves until the new one is ready.
    """
    await workers.run_slowly(workers.service.holder.reload, force=True)
    return workers.service.about_model()
