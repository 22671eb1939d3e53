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

from features.histories import EventLog, Histories
from features.ranking import ItemFacts, RankingFeatures, extend_facts
from features.tokens import item_texts
from recsys.bundle import read_config, seal, verify
from recsys.config import Config
from recsys.encoder import (
    FrozenPrefix,
    Tokens,
    encode_all,
    load_encoder_folder,
    resolve_precision,
    tokenize,
)
from recsys.id_table import TorchRecIdTable
from recsys.interest import InterestModel
from recsys.rankers import RANKERS
from serving.recommender import Recommender
from serving.sources import SOURCES, Bools, Floats

SERVING = "serving.json"


@dataclass(frozen=True)
class Bundle:
    """A loaded bundle: the recommender, what it says of itself, and the users that it knows."""

    recommender: Recommender
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
    recommender = Recommender(
        config,
        items,
        model,
        load_file(folder / "vectors.safetensors")["vectors"].numpy(),
        [SOURCES[name].load(folder) for name in serving["sources"]],
        RankingFeatures(
            ItemFacts.load(folder / "facts.npz"), serving["has_clock"], feature_sources(serving["sources"]), attributes
        ),
        RANKERS[config.ranker.kind].load(folder),
        serving["exclude_seen"],
    )
    if catalogue is not None:
        available = items["item_id"].is_in(catalogue["item_id"].implode()).to_numpy()
        new = catalogue.join(items, on="item_id", how="anti", maintain_order="left")
        if new.height or not available.all():
            recommender = with_items(
                recommender, tokenizer, new, np.pad(available, (0, new.height), constant_values=True)
            )
    return Bundle(recommender, manifest, pl.read_parquet(folder / "users.parquet"))


def with_items(recommender: Recommender, tokenizer: Any, new: pl.DataFrame, available: Bools) -> Recommender:
    """Return the recommender for a catalogue with the items `new` at its end, known by their texts alone.

    Items outside `available` `[N]` may stand in histories and never in lists, as a typed sentence does.
    """
    old, model, features = recommender.items, recommender.model, recommender.features
    shared = new.select(column for column in old.columns if column in new.columns)
    items = pl.concat([old, shared], how="diagonal_relaxed")
    added = encode_items(model, tokenizer, items.tail(new.height), recommender.config, first=old.height)
    vectors = np.concatenate([recommender.vectors, added])
    return Recommender(
        recommender.config,
        items,
        model,
        vectors,
        [source.extended(items, vectors, available) for source in recommender.sources],
        replace(features, facts=extend_facts(features.facts, items, features.attributes)),
        recommender.ranker,
        recommender.exclude_seen,
    )


def feature_sources(names: list[str]) -> tuple[str, ...]:
    """Return the scores that the ranker sees: one a source, and the interest of the purchase head."""
    return (*names, "purchase")


def encode_items(model: InterestModel, tokenizer: Any, items: pl.DataFrame, config: Config, first: int) -> Floats:
    """Return the unit vectors `[n, D]` of `items`, which take the catalogue places from `first` on."""
    texts = item_texts(items, tokenizer.sep_token, config.encoder.max_tokens)
    return encode_tokens(model, tokenize(texts, tokenizer, config.encoder.max_tokens), config, first)


@torch.no_grad()
def encode_tokens(model: InterestModel, tokens: Tokens, config: Config, first: int = 0) -> Floats:
    """Return the unit vectors `[n, D]` of tokenised items, whose catalogue places begin at `first`."""
    device = next(model.parameters()).device
    prefix = FrozenPrefix(model.encoder, tokens, resolve_precision(config.encoder.precision, device), limit_bytes=0)
    pooled = encode_all(model.encoder, prefix)
    vectors = model.eval().item_vectors(pooled, torch.arange(first, first + len(tokens), device=device))
    return vectors.cpu().numpy()


def user_histories(users: pl.DataFrame, length: int, now: int) -> Histories:
    """Return the stored histories of the rows of `users` as of `now`."""
    count = users.height
    items = np.full((count, length), -1, np.int32)
    types, times = np.zeros((count, length), np.int8), np.zeros((count, length), np.int64)
    for row, (past, kinds, moments) in enumerate(users.select("items", "types", "times").iter_rows()):
        if past:
            items[row, -len(past) :], types[row, -len(past) :], times[row, -len(past) :] = past, kinds, moments
    return Histories(items, types, times, np.full(count, now, np.int64))


def _load_model(folder: Path, config: Config) -> tuple[InterestModel, Any]:
    encoder, tokenizer = load_encoder_folder(str(folder / "encoder"), trainable_layers=0)
    state = load_file(folder / "interest.safetensors")
    known = state.get("id_table.known")
    table = TorchRecIdTable(known, encoder.width) if known is not None else None
    model = InterestModel(encoder, config.interest, table)
    model.load_state_dict(state, strict=False)
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
