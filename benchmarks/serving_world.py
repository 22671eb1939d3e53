"""A bundle of any size for the benchmarks of serving: real parts, made-up data.

Item vectors are drawn around topics instead of being encoded from texts, and the ranker learns from
noise: what serving costs depends on neither. Beyond `LINKED` items the graphs of words, brands and categories are
those of the first items, repeated, since fitting them takes hours.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import torch
from scipy import sparse

from features.facts import fit_facts
from features.histories import EventLog, build_log
from features.ranking import RankingFeatures
from recsys.arrays import offsets_of
from recsys.config import Config
from recsys.events import EVENT_TYPES
from recsys.models.encoder import load_encoder
from recsys.models.taste import TasteModel
from recsys.schema import ITEM_COLUMNS
from serving.loading import feature_sources, save_bundle
from serving.recommender import Recommender
from serving.rerank import Reranker
from serving.retrieval.retriever import Retriever
from serving.retrieval.sources import SOURCES, CandidateSource, FitContext
from serving.retrieval.sources.graphs import LexicalSource, RelatedSource
from serving.retrieval.sources.words import word_index
from training.interest.trainer import build_model
from training.ranker import fit_ranker
from training.ranker.data import ranking_data

TOPICS = 500
LINKED = 100_000
START_US = 1_700_000_000_000_000
COLOURS = ("red", "blue", "green", "white", "black", "grey", "brown", "golden", "silver", "plain")
THINGS = ("lamp", "chair", "table", "rug", "jacket", "boot", "tent", "knife", "bottle", "bag", "desk", "shelf")


def bundle_of(folder: Path, items: int, users: int = 20_000, events: int = 30) -> Path:
    """Return the folder of a bundle with that many items and users of some `events` each, made where it is missing."""
    bundle = folder / f"bundle-{items}-{users}"
    if not (bundle / "manifest.json").exists():
        shutil.rmtree(bundle, ignore_errors=True)
        bundle.mkdir(parents=True)
        recommender, log, tokenizer = _recommender(items, users, events)
        save_bundle(bundle, recommender, tokenizer, log, {"dataset": "made up", "fit_on": "train", "metrics": {}})
    return bundle


def _recommender(items: int, users: int, events: int) -> tuple[Recommender, EventLog, object]:
    config = Config.model_validate({"lists": {"exclude_seen": "never"}, "interest": {"max_history": 50}})
    rng = np.random.default_rng(0)
    topics = topics_of(items)
    catalogue, log = _catalogue(topics, rng), log_of(topics, users, events, rng)
    torch.manual_seed(0)
    model = build_model(config, torch.from_numpy(np.bincount(log.items, minlength=items) > 0)).eval()
    _, tokenizer = load_encoder(config.encoder)
    centres = rng.normal(size=(TOPICS, model.encoder.width))
    vectors = np.empty((items, model.encoder.width), np.float32)
    for block in np.array_split(np.arange(items), -(-items // LINKED)):
        vectors[block] = centres[topics[block]] + 0.7 * rng.normal(size=(len(block), model.encoder.width))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    model.taste = TasteModel(model.encoder.width, config.taste.width).eval()
    tastes = vectors[:, : config.taste.width] / np.linalg.norm(vectors[:, : config.taste.width], axis=1, keepdims=True)
    facts = fit_facts(catalogue, log, ())
    context = FitContext(
        catalogue,
        vectors,
        tastes,
        facts.category,
        model.taste,
        log=log,
        weights=np.ones(len(EVENT_TYPES), np.float32),
        has_clock=True,
    )
    retriever = Retriever(
        config=config,
        items=catalogue,
        model=model,
        vectors=vectors,
        tastes=tastes,
        sources={name: _fitted(source, context) for name, source in SOURCES.items()},
        features=RankingFeatures(facts, True, feature_sources(SOURCES), ()),
        exclude_seen=False,
    )
    none = np.zeros(len(retriever.vectors), bool)
    data = ranking_data(retriever, log, log.requests(0, 1).select(np.arange(500)), none)
    return Recommender(retriever, fit_ranker(data, retriever, seed=0), Reranker(config.lists)), log, tokenizer


def _fitted(source: type[CandidateSource], context: FitContext) -> CandidateSource:
    copies, rest = divmod(context.items.height, LINKED)
    if copies < 2 or not issubclass(source, LexicalSource | RelatedSource):
        return source.fit(context)
    assert not rest, f"a multiple of {LINKED:,} items is needed"
    log = log_of(topics_of(LINKED), 2000, 30, np.random.default_rng(0))
    graph = source.fit(replace(context, items=context.items[:LINKED], log=log)).graph
    repeated = sparse.csr_matrix(
        (
            np.tile(graph.data, copies),
            np.concatenate([graph.indices + copy * LINKED for copy in range(copies)], dtype=np.int32),
            offsets_of(np.tile(np.diff(graph.indptr), copies)),
        ),
        shape=(context.items.height, context.items.height),
    )
    return source(repeated, word_index(context.items)) if issubclass(source, LexicalSource) else source(repeated)


def _catalogue(topics: np.ndarray, rng: np.random.Generator) -> pl.DataFrame:
    count = len(topics)
    parts = [rng.choice(words, count) for words in (COLOURS, COLOURS, THINGS)]
    frame = pl.DataFrame(
        {
            "item_id": [f"i{row:07d}" for row in range(count)],
            "title": [f"{a} {b} {thing} {topic}" for a, b, thing, topic in zip(*parts, topics, strict=True)],
            "brand": [f"brand {topic % 97}" for topic in topics],
            "category": [f"category {topic % 41}" for topic in topics],
            "price": rng.lognormal(3, 1, count),
        }
    )
    absent = [pl.lit(None, kind).alias(name) for name, kind in ITEM_COLUMNS.items() if name not in frame.columns]
    return frame.with_columns(absent).select(list(ITEM_COLUMNS)).cast(pl.Schema(ITEM_COLUMNS))


def topics_of(items: int) -> np.ndarray:
    """Return the topic of each item."""
    return np.random.default_rng(7).integers(TOPICS, size=items)


def log_of(topics: np.ndarray, users: int, events: int, rng: np.random.Generator) -> EventLog:
    """Return users who stay with three topics of their own."""
    order = np.argsort(topics, kind="stable")
    starts = np.searchsorted(topics[order], np.arange(TOPICS + 1))
    topic = rng.integers(TOPICS, size=(users, 3))[np.arange(users)[:, None], rng.integers(3, size=(users, events))]
    rows = starts[topic] + (rng.random((users, events)) ** 2 * np.diff(starts)[topic]).astype(np.int64)
    frame = pl.DataFrame(
        {
            "user_id": [f"u{user:07d}" for user in np.repeat(np.arange(users), events)],
            "item": order[np.minimum(rows, len(topics) - 1)].ravel(),
            "timestamp": START_US + rng.integers(0, 90 * 86_400_000_000, users * events),
        }
    )
    frame = frame.with_columns(
        item_id=pl.format("i{}", pl.col("item").cast(pl.String).str.zfill(7)),
        event_type=pl.Series(rng.choice(["click", "purchase"], users * events, p=[0.9, 0.1])),
        split=pl.lit("train"),
    )
    ids = pl.Series([f"i{row:07d}" for row in range(len(topics))])
    return build_log(frame.drop("item").lazy(), ids, 0.01)
