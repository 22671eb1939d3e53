"""Tiny worlds whose right answers are known."""

import json
import shutil
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import sqlalchemy as sa
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient

from features.facts import fit_facts
from features.histories import EventLog, build_log, fit_context
from features.ranking import RankingFeatures
from recsys.bundle import MANIFEST, read_config, seal
from recsys.config import Config, EncoderConfig
from recsys.events import EVENT_TYPES
from recsys.models.encoder import load_encoder
from recsys.models.rankers import TorchRecRanker
from recsys.models.taste import TasteModel
from recsys.schema import ITEM_COLUMNS
from serving.api.live import ModelHolder
from serving.encoding import encode_items
from serving.loading import feature_sources, save_bundle
from serving.recommender import Recommender
from serving.rerank import Reranker
from serving.retrieval.retriever import Retriever
from serving.retrieval.sources import SOURCES, FitContext
from serving.store.store import Store
from training.interest.trainer import build_model

DATA = Path(__file__).parents[2] / "shared" / "data"
"""Real data next to the repository, where there is any."""

DAY = 86_400_000_000
START = 1_700_000_000_000_000


def catalogue(titles: list[str], **columns: list[Any]) -> pl.DataFrame:
    """Return items `i0`, `i1`, … with every column of the contract."""
    frame = pl.DataFrame({"item_id": [f"i{row}" for row in range(len(titles))], "title": titles, **columns})
    absent = [pl.lit(None, kind).alias(name) for name, kind in ITEM_COLUMNS.items() if name not in frame.columns]
    return frame.with_columns(absent).select(list(ITEM_COLUMNS)).cast(pl.Schema(ITEM_COLUMNS))


def events(rows: list[tuple[str, str, str, int]], split: str | list[str] = "train") -> pl.LazyFrame:
    """Return events from (user, item, type, day) with a column `split`."""
    users, items, types, days = zip(*rows, strict=True)
    return pl.LazyFrame(
        {
            "user_id": list(users),
            "item_id": list(items),
            "event_type": list(types),
            "timestamp": [START + day * DAY for day in days],
            "split": [split] * len(rows) if isinstance(split, str) else split,
        }
    )


def log_of(rows: list[tuple[str, str, str, int]], items: int, split: str | list[str] = "train") -> EventLog:
    """Return the log of events on items `i0` … of a catalogue of `items`."""
    return build_log(events(rows, split), pl.Series([f"i{row}" for row in range(items)]), 0.25)


