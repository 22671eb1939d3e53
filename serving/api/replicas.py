"""The API in several processes behind one port: `recsys serve --ray --replicas 4 --store postgresql://db/recsys`.

In: the name of a model, and a store that all machines can reach. Out: a port of Ray Serve with several
replicas of the application behind it. Each replica loads the model for itself and follows the alias. A
replica that dies is replaced while the others answer. Folders and files that only this machine has are sent to the others.
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
from contextlib import ExitStack, closing, contextmanager
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from ray import cluster_resources, serve, shutdown
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from recsys.cluster import Sent, machine_cores, send, start_ray
from recsys.errors import RecsysError, UsageError
from recsys.names import OWN_DATABASE, OWN_STORE
from serving.api.access.limits import Limits
from serving.api.app import create_app
from serving.api.server import is_local, log_to_stderr, notice, open_model
from serving.api.workers import BATCH
from serving.store.store import Store
from serving.text.heads import HeadNames, TextHeads

NAME = "recsys"
HEALTH_CHECK_S = 2.0
"""Seconds between two health checks of a replica."""
READY_S = 60.0
"""Seconds within which the port must answer once the replicas have started."""
LOCAL_STORES = ("sqlite:", "file:", "/", ".")
"""Beginnings of `MLFLOW_TRACKING_URI` that name a file."""

QUIET = {"log_level": "ERROR", "enable_access_log": False}


@dataclass(frozen=True)
class Plan:
    """What each replica loads and opens."""

    model: str
    store: str
    limits: Limits
    local: bool = True
    batch: int = BATCH
    keep_days: int | None = None
    heads: HeadNames = HeadNames()  # noqa: RUF009  frozen
    metrics_files: tuple[Path, ...] = ()
    sent: dict[str, Sent] = field(default_factory=dict)
    """The folders and files among these, by their path on the machine that sent them."""

    @property
    def named(self) -> list[str]:
        """The models and files that a replica loads."""
        return [str(name) for name in (self.model, *astuple(self.heads)) if name]

    def at(self, paths: dict[str, Path]) -> "Plan":
        """Return the same with other paths for some."""
        heads = {name: value and type(value)(paths.get(str(value), value)) for name, value in vars(self.heads).items()}
        return replace(self, model=str(paths.get(self.model, self.model)), heads=HeadNames(**heads))


@serve.ingress()
class Replica:
    """One process of the application, as Ray Serve starts it."""

    def __init__(self, plan: Plan) -> None:
        log_to_stderr()
        with ExitStack() as stack:
            plan = plan.at({path: stack.enter_context(sent.here()) for path, sent in plan.sent.items()})
            self._files = stack.pop_all()  # what is loaded maps some of them
        store = Store(plan.store)
        holder = open_model(plan.model, store, plan.keep_days)
        self._app = create_app(
            holder,
            store,
            limits=plan.limits,
            local=plan.local,
            batch=plan.batch,
            heads=TextHeads.load(plan.heads),
            metrics_files=plan.metrics_files,
        )
        self._app.add_middleware(WithoutRequestId)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Return the application, the same as in a single process."""
        return self._app

    async def check_health(self) -> None:
        """Return while the event loop runs; a replica that does not is replaced.

        The store is not checked: while it is unavailable, requests are answered with 503, and a new
        replica could not even start.
        """


