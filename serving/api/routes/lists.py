"""Routes that answer with a list of items: recommendations, rankings, search, similar items."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from serving.api import schemas
from serving.api.access.scopes import AdminRoute, ReadRoute
from serving.api.answers import written
from serving.api.errors import UNKNOWN_ITEM, UNKNOWN_LIST
from serving.api.routes.dependencies import ItemId, ServiceWorkers

router = APIRouter(prefix="/v1", tags=["lists"], route_class=ReadRoute)
admin_router = APIRouter(prefix="/v1", tags=["lists"], route_class=AdminRoute)

K = Annotated[int, Query(ge=1, le=schemas.MAX_K, description="Number of items to return.")]


@router.post("/recommend", response_model=schemas.RecommendResponse, responses=UNKNOWN_LIST)
async def recommend(body: schemas.RecommendRequest, workers: ServiceWorkers) -> Response:
    """Recommend items for a user, a history or a query; without any of these, popular items.

    Items are sorted by score, best first.
    """
    return written(await workers.recommend(body))


@router.post("/rows")
async def rows(body: schemas.RowsRequest, workers: ServiceWorkers) -> schemas.RowsResponse:
    """Recommend a titled list for each of the last items that a user did something with.

    No item is in two of the lists.
    """
    return await workers.run(workers.service.rows, body)


@router.post("/rank", response_model=schemas.RecommendResponse)
async def rank(body: schemas.RankRequest, workers: ServiceWorkers) -> Response:
    """Sort candidate items by score, best first.

    Candidates that the catalogue does not contain are returned in `unknown_items`.
    """
    return written(await workers.rank(body))


@router.post("/search", response_model=schemas.RecommendResponse)
async def search(body: schemas.SearchRequest, workers: ServiceWorkers) -> Response:
    """Find the items that match a query best."""
    return written(await workers.run(workers.service.search, body))


@router.get("/trending")
async def trending(
    workers: ServiceWorkers,
    k: K = 20,
    category: Annotated[schemas.Word | None, Query(description="Only items of this category.")] = None,
) -> schemas.TrendingResponse:
    """List the items that have more events lately than their past makes expect, the strongest trend first.

    Events count within ten seconds.
    """
    return await workers.run(workers.service.trending, k, category)


@router.get("/items/{item_id:path}/similar", responses=UNKNOWN_ITEM)
async def similar(item_id: ItemId, workers: ServiceWorkers, k: K = 20) -> schemas.SimilarResponse:
    """List the items most similar to an item."""
    return await workers.run(workers.service.similar, item_id, k)


@router.get("/items/{item_id:path}/together", responses=UNKNOWN_ITEM)
async def together(item_id: ItemId, workers: ServiceWorkers, k: K = 20) -> schemas.TogetherResponse:
    """List the items that users most often meet together with an item."""
    return await workers.run(workers.service.together, item_id, k)


@admin_router.post("/items/{item_id:path}/audience", responses=UNKNOWN_ITEM)
async def audience(item_id: ItemId, body: schemas.AudienceRequest, workers: ServiceWorkers) -> schemas.AudienceResponse:
    """List the users who care most for an item, of those whom the model knows."""
    return await workers.run_slowly(workers.service.audience, item_id, body)
