"""What the documentation at `/openapi.json` says beyond what FastAPI finds in the routes.

A route's operation id is the name of its function, from which generated clients take theirs: a rename breaks their users.
"""

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema

from serving.api import schemas
from serving.api.access.callers import OPEN_PATHS
from serving.api.examples import ANSWERS


def document(app: FastAPI) -> None:
    """Have `app`, whose routes are complete, describe itself in full."""
    app.openapi = _described_by(app, app.openapi)  # type: ignore[method-assign]


def _described_by(app: FastAPI, usual: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            _complete(usual())  # which FastAPI keeps
        assert app.openapi_schema is not None
        return app.openapi_schema

    return described


def _complete(document: dict[str, Any]) -> None:
    """Add the schema of problems, summaries and examples, and which paths need no key."""
    _, problems = models_json_schema([(schemas.Problem, "serialization")], ref_template="#/components/schemas/{model}")
    document["components"]["schemas"] |= problems["$defs"]
    for path, operations in document["paths"].items():
        for operation in operations.values():
            operation["summary"], _, operation["description"] = operation["description"].partition("\n\n")
            for content in operation["responses"]["200"]["content"].values():
                content["example"] = ANSWERS.get(operation["operationId"])
            if path in OPEN_PATHS:
                operation["security"] = []
