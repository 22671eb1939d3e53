"""The HTTP API: `recsys serve --model models:/recsys@champion --store sqlite:///shop.db`.

In: JSON requests. Out: JSON answers; `GET /docs` shows them all. Routes only turn one into the other:
`serving.api.service` does the work, `serving.api.guard` stands before it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypeVar

from fastapi import FastAPI, Path, Query, Request, Response, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer

from recsys import __version__
from recsys.errors import RecsysError
from serving.api import schemas
from serving.api.batching import MicroBatcher
from serving.api.filters import FilterError
from serving.api.guard import RETRY_S, Guard, Limits
from serving.api.json_body import JsonRoute
from serving.api.keys import KeyRing
from serving.api.live import ModelHolder
from serving.api.metrics import Metrics
from serving.api.service import BadTimeError, Service, UnknownItemError, wall_clock
from serving.columns import UnfitError
from serving.store.impressions import ImpressionLog
from serving.store.store import Store, StoreError

T = TypeVar("T")

THREADS = 4
"""Requests that are worked on at once; others wait."""
BATCH = 8
"""Lists that are made in one call of the model, where as many are waiting."""
BATCHES = 2
"""Batches that are worked on at once: one reads the store while the other is in the model."""

MOST_PROBLEMS = 20
"""Problems of a body that an answer lists."""

ItemId = Annotated[schemas.Id, Path(description="An item of the catalogue.")]
UserId = Annotated[schemas.Id, Path(description="A user.")]
K = Annotated[int, Query(ge=1, le=schemas.MAX_K, description="Places of the list.")]

PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.Problem, "description": text}
    for status, text in {
        401: "No key, or one that is not in use.",
        403: "A key without the scope, or a host name that is not this machine's.",
        408: "The body did not come in time.",
        413: "The body is too long.",
        422: "Not what is asked for here; each problem says where.",
        429: "Too many requests; Retry-After says when to come again.",
        503: "The store is away or too much waits; Retry-After says when to come again.",
    }.items()
}
UNKNOWN: dict[int | str, dict[str, Any]] = {404: {"model": schemas.Problem, "description": "No such item."}}


def create_app(
    holder: ModelHolder,
    store: Store,
    clock: Callable[[], int] = wall_clock,
    limits: Limits = Limits(),  # noqa: B008  frozen
    local: bool = True,
    seed: int | None = None,
    batch: int = BATCH,
) -> FastAPI:
    """Return the application that answers from `holder` and `store`.

    `clock` is asked for the moment of each request where the dataset has a clock. `local` says that
    only this machine can reach the server, which then needs no key as long as none was made.
    Up to `batch` lists are made in one call of the model, where as many are waiting.
    """
    metrics = Metrics(lambda: holder.snapshot.name)
    shown = ImpressionLog(store, metrics.dropped.inc)
    service = Service(holder, store, metrics, shown, clock, seed)
    workers = ThreadPoolExecutor(THREADS, "recsys")

    async def work(task: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(workers, task)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        holder.watch()
        yield
        await asyncio.to_thread(_close, holder, shown, workers)

    app = FastAPI(
        title="recsys",
        version=__version__,
        description="Personalised recommendations from item texts and what users did.",
        lifespan=lifespan,
        responses=PROBLEMS,
        dependencies=[Security(HTTPBearer(auto_error=False, description="A key of `recsys keys add`."))],
    )
    app.add_middleware(Guard, keys=KeyRing(store), metrics=metrics, limits=limits, local=local)
    app.router.route_class = JsonRoute
    _explain_refusals(app)
    _add_lists(app, service, work, batch)
    _add_changes(app, service, work)
    _add_model(app, service, work)
    return app


def _close(holder: ModelHolder, shown: ImpressionLog, workers: ThreadPoolExecutor) -> None:
    holder.stop()
    workers.shutdown()
    shown.close()


def _add_lists(app: FastAPI, service: Service, work: Callable[[Callable[[], Any]], Any], batch: int) -> None:
    at_once = THREADS if batch == 1 else BATCHES
    recommended = MicroBatcher(work, service.recommend_all, size=batch, at_once=at_once)
    ranked = MicroBatcher(work, service.rank_all, size=batch, at_once=at_once)

    @app.post("/v1/recommend", tags=["lists"])
    async def recommend(body: schemas.RecommendRequest) -> schemas.RecommendResponse:
        """Return the k best items for a user, a history, a typed sentence, or (with none of them) anyone."""
        return await recommended(body)

    @app.post("/v1/rank", tags=["lists"])
    async def rank(body: schemas.RankRequest) -> schemas.RecommendResponse:
        """Return the candidates in order of value; those that the model lacks are listed apart."""
        return await ranked(body)

    @app.post("/v1/search", tags=["lists"])
    async def search(body: schemas.SearchRequest) -> schemas.RecommendResponse:
        """Return the items that a sentence asks for."""
        return await work(lambda: service.search(body))

    @app.get("/v1/items/{item_id:path}/similar", tags=["lists"], responses=UNKNOWN)
    async def similar(item_id: ItemId, k: K = 20) -> schemas.SimilarResponse:
        """Return the items nearest to one."""
        return await work(lambda: service.similar(item_id, k))


def _add_changes(app: FastAPI, service: Service, work: Callable[[Callable[[], Any]], Any]) -> None:
    @app.post("/v1/events", tags=["changes"])
    async def add_events(body: schemas.EventsRequest) -> schemas.EventsResponse:
        """Keep what users did. When this answers, the events are on disk and the next list knows them."""
        return await work(lambda: service.add_events(body))

    @app.put("/v1/items", tags=["changes"])
    async def put_items(body: schemas.ItemsRequest) -> schemas.ItemsResponse:
        """Add or replace items. When this answers, they can be recommended."""
        return await work(lambda: service.put_items(body))

    @app.delete("/v1/items/{item_id:path}", tags=["changes"], responses=UNKNOWN)
    async def delete_item(item_id: ItemId) -> schemas.ItemsResponse:
        """Take an item out of all lists."""
        return await work(lambda: service.delete_item(item_id))

    @app.delete("/v1/users/{user_id:path}", tags=["changes"])
    async def forget_user(user_id: UserId) -> schemas.ForgetUserResponse:
        """Delete a user's events and lists; models ignore what they were fitted on of the user."""
        return await work(lambda: service.forget_user(user_id))


