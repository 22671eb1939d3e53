"""The HTTP API: `recsys serve --model models:/recsys@champion --store sqlite:///shop.db`.

In: JSON requests. Out: JSON answers; `GET /docs` documents them all.

A request passes `observe` (request id, access log, metrics), `access` (keys, limits, hosts) and its
route in `routes`, which calls `service` in a worker thread (`workers`). `errors` says how errors are
answered.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Security
from fastapi.security import HTTPBearer
from fastapi_offline import FastAPIOffline
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from recsys import __version__
from serving.api.access.callers import IdentifyCaller
from serving.api.access.keys import KeyRing
from serving.api.access.limits import BodyLimits, Limits, RequestLimits
from serving.api.access.scopes import ReadRoute, protect_documentation
from serving.api.errors import HANDLERS, PROBLEMS
from serving.api.experiments import Experiments
from serving.api.live import ModelHolder
from serving.api.metrics import Metrics
from serving.api.observe import ObserveRequests
from serving.api.openapi import document
from serving.api.routes import ROUTERS, TAGS
from serving.api.service import Service, preview, wall_clock
from serving.api.workers import BATCH, Workers
from serving.store.impressions import ImpressionLog
from serving.store.store import Store
from serving.text.heads import TextHeads

METHODS, HEADERS = ("GET", "POST", "PUT", "DELETE"), ("Authorization", "Content-Type", "X-Request-ID")
"""What pages of other sites may send, where any may."""
log = logging.getLogger("recsys.app")

TRACED = {"OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"}
"""Variables by which OpenTelemetry's collector is named, where requests are to be traced."""
KEY = HTTPBearer(auto_error=False, description="A key made by `recsys keys add`.")
"""Documents the header; `IdentifyCaller` checks it."""


def create_app(
    holder: ModelHolder,
    store: Store,
    *,
    compared: ModelHolder | None = None,
    clock: Callable[[], int] = wall_clock,
    limits: Limits = Limits(),  # noqa: B008  frozen
    local: bool = True,
    seed: int | None = None,
    batch: int = BATCH,
    heads: TextHeads | None = None,
    metrics_files: Sequence[Path] = (),
) -> FastAPI:
    """Return the application that serves the model of `holder` and the events and items of `store`.

    The page at `/` shows the lists of `compared` beside them. `clock` returns the time of a request, for
    datasets that have a clock. `local` says that only this machine can reach the server, which then needs
    no key while none was created. `seed` makes exploration repeatable. Up to `batch` lists are made in one
    call of the model. `/metrics` shows what is in `metrics_files`, too.
    """
    heads = heads or TextHeads()
    metrics = Metrics(lambda: holder.snapshot.name, lambda: holder.failed, metrics_files)
    experiments = Experiments(store, holder, ModelHolder)
    impressions = ImpressionLog(store, metrics.dropped.inc)
    service = Service(holder, store, metrics, impressions, clock, seed, experiments, limits.timeout_ms, heads)
    app = FastAPIOffline(
        title="recsys",
        version=__version__,
        description="Personalised recommendations from item texts and user events. Errors are problem details (RFC 9457).",
        openapi_tags=TAGS,
        servers=[{"url": "/", "description": "The server from which this document comes."}],
        generate_unique_id_function=lambda route: route.name,
        lifespan=_lifespan,
        responses=PROBLEMS,
        dependencies=[Security(KEY)],
        exception_handlers=HANDLERS,
        middleware=[  # the first is the outermost
            *([Middleware(CORSMiddleware, limits.origins, METHODS, HEADERS)] if limits.origins else []),
            Middleware(ObserveRequests, metrics),
            Middleware(IdentifyCaller, keys=KeyRing(store), local=local, origins=limits.origins),
            Middleware(RequestLimits, limits),
            Middleware(BodyLimits, limits),
        ],
    )
    if TRACED & os.environ.keys():
        _trace(app, store)
    app.state.workers = Workers(service, batch)
    app.state.heads = heads
    app.state.previews = [preview(each, store, clock) for each in (holder, compared) if each]
    app.router.route_class = ReadRoute
    protect_documentation(app)
    for router in ROUTERS:
        app.include_router(router)
    document(app)
    return app


def _trace(app: FastAPI, store: Store) -> None:
    """Have requests traced; a collector that is named for all programs of a machine must not keep this one from serving."""
    try:
        from serving.api.traces import exporting_provider, instrument
    except ModuleNotFoundError as error:
        log.warning('requests are not traced: %s; `pip install "recsys-text[traces]"` brings what is missing', error)
        return
    instrument(app, store, exporting_provider())


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    workers: Workers = app.state.workers
    holders = [service.holder for service in app.state.previews]
    for holder in holders:
        holder.watch()
    workers.service.watch()
    yield
    await asyncio.to_thread(_close, workers, holders)


def _close(workers: Workers, holders: list[ModelHolder]) -> None:
    for holder in holders:
        holder.stop()
    workers.close()
    workers.service.close()
