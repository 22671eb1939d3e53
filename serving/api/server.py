"""One server process: one model, one store, one port.

In: the name of a model and an open store. Out: a process that answers until it is stopped.
"""

import gc
import logging
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from recsys.errors import RecsysError
from serving.api.access.headers import HeaderLimits
from serving.api.access.hosts import LOOPBACK
from serving.api.access.limits import Limits
from serving.api.app import create_app
from serving.api.live import ModelHolder
from serving.api.observe import JsonLines
from serving.store.store import Store
from serving.text.heads import TextHeads


def open_model(model: str, store: Store, keep_days: int | None = None) -> ModelHolder:
    """Load `model`, and freeze all loaded objects so that garbage collection skips them; see `ModelHolder`."""
    holder = ModelHolder(model, store, keep_days)
    # Collecting through a whole model would pause requests for 0.3 s now and then.
    gc.collect()
    gc.freeze()
    return holder


def run(
    holder: ModelHolder,
    store: Store,
    bound: socket.socket,
    *,
    host: str,
    limits: Limits,
    compared: ModelHolder | None = None,
    heads: TextHeads,
    metrics_files: Sequence[Path],
) -> None:
    """Serve on the socket `bound` to `host` until the process is stopped.

    The page shows the lists of `compared`, and `/metrics` what is in `metrics_files`, too.

    Raises:
        RecsysError: other machines could reach the server, and there is no key.
    """
    local = is_local(host, store)
    log_to_stderr()
    app = create_app(
        holder, store, compared=compared, limits=limits, local=local, heads=heads, metrics_files=metrics_files
    )
    server = Server(
        uvicorn.Config(app, http=HeaderLimits, log_level="warning", access_log=False, timeout_keep_alive=30),
        notice(host, bound.getsockname()[1], store),
    )
    server.run(sockets=[bound])


def is_local(host: str, store: Store) -> bool:
    """Return whether `host` can be reached from this machine only.

    Raises:
        RecsysError: other machines can reach it, and there is no key.
    """
    local = host in LOOPBACK
    if not local and not store.every_key():
        raise RecsysError(
            f"--host {host}: other machines could send requests without a key; create one with "
            f"`recsys keys add NAME --store {store.url.render_as_string(hide_password=True)}`, or listen on 127.0.0.1"
        )
    return local


def log_to_stderr() -> None:
    """Write the access log and changes of the model to stderr, a JSON object a line."""
    log = logging.getLogger("recsys")
    log.setLevel(logging.INFO)
    log.propagate = False  # a handler that a library gave the root logger would write every line twice
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    log.addHandler(handler)


def notice(host: str, port: int, store: Store) -> str:
    """Return the line that is printed once the port answers."""
    keys = "a key is needed" if store.every_key() else "no key is needed on this machine"
    return f"listening on http://{host}:{port}, a page to look at lists at /, documentation at /docs; {keys}"


class Server(uvicorn.Server):
    """A server that prints a notice once it listens."""

    def __init__(self, config: uvicorn.Config, notice: str) -> None:
        super().__init__(config)
        self.notice = notice

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        """Listen, then print the notice."""
        await super().startup(sockets)  # type: ignore[arg-type]
        if self.started:
            print(self.notice, flush=True)
