"""Write a `Recommender` into a bundle folder and read it back, for its original catalogue or an extended one.

In and out: the bundle folder (see `recsys.bundle`), a `Recommender`, and the users' histories as of
the fit (`users.parquet`).
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from safetensors.torch import load_file, save_file

from features.context import ContextColumns, UserAttributes
from features.data.dataset import Dataset, load_dataset
from features.data.markup import TEXT_COLUMNS, plain_items
from features.facts import ItemFacts, extend_facts
from features.histories import EventLog, type_weights
from features.ranking import RankingFeatures
from features.rejections import REJECTED
from recsys.arrays import Bools, Floats, Ints, grow, with_rows
from recsys.bundle import read_config, seal, verify
from recsys.config import Config
from recsys.events import DEFAULT_EVENT_WEIGHTS
from recsys.models.encoder import load_encoder_folder
from recsys.models.id_table import TorchRecIdTable
from recsys.models.interest import InterestModel
from recsys.models.rankers import RANKERS
from recsys.models.taste import TasteModel
from recsys.progress import console, stage
from recsys.schema import ITEM_COLUMNS
from serving.encoding import EncodedItems, encode_items
from serving.recommender import Recommender
from serving.rerank import Reranker
from serving.retrieval.queries import QueryTower
from serving.retrieval.retriever import PURCHASE_INTEREST, Retriever
from serving.retrieval.sources import SOURCES, Catalogue, Sentences

SERVING = "serving.json"
ATTRIBUTES = "user_attributes.parquet"
REJECTIONS = "rejections.parquet"
MOST_CHUNKS = 256
"""Pieces of a catalogue, each from new items, from which on it is copied into one: many small ones are slow to filter."""


@dataclass(frozen=True)
class Bundle:
    """A loaded bundle: the recommender, the manifest, and the users of the fit."""

    recommender: Recommender
    tokenizer: Any
    manifest: dict[str, Any]
    users: pl.DataFrame
    """user_id, items (indexes), types, times: the last events of each user as of the fit; earlier: distinct items before; sessions, where
    the ranker knows them."""
    items: pl.DataFrame
    """The catalogue as of the fit; that of the recommender may have changed since."""
    attributes: UserAttributes = field(default_factory=UserAttributes)
    """Of the users as of the fit."""
    rejections: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=REJECTED))
    """What users had rejected as of the fit, by user and time."""

    @property
    def weights(self) -> Floats:
        """Event weights by type code, as of the fit."""
        return type_weights(self.manifest.get("event_weights", DEFAULT_EVENT_WEIGHTS))

    @property
    def items_as_of(self) -> int | None:
        """The time in microseconds since 1970 at which `items` were so; None in bundles from before it was kept."""
        return self.manifest.get("items_as_of")


def save_bundle(folder: Path, recommender: Recommender, tokenizer: Any, log: EventLog, about: dict[str, Any]) -> None:
    """Write `recommender` and the histories of `log` into the empty `folder` and seal it."""
    retriever = recommender.retriever
    config, model, features = retriever.config, retriever.model, retriever.features
    model.encoder.model.save_pretrained(folder / "encoder")  # type: ignore[operator]
    tokenizer.save_pretrained(folder / "encoder")
    rest = {name: value.contiguous() for name, value in model.state_dict().items() if not name.startswith("encoder.")}
    save_file(rest, folder / "interest.safetensors")
    arrays = {"vectors": torch.from_numpy(retriever.vectors), "tastes": torch.from_numpy(retriever.tastes)}
    save_file(arrays, folder / "vectors.safetensors")
    retriever.items.write_parquet(folder / "items.parquet")
    _histories_table(log, config.interest.max_history).write_parquet(folder / "users.parquet")
    features.facts.save(folder / "facts.npz")
    for source in retriever.sources.values():
        source.save(folder)
    if retriever.queries:
        retriever.queries.save(folder)
    recommender.ranker.save(folder)
    log.attributes.table.write_parquet(folder / ATTRIBUTES)
    log.rejections.table().write_parquet(folder / REJECTIONS)
    serving = {
        "has_clock": features.has_clock,
        "exclude_seen": retriever.exclude_seen,
        "sources": list(retriever.sources),
        "attributes": list(features.attributes),
        "features": features.names,
        "context": features.context.as_dict(),
    }
    (folder / SERVING).write_text(json.dumps(serving, indent=1), encoding="utf-8")
    seal(folder, config, about)


def load_bundle(folder: Path, catalogue: pl.DataFrame | None = None, encoded: EncodedItems | None = None) -> Bundle:
    """Verify and load a bundle; with `catalogue`, for the items of a dataset as they are now.

    Items that the bundle does not know can be recommended at once, and others are as the catalogue has them: new texts are
    encoded, unless another process did so and gives them `encoded`. Items that the catalogue no longer has stay in
    histories and out of lists.

    Raises:
        RecsysError: the bundle is damaged.
    """
    manifest = verify(folder)
    config = read_config(folder)
    model, tokenizer = _load_model(folder, config)
    retriever = _load_retriever(folder, config, model)
    recommender = Recommender(retriever, RANKERS[config.ranker.kind].load(folder), Reranker(config.lists))
    fitted = retriever.items
    if catalogue is not None:
        recommender = for_catalogue(recommender, tokenizer, catalogue, encoded)
    users = pl.read_parquet(folder / "users.parquet")
    return Bundle(recommender, tokenizer, manifest, users, fitted, read_attributes(folder), _read_rejections(folder))


def read_attributes(folder: Path) -> UserAttributes:
    """Return the attributes of users that the bundle in `folder` knows."""
    path = folder / ATTRIBUTES
    if not path.exists():  # as in bundles of releases before 2026-11-29
        return UserAttributes()
    return UserAttributes(pl.read_parquet(path))


def _read_rejections(folder: Path) -> pl.DataFrame:
    path = folder / REJECTIONS
    if not path.exists():  # as in bundles of releases before 2026-11-29
        return pl.DataFrame(schema=REJECTED)
    return pl.read_parquet(path)


def _load_retriever(folder: Path, config: Config, model: InterestModel) -> Retriever:
    serving = json.loads((folder / SERVING).read_text(encoding="utf-8"))
    arrays = load_file(folder / "vectors.safetensors")
    vectors = arrays["vectors"].numpy()
    tastes = arrays["tastes"].numpy() if "tastes" in arrays else np.empty((len(vectors), 0), np.float32)
    names, items = serving["sources"], read_items(folder)
    facts = ItemFacts.load(folder / "facts.npz")
    context = ContextColumns.from_dict(serving["context"]) if "context" in serving else ContextColumns()
    features = RankingFeatures(
        facts, serving["has_clock"], feature_sources(names), tuple(serving["attributes"]), context=context
    )
    catalogue = Catalogue(items, vectors, tastes, facts.category, model.taste)
    # Bundles of format 4 do not name their features; they have all that there were then.
    fitted = serving.get("features") or [name for name in features.names if not name.startswith("taste_")]
    features = features.restricted(fitted)
    return Retriever(
        config=config,
        items=items,
        model=model,
        vectors=vectors,
        tastes=tastes,
        sources={name: SOURCES[name].load(folder, catalogue) for name in names},
        features=features,
        exclude_seen=serving["exclude_seen"],
        queries=QueryTower.load(folder),
    ).restricted(offered_items(items))


def read_items(folder: Path) -> pl.DataFrame:
    """Return the items of the bundle in `folder`, as they were at the fit."""
    items = pl.read_parquet(folder / "items.parquet")
    return with_columns_of(items, ITEM_COLUMNS)  # bundles of earlier releases lack some


def with_columns_of(items: pl.DataFrame, schema: Mapping[str, pl.DataType]) -> pl.DataFrame:
    """Return `items` with every column of `schema`; those that they lack are null."""
    return items.with_columns(
        pl.lit(None, kind).alias(name) for name, kind in schema.items() if name not in items.columns
    )


def newest_event(folder: Path) -> int:
    """Return when the newest event was that the bundle in `folder` knows, without loading it; 0 where there is none."""
    with np.load(folder / "facts.npz", allow_pickle=False) as saved:
        return int(saved["event_times"].max(initial=0))


def catalogue_ids(folder: Path, catalogue: pl.DataFrame) -> pl.Series:
    """Return the item ids of the bundle in `folder` when it is loaded for `catalogue`, without loading it."""
    known = pl.read_parquet(folder / "items.parquet", columns=["item_id"])
    return pl.concat([known, new_items(known, catalogue).select("item_id")])["item_id"]


def new_items(known: pl.DataFrame, catalogue: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of `catalogue` whose ids are not among the `known` ones, in their order."""
    return catalogue.join(known, on="item_id", how="anti", maintain_order="left")


