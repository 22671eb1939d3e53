"""`recsys evaluate`: measure a registered model, or a bundle folder, on a dataset.

In: a dataset folder and a model's name. Out: a `Report`.
"""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from features.data.dataset import Dataset
from features.histories import EARLY, EventLog, read_log, type_weights
from recsys.bundle import read_config, verify
from recsys.errors import RecsysError
from recsys.progress import stage
from recsys.registry import bundle_folder
from serving.loading import Bundle, load_bundle, read_dataset
from serving.recommender import Recommender
from training.evaluation.baselines import fit_baselines
from training.evaluation.evaluate import SPLIT_SEGMENTS, evaluate
from training.evaluation.report import Report
from training.plan import PLANS


def evaluate_model(folder: Path, model: str, split: str, slow_baselines: bool) -> Report:
    """Evaluate a registered model (or bundle folder) on a split of the dataset in `folder`, beside the baselines.

    On data that the model was not trained on, requests that are no later than what it was fitted on are left out.

    Raises:
        RecsysError: the model or the dataset cannot be read, or the split is empty or was fitted.
    """
    dataset, bundle, log = open_model(folder, model)
    fit_on = bundle.manifest["fit_on"]
    if SPLIT_SEGMENTS[split] in PLANS[fit_on].refit:
        raise RecsysError(
            f"--split {split}: the model was fitted on it (--fit-on {fit_on}); "
            f"train with --fit-on train{'' if split == 'valid' else '+valid'} to measure on {split}"
        )
    if not len(log.requests(SPLIT_SEGMENTS[split])):
        raise RecsysError(f"{folder}: split {split} has no events to measure on; see `recsys data check {folder}`")
    recommender = bundle.recommender
    left_out: dict[str, int] = {}
    if dataset.fingerprint == bundle.manifest["dataset_fingerprint"]:
        recommender = as_fitted(bundle, log, dataset)
    else:
        log, left_out = _after_the_fit(log, split, bundle, folder)
    retriever = recommender.retriever
    baselines, skipped = fit_baselines(retriever.config, retriever.items, dataset, log, fit_on, slow=slow_baselines)
    with stage(f"evaluating on {split}") as update:
        report = evaluate(
            recommender,
            log,
            split,
            dataset=dataset.info.name,
            counts=retriever.features.facts.events.counts,
            baselines=baselines,
            truth_folder=dataset.folder,
            update=update,
        )
    return replace(report, skipped=skipped, left_out=left_out)


def as_fitted(bundle: Bundle, log: EventLog, dataset: Dataset) -> Recommender:
    """Return the recommender as training on `dataset` evaluated it: a bundle's counts and sources hold all events, those of test too."""
    fitted = log.in_segments(*PLANS[bundle.manifest["fit_on"]].refit)
    with stage("going back to the events that were fitted"):
        retriever = bundle.recommender.retriever.as_of(fitted, type_weights(dataset.info.event_weights))
    return replace(bundle.recommender, retriever=retriever)


def _after_the_fit(log: EventLog, split: str, bundle: Bundle, folder: Path) -> tuple[EventLog, dict[str, int]]:
    """Return the log whose requests of `split` are all later than what `bundle` was fitted on, and how many were not, by reason.

    Raises:
        RecsysError: none is later, or no time can tell.
    """
    retriever, segment = bundle.recommender.retriever, SPLIT_SEGMENTS[split]
    if not retriever.has_clock:
        raise RecsysError(
            f"{folder}: not the dataset that the model was trained on, and its times are no clock, so nobody can tell what "
            "it was fitted on; evaluate on that dataset, or train on this one"
        )
    newest = retriever.features.facts.events.newest
    fitted = (log.segments == segment) & (log.times <= newest)
    later = replace(log, segments=np.where(fitted, EARLY, log.segments).astype(log.segments.dtype))
    kept = len(later.requests(segment))
    lost = len(log.requests(segment)) - kept
    until = datetime.fromtimestamp(newest / 1e6, UTC).strftime("%Y-%m-%d %H:%M")
    if not kept:
        raise RecsysError(
            f"{folder}: all {lost:,} requests of {split} lie before {until}, up to when the model was fitted; "
            "evaluate on later events, or on the dataset that it was trained on"
        )
    return later, {f"requests until {until}, which the model may have been fitted on": lost} if lost else {}


def open_model(folder: Path, model: str) -> tuple[Dataset, Bundle, EventLog]:
    """Return the dataset in `folder`, a model loaded for its items, and its log in the indexes of these.

    Raises:
        RecsysError: the model or the dataset cannot be read.
    """
    path = bundle_folder(model)
    manifest, config = verify(path), read_config(path)
    dataset = read_dataset(folder, config, manifest["dataset_fingerprint"], model)
    with stage(f"loading {model}"):
        bundle = load_bundle(path, dataset.items.drop("available"))  # which says today, not at the time of a request
    return dataset, bundle, read_log(dataset, config, bundle.recommender.retriever.items["item_id"])
