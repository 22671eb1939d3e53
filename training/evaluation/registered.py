"""`recsys evaluate`: measure a registered model, or a bundle folder, on a dataset.

In: a dataset folder and a model's name. Out: a `Report`.
"""

from dataclasses import replace
from pathlib import Path

from features.data.dataset import Dataset
from features.histories import EventLog, read_log
from recsys.bundle import read_config, verify
from recsys.errors import RecsysError
from recsys.progress import stage
from recsys.registry import bundle_folder
from serving.loading import Bundle, load_bundle, read_dataset
from training.evaluation.baselines import fit_baselines
from training.evaluation.evaluate import SPLIT_SEGMENTS, evaluate
from training.evaluation.report import Report
from training.plan import PLANS, item_counts


def evaluate_model(folder: Path, model: str, split: str, with_baselines: bool) -> Report:
    """Evaluate a registered model (or bundle folder) on a split of the dataset in `folder`.

    Raises:
        RecsysError: the model or the dataset cannot be read, or the split is empty or was fitted.
    """
    dataset, bundle, log = _open(folder, model)
    fit_on = bundle.manifest["fit_on"]
    if SPLIT_SEGMENTS[split] in PLANS[fit_on].refit:
        raise RecsysError(
            f"--split {split}: the model was fitted on it (--fit-on {fit_on}); "
            f"train with --fit-on train{'' if split == 'valid' else '+valid'} to measure on {split}"
        )
    if not len(log.requests(SPLIT_SEGMENTS[split])):
        raise RecsysError(f"{folder}: split {split} has no events to measure on; see `recsys data check {folder}`")
    retriever = bundle.recommender.retriever
    baselines, skipped = (
        fit_baselines(retriever.config, retriever.items, dataset, log, fit_on) if with_baselines else ({}, {})
    )
    with stage(f"evaluating on {split}") as update:
        report = evaluate(
            bundle.recommender,
            log,
            split,
            dataset=dataset.info.name,
            counts=item_counts(log, fit_on, len(retriever.vectors)),
            baselines=baselines,
            truth_folder=dataset.folder,
            update=update,
        )
    return replace(report, skipped=skipped)


def _open(folder: Path, model: str) -> tuple[Dataset, Bundle, EventLog]:
    path = bundle_folder(model)
    manifest, config = verify(path), read_config(path)
    dataset = read_dataset(folder, config, manifest["dataset_fingerprint"], model)
    with stage(f"loading {model}"):
        bundle = load_bundle(path, dataset.items)
    return dataset, bundle, read_log(dataset, config, bundle.recommender.retriever.items["item_id"])
