"""What clients are made from: names of operations, tags, parameters, and examples that are what they stand for."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from fastapi.testclient import TestClient

from serving.api.app import create_app
from serving.api.examples import ANSWERS
from serving.store.store import Store
from tests.serving.api.test_documented import ROUTES
from tests.worlds import client_of, holder_of

OPERATIONS = [
    "recommend",
    "rows",
    "rank",
    "search",
    "trending",
    "similar",
    "together",
    "audience",
    "add_events",
    "put_items",
    "delete_item",
    "put_user",
    "forget_user",
    "about_model",
    "reload_model",
    "list_scenarios",
    "get_scenario",
    "put_scenario",
    "delete_scenario",
    "switch_scenario",
    "preview_scenario",
    "answers",
    "healthz",
    "readyz",
    "metrics",
]
"""Names that generated clients take over, in the order of `ROUTES`: one that changes breaks programs."""
JSON = "application/json"


@pytest.fixture(scope="module")
def client(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """Return a client of an application with a store of its own."""
    store = Store(f"sqlite:///{tmp_path_factory.mktemp('openapi')}/store.db")
    with client_of(create_app(holder_of(tiny, store), store)) as opened:
        yield opened


@pytest.fixture(scope="module")
def document(client: TestClient) -> Any:
    """Return what `/openapi.json` says."""
    return client.get("/openapi.json").json()


def operations(document: Any) -> dict[str, Any]:
    """Return the operations by method and path."""
    return {
        f"{method.upper()} {path}": operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


def violations(document: Any, schema: Any, value: Any, in_full: bool = False) -> list[str]:
    """Return how `value` is not what `schema` says: also names that it does not have and, `in_full`, those that are missing."""
    parts = copy.deepcopy(document["components"]["schemas"])
    for part in parts.values():
        part.setdefault("additionalProperties", False)
        if in_full:
            part["required"] = list(part["properties"])
    whole = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "components": {"schemas": parts}}
    return [str(error) for error in jsonschema_rs.validator_for(whole).iter_errors(value)]


def test_operations_have_the_names_that_clients_know(document: Any) -> None:
    """All different; a rename is a decision."""
    names = {route: operation["operationId"] for route, operation in operations(document).items()}
    assert names == dict(zip(ROUTES, OPERATIONS, strict=True))


def test_operations_have_a_summary_and_a_tag_that_is_described(document: Any) -> None:
    """The documentation's parts are the modules of the routes."""
    described = {tag["name"] for tag in document["tags"] if tag["description"]}
    for operation in operations(document).values():
        assert operation["summary"].endswith(".") and "\n" not in operation["summary"]
        assert len(operation["tags"]) == 1
    assert {tag for operation in operations(document).values() for tag in operation["tags"]} == described


def test_parameters_are_described(document: Any) -> None:
    """Those of paths and of queries."""
    parameters = [
        parameter for operation in operations(document).values() for parameter in operation.get("parameters", [])
    ]
    assert parameters and all(parameter["description"] for parameter in parameters)


def test_only_probes_need_no_key(document: Any) -> None:
    """So that a generated client sends one."""
    open_ = [route for route, operation in operations(document).items() if not operation["security"]]
    assert open_ == ["GET /healthz", "GET /readyz"]


@pytest.mark.parametrize("route", ROUTES)
def test_examples_of_a_body_are_taken(client: TestClient, document: Any, route: str) -> None:
    """As the schema says, and by the server."""
    body = operations(document)[route].get("requestBody")
    if body is None:
        return
    schema = body["content"][JSON]["schema"]
    examples = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]["examples"]
    assert examples
    method, path = route.split()
    for example in examples:
        assert violations(document, schema, example) == []
        answer = client.request(method, path.format(item_id="i1", user_id="u1", name="home"), json=example)
        assert "errors" not in answer.json(), answer.text


@pytest.mark.parametrize("route", ROUTES)
def test_examples_of_answers_are_as_documented(document: Any, route: str) -> None:
    """Of every status, with every field, and every error of the one type."""
    for status, answer in operations(document)[route]["responses"].items():
        ((kind, content),) = answer["content"].items()
        assert violations(document, content["schema"], content["example"], in_full=status == "200") == []
        if status != "200":
            assert kind == "application/problem+json" and content["example"]["status"] == int(status)


def test_no_example_is_of_an_operation_that_is_gone() -> None:
    """Each is found by the operation's name."""
    assert set(ANSWERS) == set(OPERATIONS)
