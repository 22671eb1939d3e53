"""A store and a client that several tests of the API share; a file with others of its own takes those."""

from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from serving.api.app import create_app
from serving.api.schemas import Problem
from serving.store.store import Store
from tests.worlds import client_of, holder_of

NOW = 1_702_000_000_000_000


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Return an empty store."""
    opened = Store(f"sqlite:///{tmp_path}/store.db")
    yield opened
    opened.close()


@pytest.fixture
def client(tiny: Path, store: Store) -> Iterator[TestClient]:
    """Return a client of an application whose clock always shows `NOW`."""
    with client_of(create_app(holder_of(tiny, store), store, clock=lambda: NOW)) as opened:
        yield opened


def problem_of(answer: Any) -> Any:
    """Return the body of an answer that is problem details (RFC 9457), whichever part of the API refused the request."""
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    Problem.model_validate(problem, strict=True, extra="forbid")
    assert (problem["type"], problem["status"]) == ("about:blank", answer.status_code)
    assert problem["title"] == HTTPStatus(answer.status_code).phrase and problem["detail"]
    assert problem["instance"] == answer.headers["X-Request-ID"]
    return problem
