"""The API in several processes behind one port: `recsys serve --ray --replicas 4 --store postgresql://db/recsys`.

In: the name of a model, and a store that all machines reach. Out: the port of Ray Serve, and behind it
replicas of the one application, each with a model of its own that follows the alias. A replica that
dies is replaced; the others answer meanwhile.
"""

import logging
import os
import re
import signal
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from fastapi import FastAPI
from ray import cluster_resources, serve, shutdown
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from recsys.cluster import start_ray
from recsys.errors import RecsysError, UsageError
from serving.api.app import BATCH, create_app
from serving.api.guard import Limits
from serving.api.server import is_local, log_to_stderr, notice, open_model
from serving.store.store import Store

NAME = "recsys"
CHECKED_EVERY_S = 2.0
READY_S = 60.0
"""Time in which the port must answer once the replicas are up."""

QUIET = {"log_level": "ERROR", "enable_access_log": False}


@dataclass(frozen=True)
class Plan:
    """What every replica opens for itself."""

    model: str
    store: str
    limits: Limits
    local: bool = True
    batch: int = BATCH


@serve.ingress()
class Replica:
    """One process of the application, as Ray Serve starts it."""

    def __init__(self, plan: Plan) -> None:
        log_to_stderr()
        store = Store(plan.store)
        holder = open_model(plan.model, store)
        self._made = create_app(holder, store, limits=plan.limits, local=plan.local, batch=plan.batch)
        self._made.add_middleware(WithoutRequestId)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Return what answers; the guard stands before it, as in a process alone."""
        return self._made

    async def check_health(self) -> None:
        """Answer while the event loop runs; who does not is replaced.

        The store is left out: where it is away, requests say 503 until it is back, and new replicas
        could not even start.
        """


class WithoutRequestId:
    """Leaves the header with the request id to Ray's proxy, which always adds one."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""

        async def bare(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [pair for pair in message["headers"] if pair[0].lower() != b"x-request-id"]
            await send(message)

        await self.app(scope, receive, bare)


def run(plan: Plan, host: str, port: int, replicas: int) -> None:
    """Answer on `host` and `port` with that many replicas until the process is stopped.

    Raises:
        UsageError: the store is a file of one machine.
        RecsysError: other machines could ask without a key, the port is taken, the cluster is too small
            or serves already, or no replica came up.
    """
    if plan.store.startswith("sqlite"):
        raise UsageError(
            "--ray: the replicas share one store, and an SQLite file serves one machine alone; "
            "name a PostgreSQL database with --store postgresql://user@host/name"
        )
    store = Store(plan.store)
    plan = replace(plan, local=is_local(host, store))
    _check_port(host, port)
    with _ray_serve(host, port, replicas):
        _deploy(plan, replicas)
        _wait_until_ready(host, port)
        print(notice(host, port, store), flush=True)
        threading.Event().wait()


@contextmanager
def _ray_serve(host: str, port: int, replicas: int) -> Iterator[None]:
    """Have Ray Serve listen while the body runs, which Ctrl-C and SIGTERM end."""
    try:
        start_ray()
        _on_signals(signal.default_int_handler)  # instead of Ray's own
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        _check_cluster(replicas)
        serve.start(http_options={"host": host, "port": port, "keep_alive_timeout_s": 30}, logging_config=QUIET)
        try:
            yield
        finally:
            _on_signals(signal.SIG_IGN)
            serve.delete(NAME)  # the replicas write down what they have not
            if "RAY_ADDRESS" in os.environ:
                serve.shutdown()  # of a cluster of our own nothing is left anyway
    except KeyboardInterrupt:
        pass
    finally:
        shutdown()


def _on_signals(handler: Any) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)


def _deploy(plan: Plan, replicas: int) -> None:
    deployment = serve.deployment(
        Replica,
        name=NAME,
        num_replicas=replicas,
        ray_actor_options={"num_cpus": 1},
        # The guard refuses what is too much; Ray's own limit is out of its way.
        max_ongoing_requests=2 * plan.limits.waiting,
        health_check_period_s=CHECKED_EVERY_S,
        max_constructor_retry_count=2,  # of the first ones; later ones are tried for ever
        logging_config=QUIET,
    )
    try:
        serve.run(deployment.bind(plan), name=NAME)
    except RuntimeError as error:
        deployments = serve.status().applications[NAME].deployments.values()
        cause = _cause("\n".join(deployment.message for deployment in deployments) or str(error))
        raise RecsysError(f"no replica came up: {cause}") from error


def _check_port(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with closing(socket.socket(family)) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((host, port))
        except OSError as error:
            raise RecsysError(f"--host {host} --port {port}: {error.strerror}; name another") from error


def _check_cluster(replicas: int) -> None:
    cores = int(cluster_resources().get("CPU", 0))
    if replicas > cores:
        raise RecsysError(f"--replicas {replicas}: a replica needs a core, and there are {cores}; ask for fewer")
    others = serve.status().applications
    if others:
        raise RecsysError(
            f"the cluster of RAY_ADDRESS serves already ({', '.join(others)}); `serve shutdown` ends that"
        )


def _wait_until_ready(host: str, port: int) -> None:
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    url = f"http://[{reached}]:{port}/readyz" if ":" in reached else f"http://{reached}:{port}/readyz"
    last, end = "", time.monotonic() + READY_S
    while time.monotonic() < end:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError as error:
            last = str(error)
        time.sleep(0.1)
    raise RecsysError(f"{url} did not answer within {READY_S:g} s: {last}")


def _cause(trace: str) -> str:
    """Return the last line of a trace without the name of the error: what went wrong."""
    last = [line.strip() for line in trace.splitlines() if line.strip()][-1]
    return re.sub(r"^[\w.]+(Error|Exception): ", "", last)
