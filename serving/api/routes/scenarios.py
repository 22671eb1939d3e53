"""Routes about scenarios, the named kinds of list: what they say, which are on, and what they would list."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request

from serving.api import schemas
from serving.api.access.scopes import AdminRoute
from serving.api.errors import UNKNOWN_SCENARIO
from serving.api.routes.dependencies import ServiceWorkers
from serving.scenarios.definition import Name, Scenario

router = APIRouter(prefix="/v1/scenarios", tags=["scenarios"], route_class=AdminRoute)

ScenarioName = Annotated[Name, Path(description="Name of a scenario.")]


@router.get("")
async def list_scenarios(workers: ServiceWorkers) -> schemas.ScenariosResponse:
    """List all scenarios, and which of their versions are on."""
    return await workers.run(workers.service.scenarios.all)


@router.get("/{name}", responses=UNKNOWN_SCENARIO)
async def get_scenario(
    name: ScenarioName,
    workers: ServiceWorkers,
    version: Annotated[
        int | None, Query(ge=1, le=1_000_000, description="By default that which is on, else the latest.")
    ] = None,
) -> schemas.ScenarioVersion:
    """Describe a version of a scenario."""
    return await workers.run(workers.service.scenarios.get, name, version)


@router.put("/{name}")
async def put_scenario(name: ScenarioName, body: Scenario, workers: ServiceWorkers) -> schemas.ScenarioVersion:
    """Store a further version of a scenario.

    Lists are made by it as soon as it is switched on.
    """
    return await workers.run(workers.service.scenarios.put, name, body)


@router.post("/{name}/switch", responses=UNKNOWN_SCENARIO)
async def switch_scenario(
    name: ScenarioName, body: schemas.ScenarioSwitch, workers: ServiceWorkers
) -> schemas.ScenarioVersion:
    """Switch a version of a scenario on, the latest by default, or switch the scenario off.

    Every server follows within a second.
    """
    return await workers.run(workers.service.scenarios.switch, name, body)


@router.post("/{name}/preview", responses=UNKNOWN_SCENARIO)
async def preview_scenario(
    name: ScenarioName, body: schemas.PreviewRequest, workers: ServiceWorkers, request: Request
) -> schemas.RecommendResponse:
    """Make a list by a scenario that need not be on, or by a draft.

    The list is not kept.
    """
    return await workers.run(request.app.state.previews[0].preview_scenario, name, body)


@router.delete("/{name}", responses=UNKNOWN_SCENARIO)
async def delete_scenario(name: ScenarioName, workers: ServiceWorkers) -> schemas.DeletedScenario:
    """Delete a scenario with all its versions."""
    return await workers.run(workers.service.scenarios.delete, name)
