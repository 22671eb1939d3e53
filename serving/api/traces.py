"""Traces of requests by OpenTelemetry: request → user vectors → sources → features → ranker, and every statement of the store.

Imported only where `OTEL_EXPORTER_OTLP_ENDPOINT` or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` names a collector; all other settings are
OpenTelemetry's own variables. It wraps what is traced from outside, as OpenTelemetry's instrumentation of libraries does, so that
nothing else knows of it.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from typing import Any

from fastapi import FastAPI
from opentelemetry import context, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from wrapt import wrap_function_wrapper

from serving.api.access.callers import OPEN_PATHS
from serving.store.store import Store

Call = Callable[..., Any]
_contexts: dict[int, context.Context] = {}
"""Of requests that wait for a batch: the context in which each arrived."""


def exporting_provider() -> TracerProvider:
    """Return a provider that sends spans to the collector, in the background."""
    os.environ.setdefault("OTEL_SERVICE_NAME", "recsys")
    provider = TracerProvider(resource=Resource.create())
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def instrument(app: FastAPI, store: Store, provider: TracerProvider) -> None:
    """Have `app` and `store` make spans with `provider`, once in a process, before the app's workers are made.

    Spans have no ids of users and no values of statements.
    """
    tracer = provider.get_tracer("recsys")
    FastAPIInstrumentor.instrument_app(
        app, tracer_provider=provider, excluded_urls=",".join(OPEN_PATHS), exclude_spans=["receive", "send"]
    )
    # It asks for SQLAlchemy before 2.1, which a test shows to be too careful.
    SQLAlchemyInstrumentor().instrument(engine=store.engine, tracer_provider=provider, skip_dep_check=True)
    for name in ("run", "run_slowly"):
        wrap_function_wrapper("serving.api.workers", f"Workers.{name}", _in_the_same_context)
    wrap_function_wrapper("serving.api.batching", "MicroBatcher.__call__", _remember_context)
    for name in ("recommend_all", "rank_all"):
        wrap_function_wrapper("serving.api.service", f"Service.{name}", partial(_batch, tracer))
    for path, named in (
        ("Retriever.open", lambda *_: "user vectors"),
        ("Retriever._top", lambda batch, source, *_: f"source {source}"),
        ("Retriever.describe", lambda *_: "features"),
    ):
        wrap_function_wrapper("serving.retrieval.retriever", path, partial(_span, tracer, named))
    wrap_function_wrapper(
        "recsys.models.rankers.base", "Ranker.probabilities", partial(_span, tracer, lambda *_: "ranker")
    )


def _span(tracer: trace.Tracer, named: Call, wrapped: Call, instance: Any, args: Any, kwargs: Any) -> Any:
    with tracer.start_as_current_span(named(*args)):
        return wrapped(*args, **kwargs)


def _in_the_same_context(wrapped: Call, instance: Any, args: Any, kwargs: Any) -> Any:
    """Worker threads start without the context of whoever calls them."""
    call, *rest = args
    return wrapped(partial(copy_context().run, call), *rest, **kwargs)


def _remember_context(wrapped: Call, instance: Any, args: Any, kwargs: Any) -> Any:
    _contexts[id(args[0])] = context.get_current()
    return wrapped(*args, **kwargs)


def _batch(tracer: trace.Tracer, wrapped: Call, instance: Any, args: Any, kwargs: Any) -> Any:
    """Requests that are answered together have one span: a child of the first one's, with links to the others'."""
    contexts = [_contexts.pop(id(request), context.Context()) for request in args[0]]
    links = [trace.Link(trace.get_current_span(other).get_span_context()) for other in contexts[1:]]
    with _attached(contexts[0]), tracer.start_as_current_span("batch", links=links) as span:
        span.set_attribute("recsys.requests", len(contexts))
        return wrapped(*args, **kwargs)


@contextmanager
def _attached(to: context.Context) -> Iterator[None]:
    token = context.attach(to)
    try:
        yield
    finally:
        context.detach(token)
