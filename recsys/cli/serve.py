"""`recsys serve`: the HTTP API, in one process or in several."""

import os
import re
import socket
from pathlib import Path
from typing import Any

import click

from recsys.cli.common import MODEL, STORE, File
from recsys.errors import RecsysError, UsageError


def _origins(ctx: click.Context, option: click.Parameter, origins: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse what browsers would never send as an `Origin`, since nothing would be allowed by it."""
    for origin in origins:
        if not re.fullmatch(r"https?://[a-z0-9.-]+(:\d+)?", origin):
            raise click.BadParameter(f"{origin} is no origin; write it as https://shop.example, without a path")
    return origins


@click.command()
@MODEL
@STORE
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(1, 65535), help="Port to listen on.")
@click.option(
    "--rate", default=1000, show_default=True, type=click.IntRange(1), help="Requests per second, per key and process."
)
@click.option(
    "--timeout-ms",
    default=300,
    show_default=True,
    type=click.IntRange(1),
    help="After so long, a list goes out without what has not begun; requests may say otherwise.",
)
@click.option(
    "--allow-origin",
    "origins",
    multiple=True,
    callback=_origins,
    metavar="ORIGIN",
    help="Site whose pages may call the API from a browser, such as https://shop.example; can be repeated.",
)
@click.option(
    "--keep-days",
    type=click.IntRange(1),
    help="Delete older events and lists, and older item changes that the model knows, every hour.  [default: keep all]",
)
@click.option(
    "--compare",
    metavar="MODEL",
    help="A second model, whose lists the page at / shows beside those of the first; takes as much memory again.",
)
@click.option("--answers", metavar="MODEL", help="A text head by which POST /v1/answers answers questions.")
@click.option(
    "--answer-base",
    type=File,
    help="File of questions and answers for --answers, read again when it changes.  [default: those of its training]",
)
@click.option(
    "--attributes",
    metavar="MODEL",
    help="A text head that reads the attributes of items that are put, as `recsys text extract` does.",
)
@click.option(
    "--opinion",
    metavar="MODEL",
    help="A text head that reads the opinion of events with a text, as `recsys text score` does, for models that rank by it.",
)
@click.option(
    "--metrics",
    "metrics_files",
    type=File,
    multiple=True,
    help="File that `recsys monitor` or `recsys text monitor` writes by --metrics, which GET /metrics shows, too; can be repeated.",
)
@click.option("--ray", is_flag=True, help="Serve from several processes or machines; needs PostgreSQL as the store.")
@click.option(
    "--replicas", type=click.IntRange(1), help="Processes under --ray, each with its own model.  [default: 2]"
)
def serve(
    *,
    model: str,
    store: str,
    host: str,
    port: int,
    rate: int,
    timeout_ms: int,
    origins: tuple[str, ...],
    keep_days: int | None,
    compare: str | None,
    answers: str | None,
    answer_base: Path | None,
    attributes: str | None,
    opinion: str | None,
    metrics_files: tuple[Path, ...],
    ray: bool,
    replicas: int | None,
) -> None:
    """Serve recommendations, search, events and items over HTTP.

    The page at / shows lists with their reasons; GET /docs documents the API.

    Without keys, only this machine can be served. When the alias of the model moves, the new version
    is loaded while the old one goes on serving.

    \b
    Examples:
      recsys serve --port 8000
      recsys keys add shop --scope read --scope write
      recsys serve --host 0.0.0.0 --store postgresql://recsys@db/recsys --keep-days 365
      recsys serve --compare models:/recsys/1
      recsys serve --answers models:/answers@champion --answer-base faq.jsonl
      recsys serve --attributes models:/attributes@champion
      recsys serve --opinion models:/sentiment@champion
      recsys serve --metrics opinion.prom
      recsys serve --allow-origin https://shop.example
      recsys serve --ray --replicas 4 --store postgresql://recsys@db/recsys
    """
    allowed: dict[str, Any] = {"per_second": rate, "timeout_ms": timeout_ms, "origins": origins}
    if answer_base and not answers:
        raise UsageError(f"--answer-base {answer_base}: name a text head that finds answers, too: --answers MODEL")
    base = answer_base and answer_base.absolute()
    metrics_files = tuple(path.absolute() for path in metrics_files)
    heads = {"answers": answers, "answer_base": base, "attributes": attributes, "opinion": opinion}
    if ray and compare:
        raise UsageError("--compare: one process compares models; leave --ray out")
    if ray:
        _serve_replicas(
            model,
            store,
            allowed,
            host=host,
            port=port,
            keep_days=keep_days,
            replicas=replicas or 2,
            heads=heads,
            metrics_files=metrics_files,
        )
    elif replicas:
        raise UsageError(f"--replicas {replicas}: several processes need --ray")
    else:
        _serve_alone(
            model,
            store,
            allowed,
            host=host,
            port=port,
            keep_days=keep_days,
            compare=compare,
            heads=heads,
            metrics_files=metrics_files,
        )


def _serve_alone(
    model: str,
    store: str,
    allowed: dict[str, Any],
    *,
    host: str,
    port: int,
    keep_days: int | None,
    compare: str | None,
    heads: dict[str, Any],
    metrics_files: tuple[Path, ...],
) -> None:
    # Requests run in parallel; threads within each would only wait for one another.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    bound = _bind(host, port)  # a port that is taken is refused before anything is loaded
    from recsys.progress import stage
    from recsys.registry import bundle_folder, resolve
    from serving.api.access.limits import Limits
    from serving.api.server import open_model, run
    from serving.store.store import Store
    from serving.text.heads import HeadNames, TextHeads

    with stage(f"loading {model}"):
        for name in filter(None, (model, compare)):
            bundle_folder(resolve(name))  # a wrong name is refused before a store is made
        opened = Store(store)
        holder = open_model(model, opened, keep_days)
        compared = open_model(compare, opened) if compare else None
        loaded = TextHeads.load(HeadNames(**heads))
    run(
        holder,
        opened,
        bound,
        host=host,
        limits=Limits(**allowed),
        compared=compared,
        heads=loaded,
        metrics_files=metrics_files,
    )


def _bind(host: str, port: int) -> socket.socket:
    """Return a socket at an address, which does not listen yet.

    Raises:
        RecsysError: the port is taken, or the address is none of this machine.
    """
    try:
        family, kind, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        raise RecsysError(f"--host {host} --port {port}: {error.strerror or error}; choose another --port") from error
    return bound


def _serve_replicas(
    model: str,
    store: str,
    allowed: dict[str, Any],
    *,
    host: str,
    port: int,
    keep_days: int | None,
    replicas: int,
    heads: dict[str, Any],
    metrics_files: tuple[Path, ...],
) -> None:
    from recsys.registry import bundle_folder, resolve
    from serving.api.access.limits import Limits
    from serving.api.replicas import Plan, run
    from serving.text.heads import HeadNames

    bundle_folder(resolve(model))  # a wrong name is refused before Ray starts
    if ":/" not in model:
        model = str(Path(model).absolute())
    plan = Plan(
        model, store, Limits(**allowed), keep_days=keep_days, heads=HeadNames(**heads), metrics_files=metrics_files
    )
    run(plan, host=host, port=port, replicas=replicas)
