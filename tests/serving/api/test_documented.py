"""Every answer is one that the documentation lists, whatever is sent."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from serving.api.access.keys import create_key
from serving.api.access.limits import Limits
from serving.api.app import create_app
from serving.store.store import Store
from tests.serving.api.conftest import problem_of
from tests.worlds import holder_of, listening

EXAMPLES = 30
"""Requests per route and kind: valid ones and invalid ones."""

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
ROUTES = [
    "POST /v1/recommend",
    "POST /v1/rows",
    "POST /v1/rank",
    "POST /v1/search",
    "GET /v1/trending",
    "GET /v1/items/{item_id}/similar",
    "GET /v1/items/{item_id}/together",
    "POST /v1/items/{item_id}/audience",
    "POST /v1/events",
    "PUT /v1/items",
    "DELETE /v1/items/{item_id}",
    "PUT /v1/users/{user_id}",
    "DELETE /v1/users/{user_id}",
    "GET /v1/model",
    "POST /v1/model/reload",
    "GET /v1/scenarios",
    "GET /v1/scenarios/{name}",
    "PUT /v1/scenarios/{name}",
    "DELETE /v1/scenarios/{name}",
    "POST /v1/scenarios/{name}/switch",
    "POST /v1/scenarios/{name}/preview",
    "POST /v1/answers",
    "GET /healthz",
    "GET /readyz",
    "GET /metrics",
]


@pytest.fixture(scope="module")
def app(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    """Return an application with a store of its own."""
    store = Store(f"sqlite:///{tmp_path_factory.mktemp('documented')}/store.db")
    return create_app(holder_of(tiny, store), store)


@pytest.fixture(scope="module")
def url(app: FastAPI) -> Iterator[str]:
    """Return the address of the application, which listens on this machine."""
    with listening(app) as address:
        yield address


def test_every_route_is_in_the_list_of_tested_routes(app: FastAPI) -> None:
    """A new route belongs into `ROUTES`."""
    assert [f"{method.upper()} {path}" for path, verbs in app.openapi()["paths"].items() for method in verbs] == ROUTES


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("route", ROUTES)
def test_every_answer_is_documented(url: str, route: str, mode: GenerationMode) -> None:
    """Its status, content type, headers and body; none is a server error."""
    operation = schemathesis.openapi.from_url(f"{url}/openapi.json").find_operation_by_label(route)
    assert operation is not None
    if mode is GenerationMode.NEGATIVE and not (operation.body or operation.path_parameters):
        pytest.skip("a request without parameters cannot be invalid")

    @settings(max_examples=EXAMPLES, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(operation.as_strategy(generation_mode=mode))
    def answers(case: Any) -> None:
        case.call_and_validate(checks=CHECKS)

    answers()


async def refused(app: FastAPI, route: str, host: str = "localhost") -> int:
    """Send a body in two parts to a route, and return the status of the answer, which gives a reason."""
    method, path = route.split()

    async def parts() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(0.1)
        yield b"}"

    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}") as client:
        answer = await client.request(method, path.format(item_id="i", user_id="u", name="n"), content=parts())
    problem_of(answer)
    return answer.status_code


@pytest.mark.parametrize("route", [route for route in ROUTES if route not in ("GET /healthz", "GET /readyz")])
def test_every_refusal_by_keys_limits_or_hosts_is_documented(tiny: Path, tmp_path: Path, route: str) -> None:
    """For all routes but the probes, which are never refused."""
    store = Store(f"sqlite:///{tmp_path}/store.db")
    holder = holder_of(tiny, store)
    method, path = route.split()
    documented = create_app(holder, store).openapi()["paths"][path][method.lower()]["responses"]
    limits = {
        408: Limits(body_s=0.01),
        413: Limits(body_bytes=1),
        429: Limits(per_second=0),
        503: Limits(waiting=0),
    }
    statuses = {
        status: asyncio.run(refused(create_app(holder, store, limits=most), route)) for status, most in limits.items()
    }
    statuses[403] = asyncio.run(refused(create_app(holder, store), route, host="elsewhere"))
    create_key(store, "none", ())
    statuses[401] = asyncio.run(refused(create_app(holder, store), route))
    assert list(statuses) == list(statuses.values())
    assert {str(status) for status in statuses} <= set(documented)
