"""What the commands `evaluate` and `recommend` do with a registered model and a dataset.

In: a dataset folder and a model's name. Out: a `Report`, or a file of lists.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import torch
from scipy import sparse

from features.data.dataset import Dataset, load_dataset
from features.histories import EventLog
from features.tokens import item_tokens
from recsys.bundle import read_config, verify
from recsys.config import Config, EncoderConfig
from recsys.errors import RecsysError
from recsys.events import EVENT_TYPES
from recsys.models.encoder import FrozenPrefix, encode_all, load_encoder, resolve_precision
from recsys.progress import console, stage
from serving.batch import Job, Written, read_users, write_lists
from serving.loading import Bundle, catalogue_ids, load_bundle
from training.evaluation.baselines import Als, Ease, FrozenEncoder, Popularity, Yardstick, bm25, item_knn
from training.evaluation.evaluate import SPLIT_STAGES, Report, evaluate
from training.pipeline import STAGES, WORK, item_counts, read_log
from training.tracking import bundle_folder, resolve


def evaluate_model(folder: Path, model: str, split: str, with_yardsticks: bool) -> Report:
    """Evaluate a registered model (or bundle folder) on a split of the dataset in `folder`.

    Raises:
        RecsysError: the model or the dataset cannot be read, or the split is empty or was fitted.
    """
    dataset, bundle, log = _open(folder, model)
    fit_on = bundle.manifest["fit_on"]
    if SPLIT_STAGES[split] in STAGES[fit_on][2]:
        raise RecsysError(
            f"--split {split}: the model was fitted on it (--fit-on {fit_on}); "
            f"train with --fit-on train{'' if split == 'valid' else '+valid'} to measure on {split}"
        )
    if not len(log.requests(SPLIT_STAGES[split])):
        raise RecsysError(f"{folder}: split {split} has no events to measure on; see `recsys data check {folder}`")
    config, items = bundle.recommender.config, bundle.recommender.items
    yardsticks, skipped = fit_yardsticks(config, items, dataset, log, fit_on) if with_yardsticks else ({}, {})
    counts = item_counts(log, fit_on, len(bundle.recommender.vectors))
    with stage(f"evaluating on {split}") as update:
        report = evaluate(bundle.recommender, log, split, dataset.info.name, counts, yardsticks, dataset.folder, update)
    return replace(report, skipped=skipped)


def recommend_lists(
    folder: Path, model: str, k: int, out: Path, users_file: Path | None = None, resume: bool = False
) -> Written:
    """Write lists for the users of `users_file`, or all of the dataset, into the folder `out`."""
    name = resolve(model)
    bundle = bundle_folder(name)
    manifest, config = verify(bundle), read_config(bundle)
    dataset = _read(folder, config, manifest["dataset_fingerprint"], model)
    log = read_log(dataset, config, catalogue_ids(bundle, dataset.items))
    listed = dataset.users["user_id"].to_list() if dataset.users is not None else []
    users = read_users(users_file) if users_file else list(dict.fromkeys([*log.user_ids, *listed]))
    job = Job.of(name, bundle, dataset.fingerprint(), k, users, log)
    with stage(f"writing {out}") as update:
        return write_lists(job, dataset.items, log, users, out, resume, update)


def fit_yardsticks(
    config: Config, items: pl.DataFrame, dataset: Dataset, log: EventLog, fit_on: str
) -> tuple[dict[str, Yardstick], dict[str, str]]:
    """Fit every yardstick on the events that the model was fitted on; return those left out and why."""
    fitted = log.in_stages(*STAGES[fit_on][2])
    weights = np.array([dataset.info.event_weights[name] for name in EVENT_TYPES])
    shape = (len(fitted.user_ids), items.height)
    interactions = sparse.csr_matrix((weights[fitted.types], (fitted.user_rows, fitted.items)), shape=shape)
    with stage("fitting yardsticks"):
        yardsticks: dict[str, Yardstick] = {
            "popularity": Popularity(interactions),
            "item-knn": item_knn(interactions),
            "als": Als(interactions),
            "bm25": bm25(items),
            "frozen encoder": FrozenEncoder(frozen_vectors(config.encoder, items)),
        }
        skipped = {}
        try:
            yardsticks["ease"] = Ease(interactions)
        except RecsysError as error:
            skipped["ease"] = str(error)
    return yardsticks, skipped


def frozen_vectors(config: EncoderConfig, items: pl.DataFrame) -> np.ndarray:
    """Return the unit vectors `[N, H]` of the catalogue under the encoder as it was before training."""
    encoder, tokenizer = load_encoder(config)
    tokens = item_tokens(items, tokenizer, config, WORK / "tokens")
    precision = resolve_precision(config.precision, torch.device("cpu"))
    pooled = encode_all(encoder, FrozenPrefix(encoder, tokens, precision, limit_bytes=0))
    return torch.nn.functional.normalize(pooled, dim=-1).numpy()


def _open(folder: Path, model: str) -> tuple[Dataset, Bundle, EventLog]:
    path = bundle_folder(model)
    manifest, config = verify(path), read_config(path)
    dataset = _read(folder, config, manifest["dataset_fingerprint"], model)
    with stage(f"loading {model}"):
        bundle = load_bundle(path, dataset.items)
    return dataset, bundle, read_log(dataset, config, bundle.recommender.items["item_id"])


def _read(folder: Path, config: Config, trained_on: str, model: str) -> Dataset:
    with stage("reading the data"):
        dataset = load_dataset(folder, config.data.on_invalid)
    if dataset.fingerprint() != trained_on:
        console.print(f"note: {folder} is not, or no longer, the dataset that {model} was trained on")
    return dataset
