"""Write a `Recommender` into a bundle folder and read it back, for its own or a grown catalogue.

In and out: the bundle folder (see `recsys.bundle`), a `Recommender`, and the users' histories as of
the fit (`users.parquet`).
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from safetensors.torch import load_file, save_file

from features.data.dataset import Dataset, load_dataset
from features.histories import EventLog, Ints
from features.ranking import ItemFacts, RankingFeatures, extend_facts
from features.tokens import item_texts
from recsys.bundle import read_config, seal, verify
from recsys.config import Config
from recsys.models.encoder import (
    FrozenPrefix,
    Tokens,
    encode_all,
    load_encoder_folder,
    resolve_precision,
    tokenize,
)
from recsys.models.encoder_int8 import Int8Encoder, int8_encoder
from recsys.models.id_table import TorchRecIdTable
from recsys.models.interest import InterestModel
from recsys.models.rankers import RANKERS
from recsys.progress import console, stage
from serving.recommender import Recommender
from serving.retrieval.sources import SOURCES, Floats, Sentences
from serving.retrieval.sources.graphs import LexicalSource

SERVING = "serving.json"


@dataclass(frozen=True)
class Bundle:
    """A loaded bundle: the recommender, what it says of itself, and the users that it knows."""

    recommender: Recommender
    tokenizer: Any
    manifest: dict[str, Any]
    users: pl.DataFrame
    """user_id, items (indexes), types, times: the last events of each user as of the fit."""


def save_bundle(folder: Path, recommender: Recommender, tokenizer: Any, log: EventLog, about: dict[str, Any]) -> None:
    """Write `recommender` and the histories of `log` into the empty `folder` and seal it."""
    config, model, features = recommender.config, recommender.model, recommender.features
    model.encoder.model.save_pretrained(folder / "encoder")  # type: ignore[operator]
    tokenizer.save_pretrained(folder / "encoder")
    rest = {name: value.contiguous() for name, value in model.state_dict().items() if not name.startswith("encoder.")}
    save_file(rest, folder / "interest.safetensors")
    save_file({"vectors": torch.from_numpy(recommender.vectors)}, folder / "vectors.safetensors")
    recommender.items.write_parquet(folder / "items.parquet")
    _histories_table(log, config.interest.max_history).write_parquet(folder / "users.parquet")
    features.facts.save(folder / "facts.npz")
    for source in recommender.sources:
        source.save(folder)
    assert recommender.ranker is not None
    recommender.ranker.save(folder)
    serving = {
        "has_clock": features.has_clock,
        "exclude_seen": recommender.exclude_seen,
        "sources": [source.name for source in recommender.sources],
        "attributes": list(features.attributes),
    }
    (folder / SERVING).write_text(json.dumps(serving, indent=1), encoding="utf-8")
    seal(folder, config, about)


def load_bundle(folder: Path, catalogue: pl.DataFrame | None = None) -> Bundle:
    """Verify and load a bundle; with `catalogue`, for the items of a dataset as they are now.

    Items that the bundle does not know are encoded from their text and can be recommended at once;
    items that the catalogue no longer has stay in histories and out of lists.

    Raises:
        RecsysError: the bundle is damaged.
    """
    manifest = verify(folder)
    config = read_config(folder)
    serving = json.loads((folder / SERVING).read_text(encoding="utf-8"))
    items = pl.read_parquet(folder / "items.parquet")
    model, tokenizer = _load_model(folder, config)
    attributes = tuple(serving["attributes"])
    vectors = load_file(folder / "vectors.safetensors")["vectors"].numpy()
    recommender = Recommender(
        config,
        items,
        model,
        vectors,
        [SOURCES[name].load(folder, vectors) for name in serving["sources"]],
        RankingFeatures(
            ItemFacts.load(folder / "facts.npz"), serving["has_clock"], feature_sources(serving["sources"]), attributes
        ),
        RANKERS[config.ranker.kind].load(folder),
        serving["exclude_seen"],
    )
    if catalogue is not None:
        recommender = for_catalogue(recommender, tokenizer, catalogue)
    return Bundle(recommender, tokenizer, manifest, pl.read_parquet(folder / "users.parquet"))


def catalogue_ids(folder: Path, catalogue: pl.DataFrame) -> pl.Series:
    """Return the item ids of the bundle in `folder` when it is loaded for `catalogue`, without loading it."""
    known = pl.read_parquet(folder / "items.parquet", columns=["item_id"])
    new = catalogue.select("item_id").join(known, on="item_id", how="anti", maintain_order="left")
    return pl.concat([known, new])["item_id"]


def for_catalogue(recommender: Recommender, tokenizer: Any, catalogue: pl.DataFrame) -> Recommender:
    """Return the recommender for `catalogue`: with its new items, and without those that it no longer has."""
    known = recommender.items
    new = catalogue.join(known, on="item_id", how="anti", maintain_order="left")
    available = known["item_id"].is_in(catalogue["item_id"].implode()).to_numpy()
    if new.height:
        recommender = with_items(recommender, tokenizer, new)
    if not available.all():
        recommender = recommender.with_available(np.pad(available, (0, new.height), constant_values=True))
    return recommender


def with_items(recommender: Recommender, tokenizer: Any, changes: pl.DataFrame) -> Recommender:
    """Return the recommender with the items `changes`: known ids in their old places, new ones at the end.

    Both are encoded from their texts and can be recommended at once.
    """
    old, model, features = recommender.items, recommender.model, recommender.features
    items = changed_catalogue(old, changes)
    changed = np.flatnonzero(items["item_id"].is_in(changes["item_id"].implode()).to_numpy())
    vectors = np.resize(recommender.vectors, (items.height, recommender.vectors.shape[1]))
    vectors[changed] = encode_items(model, tokenizer, items[changed], recommender.config, changed)
    available = recommender.available
    if available is not None:
        available = np.pad(available, (0, items.height - old.height))
        available[changed] = True
    return Recommender(
        recommender.config,
        items,
        model,
        vectors,
        [source.extended(items, vectors, changed) for source in recommender.sources],
        replace(features, facts=extend_facts(features.facts, items, changed, features.attributes)),
        recommender.ranker,
        recommender.exclude_seen,
        available,
    )


def changed_catalogue(old: pl.DataFrame, changes: pl.DataFrame) -> pl.DataFrame:
    """Return `old` with the rows `changes` in the places of their ids, or at the end; columns are those of `old`."""
    absent = [pl.lit(None, kind).alias(name) for name, kind in old.schema.items() if name not in changes.columns]
    rows = changes.with_columns(absent).select(old.columns).cast(pl.Schema(old.schema), strict=False)
    places = pl.DataFrame({"item_id": old["item_id"], "place": np.arange(old.height)})
    rows = rows.join(places, on="item_id", how="left", maintain_order="left")
    known = rows.filter(pl.col("place").is_not_null())
    new = rows.filter(pl.col("place").is_null()).drop("place")
    if known.height:
        order = np.arange(old.height)
        order[known["place"].to_numpy()] = old.height + np.arange(known.height)
        old = pl.concat([old, known.drop("place")])[order]
    return pl.concat([old, new])


def read_sentences(recommender: Recommender, tokenizer: Any, texts: list[str]) -> Sentences:
    """Return what R users typed as the recommender understands it."""
    typed = pl.DataFrame({"title": texts}, schema={"title": pl.String})
    absent = [pl.lit(None, kind).alias(name) for name, kind in recommender.items.schema.items() if name != "title"]
    beyond = np.full(len(texts), np.iinfo(np.int64).max)
    vectors = encode_items(recommender.model, tokenizer, typed.with_columns(absent), recommender.config, beyond)
    lexical = [source for source in recommender.sources if isinstance(source, LexicalSource)]
    if lexical:
        return Sentences(vectors, lexical[0].sentences(texts))
    return replace(Sentences.none(len(texts), recommender.vectors.shape), vectors=vectors)


def feature_sources(names: list[str]) -> tuple[str, ...]:
    """Return the scores that the ranker sees: one a source, and the interest of the purchase head."""
    return (*names, "purchase")


def encode_items(model: InterestModel, tokenizer: Any, items: pl.DataFrame, config: Config, places: Ints) -> Floats:
    """Return the unit vectors `[n, D]` of `items`, whose catalogue places are `places` `[n]`."""
    texts = item_texts(items, tokenizer.sep_token, config.encoder.max_tokens)
    return encode_tokens(model, tokenize(texts, tokenizer, config.encoder.max_tokens), config, places)


@torch.no_grad()
def encode_tokens(model: InterestModel, tokens: Tokens, config: Config, places: Ints | None = None) -> Floats:
    """Return the unit vectors `[n, D]` of tokenised items at `places` `[n]` of the catalogue, 0 … n by default."""
    device = next(model.parameters()).device
    if fast := _fast_encoder(model, config):
        pooled = fast.encode(tokens)
    else:
        precision = resolve_precision(config.encoder.precision, device)
        pooled = encode_all(model.encoder, FrozenPrefix(model.encoder, tokens, precision, limit_bytes=0))
    items = torch.arange(len(tokens)) if places is None else torch.from_numpy(places)
    return model.eval().item_vectors(pooled, items.to(device)).cpu().numpy()


def _fast_encoder(model: InterestModel, config: Config) -> Int8Encoder | None:
    return int8_encoder(model.encoder) if config.encoder.precision == "auto" else None


def _load_model(folder: Path, config: Config) -> tuple[InterestModel, Any]:
    encoder, tokenizer = load_encoder_folder(str(folder / "encoder"), trainable_layers=0)
    state = load_file(folder / "interest.safetensors")
    known = state.get("id_table.known")
    table = TorchRecIdTable(known, encoder.width) if known is not None else None
    model = InterestModel(encoder, config.interest, table)
    model.load_state_dict(state, strict=False, assign=True)  # what is mapped from the file is shared by processes
    return model.eval(), tokenizer


def _histories_table(log: EventLog, length: int) -> pl.DataFrame:
    stops = log.offsets[1:]
    starts = np.maximum(log.offsets[:-1], stops - length)
    spans = [slice(start, stop) for start, stop in zip(starts, stops, strict=True)]
    return pl.DataFrame(
        {
            "user_id": pl.Series(log.user_ids, dtype=pl.String),
            "items": pl.Series([log.items[span] for span in spans], dtype=pl.List(pl.Int32)),
            "types": pl.Series([log.types[span] for span in spans], dtype=pl.List(pl.Int8)),
            "times": pl.Series([log.times[span] for span in spans], dtype=pl.List(pl.Int64)),
        }
    )


def read_dataset(folder: Path, config: Config, trained_on: str, model: str) -> Dataset:
    """Return the dataset in `folder`; note it where it is not the one that `model` was trained on."""
    with stage("reading the data"):
        dataset = load_dataset(folder, config.data.on_invalid)
    if dataset.fingerprint != trained_on:
        console.print(f"note: {folder} is not, or no longer, the dataset that {model} was trained on")
    return dataset