def differing_items(known: pl.DataFrame, catalogue: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of `catalogue` that the items `known` lack or have otherwise, with their columns.

    What the catalogue does not say of an item, since it lacks the column, stays as it was.
    """
    stated = [name for name in known.columns if name in catalogue.columns]
    unstated = known.select("item_id", *(name for name in known.columns if name not in stated))
    rows = catalogue.select(stated).cast({name: known.schema[name] for name in stated}, strict=False)
    rows = rows.join(unstated, on="item_id", how="left", maintain_order="left").select(known.columns)
    after = changed_catalogue(known, rows)
    changed = np.flatnonzero(after["item_id"].is_in(rows["item_id"].implode()).to_numpy())
    return after[changed[~same_rows(known, after, changed, known.columns)]]


def encode_differing_items(folder: Path, catalogue: pl.DataFrame) -> EncodedItems:
    """Return what the models make of the items of `catalogue` whose texts the bundle in `folder` does not know."""
    config, known = read_config(folder), read_items(folder)
    items = changed_catalogue(known, differing_items(known, catalogue))
    rewritten = rewritten_rows(known, items)
    if not len(rewritten):
        return EncodedItems.none()
    model, tokenizer = _load_model(folder, config)
    return encode_items(model, tokenizer, items[rewritten], config, rewritten)


def for_catalogue(
    recommender: Recommender, tokenizer: Any, catalogue: pl.DataFrame, encoded: EncodedItems | None = None
) -> Recommender:
    """Return the recommender for the items as `catalogue` has them, without those that it no longer has."""
    differing = differing_items(recommender.retriever.items, catalogue)
    if differing.height:
        recommender = with_items(recommender, tokenizer, differing, encoded)
    retriever = recommender.retriever
    offered = catalogue.filter(pl.Series(offered_items(catalogue)))["item_id"]
    available = retriever.items["item_id"].is_in(offered.implode()).to_numpy()
    return replace(recommender, retriever=retriever.restricted(available))


def offered_items(catalogue: pl.DataFrame) -> Bools:
    """Return a mask `[N]` of the items that may be in lists: all but those that the column `available` takes out."""
    stated = (
        catalogue["available"] if "available" in catalogue.columns else pl.repeat(None, catalogue.height, eager=True)
    )
    mask: Bools = stated.cast(pl.Boolean).fill_null(True).to_numpy()
    return mask


def with_items(
    recommender: Recommender, tokenizer: Any, changes: pl.DataFrame, encoded: EncodedItems | None = None
) -> Recommender:
    """Return the recommender with the items `changes`: known ids in their old rows, new ones at the end.

    Both can be recommended at once: where their texts are new, they are encoded, unless they are given `encoded`, in the
    order of the rows. Columns that the catalogue lacks are added to it.
    """
    old = recommender.retriever
    items = changed_catalogue(old.items, changes)
    changed = np.unique(rows_of(items["item_id"], changes["item_id"]))
    rewritten = changed[~same_rows(old.items, items, changed, TEXT_COLUMNS)]
    available = np.ones(old.items.height, bool) if old.available is None else old.available
    available = grow(available, items.height, fill=True)
    available[changed] = offered_items(items[changed])
    facts = extend_facts(old.features.facts, old.items, items, changed, old.features.attributes)
    retriever = replace(old, items=items, features=replace(old.features, facts=facts))
    if len(rewritten):
        if encoded is None:
            encoded = encode_items(old.model, tokenizer, items[rewritten], old.config, rewritten)
        retriever = _with_vectors(retriever, rewritten, encoded)
    return replace(recommender, retriever=retriever.restricted(available))


def _with_vectors(retriever: Retriever, rows: Ints, encoded: EncodedItems) -> Retriever:
    """Return the retriever with what the models make of some `rows`, in its vectors and its sources."""
    count = retriever.items.height
    vectors = with_rows(retriever.vectors, rows, encoded.vectors, count)
    tastes = with_rows(retriever.tastes, rows, encoded.tastes, count)
    catalogue = Catalogue(retriever.items, vectors, tastes, retriever.features.facts.category, retriever.model.taste)
    sources = {name: source.extended(catalogue, rows) for name, source in retriever.sources.items()}
    return replace(retriever, vectors=vectors, tastes=tastes, sources=sources)


def changed_catalogue(old: pl.DataFrame, changes: pl.DataFrame) -> pl.DataFrame:
    """Return `old` with the rows `changes` in place of those of the same id, or at the end.

    The columns are those of `old` and, after them, further ones of `changes`; what has no value in one is null.
    """
    old = with_columns_of(old, changes.schema)
    rows = with_columns_of(changes, old.schema).select(old.columns).cast(pl.Schema(old.schema), strict=False)
    positions = rows_of(old["item_id"], rows["item_id"])
    known, new = rows.filter(positions >= 0), rows.filter(positions < 0)
    if known.height:
        old = _with_values(old, positions[positions >= 0], known)
    extended = pl.concat([old, new])
    return extended.rechunk() if extended.n_chunks() > MOST_CHUNKS else extended


def _with_values(items: pl.DataFrame, rows: Ints, values: pl.DataFrame) -> pl.DataFrame:
    """Return `items` with `values` in some `rows`; columns in which nothing changes are shared, not copied."""
    before, order = items[rows], np.arange(items.height)
    order[rows] = items.height + np.arange(len(rows))
    changed = [name for name in items.columns if not before[name].equals(values[name])]
    return items.with_columns(pl.concat([items.select(changed), values.select(changed)])[order]) if changed else items


def rows_of(ids: pl.Series, some: pl.Series) -> Ints:
    """Return in which row of `ids`, which are distinct, each of `some` is; -1 for those that they lack."""
    rows = ids.is_in(some.implode()).arg_true()  # a table of all ids would take longer to make
    found = pl.DataFrame({"id": ids.gather(rows), "row": rows.cast(pl.Int64)})
    return some.to_frame("id").join(found, on="id", how="left", maintain_order="left")["row"].fill_null(-1).to_numpy()


def same_rows(old: pl.DataFrame, items: pl.DataFrame, rows: Ints, columns: Sequence[str]) -> Bools:
    """Return for each of the `rows` `[n]` of `items` whether `old` has the same values in `columns` there; not for new rows."""
    known = rows[rows < old.height]
    before, after = old[known], items[known]
    same: Bools = np.zeros(len(rows), bool)
    same[rows < old.height] = True
    for name in columns:
        same[rows < old.height] &= before[name].eq_missing(after[name]).to_numpy()
    return same


def rewritten_rows(old: pl.DataFrame, items: pl.DataFrame) -> Ints:
    """Return the rows of `items` whose texts are others than in `old`, which they extend, and those that follow it."""
    every = np.arange(items.height)
    return every[~same_rows(old, items, every, TEXT_COLUMNS)]


def read_sentences(retriever: Retriever, tokenizer: Any, texts: list[str]) -> Sentences:
    """Return what R users typed as the retriever understands it."""
    typed = plain_items(pl.DataFrame({"title": texts}, schema={"title": pl.String}))
    absent = [pl.lit(None, kind).alias(name) for name, kind in retriever.items.schema.items() if name != "title"]
    beyond = np.full(len(texts), np.iinfo(np.int64).max)  # no item of the ID table
    encoded = encode_items(retriever.model, tokenizer, typed.with_columns(absent), retriever.config, beyond)
    matches = {name: source.read(typed["title"].to_list()) for name, source in retriever.sources.items()}
    return Sentences(
        encoded.vectors, encoded.tastes, {name: scores for name, scores in matches.items() if scores is not None}
    )


def feature_sources(names: Iterable[str]) -> tuple[str, ...]:
    """Return the scores that the ranker sees: one per source that describes, and the interest of the purchase head."""
    return (*(name for name in names if SOURCES[name].describes), PURCHASE_INTEREST)


def _load_model(folder: Path, config: Config) -> tuple[InterestModel, Any]:
    encoder, tokenizer = load_encoder_folder(str(folder / "encoder"), trainable_layers=0)
    state = load_file(folder / "interest.safetensors")
    known = state.get("id_table.known")
    table = TorchRecIdTable(known, encoder.width) if known is not None else None
    model = InterestModel(encoder, config.interest, table)
    if config.sources.taste:
        model.taste = TasteModel(encoder.width, config.taste.width)
    model.load_state_dict(state, strict=False, assign=True)  # memory-mapped tensors are shared between processes
    return model.eval(), tokenizer


def _histories_table(log: EventLog, length: int) -> pl.DataFrame:
    stops = log.offsets[1:]
    starts = np.maximum(log.offsets[:-1], stops - length)
    spans = [slice(start, stop) for start, stop in zip(starts, stops, strict=True)]
    earlier = [np.unique(log.items[first:start]) for first, start in zip(log.offsets[:-1], starts, strict=True)]
    ids = log.session_ids
    sessions = [] if log.sessions is None else [
        [ids[code] if code >= 0 else None for code in log.sessions[span].tolist()] for span in spans
    ]  # fmt: skip
    return pl.DataFrame(
        {
            "user_id": pl.Series(log.user_ids, dtype=pl.String),
            "items": pl.Series([log.items[span] for span in spans], dtype=pl.List(pl.Int32)),
            "types": pl.Series([log.types[span] for span in spans], dtype=pl.List(pl.Int8)),
            "times": pl.Series([log.times[span] for span in spans], dtype=pl.List(pl.Int64)),
            "earlier": pl.Series(earlier, dtype=pl.List(pl.Int32)),
            **({} if log.sessions is None else {"sessions": pl.Series(sessions, dtype=pl.List(pl.String))}),
        }
    )


def read_dataset(folder: Path, config: Config, trained_on: str, model: str) -> Dataset:
    """Return the dataset in `folder`; print a note if it is not the one that `model` was trained on."""
    with stage("reading the data"):
        dataset = load_dataset(folder, config.data.on_invalid)
    if dataset.fingerprint != trained_on:
        console.print(f"note: {folder} is not, or no longer, the dataset that {model} was trained on")
    return dataset
