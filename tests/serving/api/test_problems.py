"""Every error is problem details (RFC 9457), whichever part of the API answers it."""

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from recsys.errors import RecsysError
from serving.api.app import create_app
from serving.store.store import Store
from tests.serving.api.conftest import problem_of
from tests.worlds import client_of, holder_of


@pytest.fixture(scope="module")
def client(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> TestClient:
    """Return a client of an application with an empty store."""
    store = Store(f"sqlite:///{tmp_path_factory.mktemp('problems')}/store.db")
    return client_of(create_app(holder_of(tiny, store), store))


JSON = {"content-type": "application/json"}

ERRORS: list[tuple[int, str, str, dict[str, Any]]] = [
    (403, "GET", "/v1/model", {"headers": {"host": "elsewhere"}}),
    (404, "GET", "/nothing", {}),
    (404, "GET", "/page/nothing", {}),
    (404, "GET", "/static-offline-docs/nothing", {}),
    (404, "GET", "/v1/items/nothing/similar", {}),
    (404, "GET", "/v1/scenarios/nothing", {}),
    (404, "POST", "/v1/recommend", {"json": {"after": "nothing"}}),
    (405, "GET", "/v1/recommend", {}),
    (409, "POST", "/v1/model/reload", {}),
    (422, "GET", "/v1/trending?k=0", {}),
    (422, "POST", "/v1/recommend", {"json": {"k": 0}}),
    (422, "POST", "/v1/recommend", {"json": {"scenario": "nothing"}}),
    (422, "POST", "/v1/recommend", {"json": {"filters": {"attributes": {"nothing": 1}}}}),
    (422, "POST", "/v1/recommend", {"json": {"context": {"attributes": {"nothing": 1}}}}),
    (422, "POST", "/v1/recommend", {"content": b"{", "headers": JSON}),
    (422, "POST", "/v1/recommend", {"content": b"{}", "headers": {"content-type": "text/plain"}}),
]


@pytest.mark.parametrize(("status", "method", "path", "request_"), ERRORS, ids=str)
def test_an_error_is_problem_details(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, status: int, method: str, path: str, request_: dict[str, Any]
) -> None:
    """Of one shape, with the id of the request; those of keys and limits are asked for in test_documented.py."""
    monkeypatch.setattr("serving.api.live.ModelHolder.reload", _not_loaded)
    answer = client.request(method, path, **request_)
    assert answer.status_code == status
    problem_of(answer)


def _not_loaded(*args: Any, **options: Any) -> None:
    raise RecsysError("not a bundle")


def test_problems_of_a_body_are_listed_and_the_first_is_the_detail(client: TestClient) -> None:
    """Each with its place, what is wrong, and a word for it."""
    problem = problem_of(client.post("/v1/recommend", json={"k": 0, "diversity": 7}))
    assert problem["errors"] == [
        {"loc": ["body", "k"], "msg": "Input should be greater than or equal to 1", "type": "greater_than_equal"},
        {"loc": ["body", "diversity"], "msg": "Input should be less than or equal to 1", "type": "less_than_equal"},
    ]
    assert problem["detail"] == "2 problems; the first is body.k: Input should be greater than or equal to 1"
    problem = problem_of(client.post("/v1/recommend", json={"like": ["i1"], "history": ["i2"]}))
    assert problem["detail"].startswith("body: like and history are both there") and len(problem["errors"]) == 1


def test_an_error_of_no_body_lists_nothing(client: TestClient) -> None:
    """The detail says all."""
    assert "errors" not in problem_of(client.get("/v1/items/nothing/similar"))


def test_a_long_name_is_not_repeated_in_full(client: TestClient) -> None:
    """An answer may be shorter than what was sent."""
    assert len(client.post("/v1/recommend", json={"x" * 100_000: 1}).content) < 1000


def test_what_is_not_allowed_names_what_is(client: TestClient) -> None:
    """Headers of errors are kept."""
    assert client.get("/v1/recommend").headers["Allow"] == "POST"