class WithoutRequestId:
    """Middleware: removes the header with the request id, since Ray's proxy always adds one."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""

        async def send_without_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [pair for pair in message["headers"] if pair[0].lower() != b"x-request-id"]
            await send(message)

        await self.app(scope, receive, send_without_id)


def run(plan: Plan, *, host: str, port: int, replicas: int) -> None:
    """Serve on `host` and `port` with that many replicas until the process is stopped.

    Raises:
        UsageError: the store is a file, which other machines cannot reach.
        RecsysError: other machines could send requests without a key, the port is in use, the cluster
            has too few cores, cannot reach a model or serves already, or no replica started.
    """
    if plan.store.startswith("sqlite"):
        raise UsageError(
            "--ray: the replicas share one store, but an SQLite file can be used on one machine only; "
            "name a PostgreSQL database with --store postgresql://user@host/name"
        )
    store = Store(plan.store)
    plan = replace(plan, local=is_local(host, store))
    _check_port(host, port)
    with _ray_serve(host, port, replicas):
        _check_reach(plan, len(machine_cores()))
        _deploy(replace(plan, sent={name: send(Path(name)) for name in plan.named if ":/" not in name}), replicas)
        _wait_until_ready(host, port)
        print(notice(host, port, store), flush=True)
        threading.Event().wait()


@contextmanager
def _ray_serve(host: str, port: int, replicas: int) -> Iterator[None]:
    """Run Ray Serve while the body runs; Ctrl-C and SIGTERM end both."""
    try:
        start_ray()
        _on_signals(signal.default_int_handler)  # replaces Ray's handlers
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        _check_cluster(replicas)
        serve.start(http_options={"host": host, "port": port, "keep_alive_timeout_s": 30}, logging_config=QUIET)
        try:
            yield
        finally:
            _on_signals(signal.SIG_IGN)
            serve.delete(NAME)  # the replicas write what is still in their queues
            if "RAY_ADDRESS" in os.environ:
                serve.shutdown()  # a cluster that was started here ends by itself
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
        # `access.limits` refuses excess requests; Ray's own limit must be higher than that.
        max_ongoing_requests=2 * plan.limits.waiting,
        health_check_period_s=HEALTH_CHECK_S,
        max_constructor_retry_count=2,  # of the first replicas; later ones are retried without end
        logging_config=QUIET,
    )
    try:
        serve.run(deployment.bind(plan), name=NAME)
    except RuntimeError as error:
        deployments = serve.status().applications[NAME].deployments.values()
        cause = _cause("\n".join(deployment.message for deployment in deployments) or str(error))
        raise RecsysError(f"no replica started: {cause}") from error


def _check_port(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with closing(socket.socket(family)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise RecsysError(f"--host {host} --port {port}: {error.strerror}; name another") from error


def _check_cluster(replicas: int) -> None:
    cores = int(cluster_resources().get("CPU", 0))
    if replicas > cores:
        raise RecsysError(f"--replicas {replicas}: each replica needs a core, and there are {cores}; name fewer")
    others = serve.status().applications
    if others:
        raise RecsysError(
            f"the cluster of RAY_ADDRESS serves already ({', '.join(others)}); `serve shutdown` ends that"
        )


def _check_reach(plan: Plan, machines: int) -> None:
    """Raise RecsysError if a model is registered where only this one of several machines can read it."""
    registered = [name for name in plan.named if ":/" in name]
    where = str(OWN_DATABASE) if OWN_STORE else os.environ["MLFLOW_TRACKING_URI"]
    if machines > 1 and registered and (OWN_STORE or where.startswith(LOCAL_STORES)):
        raise RecsysError(
            f"the cluster of RAY_ADDRESS has {machines} machines, and {registered[0]} is in {where} of this one; "
            "set MLFLOW_TRACKING_URI to an MLflow server, or name a folder"
        )


def _wait_until_ready(host: str, port: int) -> None:
    address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    url = f"http://[{address}]:{port}/readyz" if ":" in address else f"http://{address}:{port}/readyz"
    last, deadline = "", time.monotonic() + READY_S
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError as error:
            last = str(error)
        time.sleep(0.1)
    raise RecsysError(f"{url} did not answer within {READY_S:g} s: {last}")


def _cause(trace: str) -> str:
    """Return the message of the error at the end of a traceback."""
    last = [line.strip() for line in trace.splitlines() if line.strip()][-1]
    return re.sub(r"^[\w.]+(Error|Exception): ", "", last)
