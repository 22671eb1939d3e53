"""Routes that change what the store knows: events, items, users."""

from typing import Annotated

from fastapi import APIRouter, Path

from serving.api import schemas
from serving.api.access.scopes import WriteRoute
from serving.api.errors import UNKNOWN_ITEM
from serving.api.routes.dependencies import ItemId, ServiceWorkers

router = APIRouter(prefix="/v1", tags=["changes"], route_class=WriteRoute)

UserId = Annotated[schemas.Id, Path(description="Id of a user.")]


@router.post("/events")
async def add_events(body: schemas.EventsRequest, workers: ServiceWorkers) -> schemas.EventsResponse:
    """Store user events.

    When this returns, the events are on disk, and the user's next list takes them into account.
    """
    return await workers.run(workers.service.changes.add_events, body)


@router.put("/items")
async def put_items(body: schemas.ItemsRequest, workers: ServiceWorkers) -> schemas.ItemsResponse:
    """Add or replace items.

    When this returns, the items can be recommended.
    """
    return await workers.run_slowly(workers.service.changes.put_items, body)


@router.delete("/items/{item_id:path}", responses=UNKNOWN_ITEM)
async def delete_item(item_id: ItemId, workers: ServiceWorkers) -> schemas.ItemsResponse:
    """Remove an item from all future lists.

    Users' histories keep it.
    """
    return await workers.run_slowly(workers.service.changes.delete_item, item_id)


@router.put("/users/{user_id:path}")
async def put_user(user_id: UserId, body: schemas.UserRequest, workers: ServiceWorkers) -> schemas.UserResponse:
    """Set a user's attributes, in place of those that were set before.

    The user's next list takes them into account.
    """
    return await workers.run(workers.service.changes.put_user, user_id, body)


@router.delete("/users/{user_id:path}")
async def forget_user(user_id: UserId, workers: ServiceWorkers) -> schemas.ForgetUserResponse:
    """Delete a user's events, attributes and logged lists.

    Models that were trained on the user's events ignore them from then on.
    """
    return await workers.run(workers.service.changes.forget_user, user_id)
