"""The server process: one model, one store, one port.

In: a model's name and an open store. Out: a process that answers until it is told to stop.
"""

import gc
import logging
import sys

import uvicorn

from recsys.errors import RecsysError
from serving.api.app import create_app
from serving.api.guard import LOOPBACK, Limits
from serving.api.live import ModelHolder
from serving.store.store import Store


def open_model(model: str, store: Store) -> ModelHolder:
    """Load `model` and freeze what was loaded, so that garbage collection skips it."""
    holder = ModelHolder(model, store)
    # What is loaded stays: looking through all of it for garbage would hold up requests for 0.3 s now and then.
    gc.collect()
    gc.freeze()
    return holder


def run(holder: ModelHolder, store: Store, host: str, port: int, rate: int) -> None:
    """Answer on `host` and `port` until the process is stopped.

    Raises:
        RecsysError: other machines could reach it and there is no key.
    """
    local = is_local(host, store)
    log_to_stderr()
    app = create_app(holder, store, limits=Limits(per_second=rate), local=local)
    server = Server(
        uvicorn.Config(app, host=host, port=port, log_level="warning", access_log=False, timeout_keep_alive=30),
        notice(host, port, store),
    )
    server.run()


def is_local(host: str, store: Store) -> bool:
    """Return whether only this machine can reach `host`.

    Raises:
        RecsysError: others can, and there is no key.
    """
    local = host in LOOPBACK
    if not local and not store.every_key():
        raise RecsysError(
            f"--host {host}: other machines could ask without a key; make one with "
            f"`recsys keys add NAME --store {store.url.render_as_string(hide_password=True)}`, or listen on 127.0.0.1"
        )
    return local


def log_to_stderr() -> None:
    """Have requests and changes of the model logged."""
    log = logging.getLogger("recsys")
    log.setLevel(logging.INFO)
    log.propagate = False  # a library's handler of the root logger would write every line once more
    log.addHandler(logging.StreamHandler(sys.stderr))


def notice(host: str, port: int, store: Store) -> str:
    """Return what is printed as soon as the port answers."""
    keys = "no key is needed on this machine" if not store.every_key() else "a key is needed"
    return f"listening on http://{host}:{port}, documentation at /docs; {keys}"


class Server(uvicorn.Server):
    """A server that says when it listens, and not before."""

    def __init__(self, config: uvicorn.Config, notice: str) -> None:
        super().__init__(config)
        self.notice = notice

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        """Bind, then tell."""
        await super().startup(sockets)  # type: ignore[arg-type]
        if self.started:
            print(self.notice, flush=True)