def _add_model(app: FastAPI, service: Service, work: Callable[[Callable[[], Any]], Any]) -> None:
    @app.get("/v1/model", tags=["model"])
    async def about_model() -> schemas.ModelResponse:
        """Say what answers now, and which newer models were not taken."""
        return service.about_model()

    @app.post(
        "/v1/model/reload", tags=["model"], responses={409: {"model": schemas.Problem, "description": "Not taken."}}
    )
    async def reload() -> schemas.ModelResponse:
        """Load the model that the alias names now; the old one answers until the new one can."""
        await work(lambda: service.holder.reload(force=True))
        return service.about_model()

    @app.get("/healthz", tags=["process"])
    async def healthz() -> schemas.Health:
        """Say that the process is up."""
        return schemas.Health(status="ok")

    @app.get("/readyz", tags=["process"])
    async def readyz() -> schemas.Health:
        """Say that model and store can answer."""
        await work(service.store.ping)
        return schemas.Health(status="ok")

    @app.get("/metrics", tags=["process"], response_class=Response)
    async def metrics() -> Response:
        """Return the metrics for Prometheus."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")


def _explain_refusals(app: FastAPI) -> None:
    def refused(error: Exception, status: int, **headers: str) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, status_code=status, headers=headers)

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        # The default answer repeats what was sent, and fails where that is not text.
        problems = error.errors()[:MOST_PROBLEMS]
        if isinstance(error.body, bytes):
            problems = [{"type": "content_type", "loc": ["body"], "msg": "Send it as Content-Type: application/json"}]
        detail = [
            {"type": part["type"], "loc": part["loc"], "msg": f"Not JSON: {part['ctx']['error']}"}
            if part["type"] == "json_invalid"
            else {key: part[key] for key in ("type", "loc", "msg")}
            for part in problems
        ]
        return JSONResponse({"detail": detail}, status_code=422)

    @app.exception_handler(FilterError)
    @app.exception_handler(UnfitError)
    @app.exception_handler(BadTimeError)
    def unusable(request: Request, error: Exception) -> JSONResponse:
        return refused(error, 422)

    @app.exception_handler(UnknownItemError)
    def unknown(request: Request, error: UnknownItemError) -> JSONResponse:
        return refused(error, 404)

    @app.exception_handler(StoreError)
    def away(request: Request, error: StoreError) -> JSONResponse:
        return refused(error, 503, **{"Retry-After": str(RETRY_S)})

    @app.exception_handler(RecsysError)
    def not_taken(request: Request, error: RecsysError) -> JSONResponse:
        return refused(error, 409)