def write_dataset(folder: Path, **changes: Any) -> Path:
    """Write a small valid dataset as CSV, with tables replaced or left out (None) by `changes`."""
    tables: dict[str, str | bytes | None] = {
        "items.csv": "item_id,title,description,price\n"
        + "".join(f"i{row},Title number {row},About item {row},{row}.5\n" for row in range(8)),
        "events.csv": "user_id,item_id,event_type,timestamp\n"
        + "".join(f"u{user},i{(user + step) % 8},click,{1_700_000_000 + 60 * (8 * user + step)}\n"
                  for user in range(6) for step in range(6)),
        "dataset.json": json.dumps({"name": "small"}),
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (tables | changes).items():
        if content is not None:
            (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def shop_of_devices(folder: Path, users: int = 150, steps: int = 14, items: int = 40) -> Path:
    """Write a dataset in which the device alone tells what is clicked: phones want lamps and computers tables, nine times of ten.

    Events come in sessions of two, on one device; users have a plan and an age, which decide nothing.
    """
    rng = np.random.default_rng(5)
    table = pl.DataFrame(
        {
            "item_id": [f"i{row}" for row in range(items)],
            "title": [f"a {('lamp', 'table')[row % 2]} of kind {row // 2}" for row in range(items)],
            "category": [("lamps", "tables")[row % 2] for row in range(items)],
        }
    )
    rows = [(user, step) for step in range(steps) for user in range(users)]
    desktop = rng.random((users, steps // 2)) < 0.5
    category = [int(desktop[user, step // 2]) ^ (rng.random() < 0.1) for user, step in rows]
    events = pl.DataFrame(
        {
            "user_id": [f"u{user}" for user, _ in rows],
            "item_id": [f"i{2 * rng.integers(items // 2) + kind}" for kind in category],
            "event_type": "click",
            "timestamp": [
                START // 1_000_000 + 86_400 * (step // 2) + 300 * (step % 2) + 2 * user for user, step in rows
            ],
            "session_id": [f"s{user}-{step // 2}" for user, step in rows],
            "device": [("phone", "computer")[int(desktop[user, step // 2])] for user, step in rows],
        }
    )
    people = pl.DataFrame(
        {
            "user_id": [f"u{user}" for user in range(users)],
            "plan": [("free", "family")[user % 2] for user in range(users)],
            "age": [None if user % 10 == 0 else 20 + user % 50 for user in range(users)],
        }
    )
    folder.mkdir(parents=True)
    for name, frame in (("items", table), ("events", events), ("users", people)):
        frame.write_csv(folder / f"{name}.csv")
    return folder


def random_ranks(seed: int, requests: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Return ranks and offsets of requests with one to four targets, some of them missed."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 5, requests)
    parts = [rng.choice(30, count, replace=False) + 1.0 for count in counts]
    ranks = np.concatenate(parts)
    return np.where(ranks > 25, np.inf, ranks), np.concatenate([[0], np.cumsum(counts)])


def tiny_encoder(folder: Path, layers: int = 3) -> str:
    """Write a randomly initialised BERT of width 32 with a real tokenizer and return its folder."""
    import torch
    from transformers import BertConfig, BertModel

    _, tokenizer = load_encoder(EncoderConfig())
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": layers, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=128, **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def words(count: int, seed: int = 0) -> list[str]:
    """Return `count` short texts of differing length."""
    rng = np.random.default_rng(seed)
    vocabulary = ["red", "blue", "steel", "wooden", "lamp", "table", "chair", "for", "kitchen", "garden", "light"]
    return [" ".join(rng.choice(vocabulary, rng.integers(1, 12))) for _ in range(count)]


def tiny_recommender(
    folder: Path, items: int = 40, log: EventLog | None = None, ranker: Mapping[str, Any] | None = None
) -> tuple[Recommender, EventLog, Any]:
    """Return a recommender of every real part, untrained, with its log and tokenizer.

    Another `log` than its own may have context, which the configuration of the `ranker` names.
    """
    import torch

    encoder = {"name": tiny_encoder(folder), "trainable_layers": 1, "precision": "fp32", "max_tokens": 16}
    lists = {"exclude_seen": "never"}
    small = {"interest": {"max_history": 6}, "ranker": {"kind": "torchrec", **(ranker or {})}, "taste": {"width": 8}}
    config = Config.model_validate({"encoder": encoder, "lists": lists} | small)
    brands = [f"brand {row % 3}" for row in range(items)]
    shop = catalogue(words(items), brand=brands, price=[1.0 + row for row in range(items)])
    steps = [(user, step) for user in range(12) for step in range(5)]
    if log is None:
        log = log_of([(f"u{u}", f"i{(3 * u + s * s) % (items - 5)}", "click", 5 * s + u % 5) for u, s in steps], items)
    known = torch.from_numpy(np.bincount(log.items, minlength=items) > 0)
    model = build_model(config, known).eval()
    torch.nn.init.normal_(model.user_tower.out.weight, std=0.05)
    _, tokenizer = load_encoder(config.encoder)
    torch.manual_seed(0)
    model.taste = TasteModel(model.encoder.width, 8).eval()
    encoded, facts = encode_items(model, tokenizer, shop, config, np.arange(items)), fit_facts(shop, log, ())
    models = (encoded.vectors, encoded.tastes, facts.category, model.taste)
    context = FitContext(shop, *models, log=log, weights=np.ones(len(EVENT_TYPES), np.float32), has_clock=True)
    retriever = Retriever(
        config=config,
        items=shop,
        model=model,
        vectors=encoded.vectors,
        tastes=encoded.tastes,
        sources={name: source.fit(context) for name, source in SOURCES.items()},
        features=RankingFeatures(facts, True, feature_sources(SOURCES), (), context=fit_context(log, config.ranker)),
        exclude_seen=False,
    )
    texts = retriever.features.context.texts
    sizes = {"brand": 4, "category": 1, "last_type": 9} | {name: 1 + len(texts[name].texts or ()) for name in texts}
    network = TorchRecRanker(config.ranker, retriever.features.names, sizes).eval()
    return Recommender(retriever, network, Reranker(config.lists)), log, tokenizer


def tiny_bundle(folder: Path, log: EventLog | None = None, ranker: Mapping[str, Any] | None = None) -> Path:
    """Write the bundle of `tiny_recommender` and return its folder."""
    recommender, log, tokenizer = tiny_recommender(folder / "encoder", log=log, ranker=ranker)
    about: dict[str, Any] = {"dataset": "tiny", "dataset_fingerprint": "-", "fit_on": "train", "metrics": {}}
    about["event_weights"] = dict.fromkeys(EVENT_TYPES, 1.0)
    (folder / "bundle").mkdir()
    save_bundle(folder / "bundle", recommender, tokenizer, log, about)
    return folder / "bundle"


def with_columns(bundle: Path, folder: Path, **columns: pl.Expr) -> Path:
    """Write the bundle anew to `folder`, its items with further columns, and return `folder`."""
    shutil.copytree(bundle, folder)
    pl.read_parquet(folder / "items.parquet").with_columns(**columns).write_parquet(folder / "items.parquet")
    return sealed_again(folder, read_config(folder))


def with_config(bundle: Path, folder: Path, **sections: dict[str, Any]) -> Path:
    """Write the bundle anew to `folder`, with other values of some configuration keys, and return `folder`."""
    shutil.copytree(bundle, folder)
    values = read_config(folder).model_dump()
    for section, changes in sections.items():
        values[section] |= changes
    return sealed_again(folder, Config.model_validate(values))


def sealed_again(folder: Path, config: Config) -> Path:
    """Seal the changed bundle in `folder` and return it."""
    about = json.loads((folder / MANIFEST).read_text())
    seal(folder, config, {key: about[key] for key in set(about) - {"format", "code_version", "files"}})
    return folder


def holder_of(bundle: Path, store: Store) -> ModelHolder:
    """Return a holder of the bundle in a folder, which no alias replaces."""
    return ModelHolder(str(bundle), store)


def client_of(app: FastAPI, **options: Any) -> TestClient:
    """Return a client on this machine."""
    return TestClient(app, base_url="http://localhost", client=("127.0.0.1", 50_000), **options)


@contextmanager
def listening(app: FastAPI) -> Iterator[str]:
    """Give the address of the application, which listens on this machine while the body runs."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


@contextmanager
def empty_database(server: str) -> Iterator[str]:
    """Make a database of its own on the PostgreSQL server `server` (a URL), give its URL, and drop it."""
    name = f"test_{uuid.uuid4().hex}"
    admin = sa.create_engine(server.replace("postgresql:", "postgresql+psycopg:"), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    yield f"{server.rsplit('/', 1)[0]}/{name}"
    with admin.connect() as connection:
        connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()
