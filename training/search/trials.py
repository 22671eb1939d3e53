"""One trial: fit what its configuration changes, and measure it on `valid`.

In: a `Job`, and the values of some keys. Out: ndcg@10 of the requests of `valid`, `[R]`.

`test` is not there: the log of a search ends with `valid`. What a trial fits on ends with `train`, as for `--fit-on train`.

A ranker's trial keeps the interest model, which is fitted once (`prepare_shared`), and, where its configuration does not change
them, taste model, sources and facts; measured are the lists, as in a report. An interest model's trial is measured as training
chooses its epochs: by that model alone, ranking the whole catalogue.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from features.data.dataset import load_dataset
from features.histories import EARLY, LATE, VALID
from recsys.arrays import Ints
from recsys.config import Config
from recsys.progress import stage
from serving.recommender import Recommender
from serving.rerank import Reranker
from training.evaluation.evaluate import answer
from training.fits import Fitted, fit_interest, fit_ranker_of, fit_retrievers, interest_data
from training.interest.data import InterestData
from training.interest.ray_fit import NDCG, Epochs, choose_epochs, use_gpu
from training.interest.sequences import MAX_VALID_REQUESTS, at_most
from training.interest.trainer import (
    STATE,
    InterestTrainer,
    load_text_vectors,
    load_trained,
    ndcg_by_request,
    valid_scores,
)
from training.plan import PLANS, FitOn
from training.prepared import Prepared, prepare_dataset
from training.search.space import Kind, Space, kind_of, with_values

ENCODER, STAGES = "encoder", "stages"
"""Folders of what trials share, in that of the search."""

TUNING = {"interest.tuning_epochs", "interest.encoder_learning_rate", "encoder.trainable_layers"}
"""Keys of the fine-tuning of the text encoder, without which a search leaves it out."""

FIT_ON: FitOn = "train"


@dataclass(frozen=True)
class Job:
    """What every process that runs trials needs to know."""

    dataset: Path
    config: Config
    """The configuration that the search begins with."""
    kind: Kind
    tuning: bool
    """Whether trials fine-tune the text encoder."""
    seed: int
    threads: int
    folder: Path = Path()
    """Folder of the search."""

    @classmethod
    def of(cls, dataset: Path, config: Config, space: Space, seed: int, threads: int) -> "Job":
        """Return the job of a search in `space`."""
        return cls(dataset.resolve(), config, kind_of(space), bool(TUNING & space.keys()), seed, threads)


def prepared_of(job: Job) -> Prepared:
    """Return the dataset made ready, without the events of `test`."""
    return _prepared(job.dataset, job.config, job.seed)


@lru_cache(maxsize=1)
def _prepared(dataset: Path, config: Config, seed: int) -> Prepared:
    return without_test(prepare_dataset(load_dataset(dataset, config.data.on_invalid), config, seed))


def without_test(prepared: Prepared) -> Prepared:
    """Return the same dataset with a log that ends with `valid`."""
    return replace(prepared, log=prepared.log.in_segments(EARLY, LATE, VALID))


def users_of(job: Job) -> Ints:
    """Return the users of the requests that are measured, `[R]`."""
    prepared = prepared_of(job)
    requests = prepared.log.requests(VALID)
    if job.kind == "interest":
        requests = at_most(MAX_VALID_REQUESTS, requests, prepared.dataset.has_clock)
    return requests.users


def prepare_shared(job: Job) -> None:
    """Fit what all trials share into the folder of the search; what is there stays.

    Raises:
        RecsysError: the data are too few, or a fit failed.
    """
    if job.kind == "ranker":
        fit_interest(prepared_of(job), FIT_ON, job.folder / STAGES)
        return
    folder = job.folder / ENCODER
    if not (folder / STATE).exists():
        with stage("encoding the catalogue"):
            folder.mkdir(parents=True, exist_ok=True)
            data = _interest_data(job, job.config)
            device = torch.device("cuda" if use_gpu(job.config) else "cpu")
            InterestTrainer(data, job.config, device=device, seed=job.seed).save(folder)


def measure(
    job: Job, parameters: Mapping[str, Any], folder: Path, on_best: Callable[[float], None]
) -> NDArray[np.float64]:
    """Return ndcg@10 of the requests of `valid` `[R]` for the job's configuration with other `parameters`.

    A fit of the interest model leaves its checkpoints in `folder` and passes each epoch's best ndcg@10 so far to `on_best`.
    """
    torch.set_num_threads(job.threads)
    config = with_values(job.config, parameters)
    return _measure_ranker(job, config) if job.kind == "ranker" else _measure_interest(job, config, folder, on_best)


def _measure_ranker(job: Job, config: Config) -> NDArray[np.float64]:
    fitted, prepared = _fitted(job, config), replace(prepared_of(job), config=config)
    ranker = fit_ranker_of(prepared, FIT_ON, replace(fitted.early, config=config))
    recommender = Recommender(replace(fitted.late, config=config), ranker, Reranker(config.lists))
    evaluation, _, ranks = answer(recommender, prepared.log, "valid")
    return evaluation.per_request(ranks)[NDCG]


def _fitted(job: Job, config: Config) -> Fitted:
    """Return what the ranker of `config` builds on; configurations that differ in the ranker and in quotas alone share it."""
    return _fit_once(job, _of_retrieval(job.config, config))


@lru_cache(maxsize=2)
def _fit_once(job: Job, config: Config) -> Fitted:
    """Fit all but the ranker, upon the fits of the interest model and the vectors of texts that there are already."""
    first, texts = _of_retrieval(job.config, job.config), None
    if config != first:
        texts = _fit_once(job, first).texts
        texts = texts if texts.segments or not config.sources.taste else None
    return fit_retrievers(replace(prepared_of(job), config=config), FIT_ON, job.folder / STAGES, texts=texts)


def _of_retrieval(first: Config, config: Config) -> Config:
    """Return the configuration `first` with what `config` says about the parts of a retriever."""
    ranker = {key: getattr(config.ranker, key) for key in ("attributes", "rehearsed_share", "max_requests")}
    parts = {
        "taste": config.taste,
        "sources": config.sources.model_copy(update={name: min(quota, 1) for name, quota in config.sources}),
        "ranker": first.ranker.model_copy(update=ranker),
        "lists": first.lists.model_copy(update={"exclude_seen": config.lists.exclude_seen}),
    }
    return first.model_copy(update=parts)


def _interest_data(job: Job, config: Config) -> InterestData:
    """Return the sequences before `valid`, which the epochs of a model that is registered are chosen on."""
    return interest_data(replace(prepared_of(job), config=config), PLANS["train+valid"].choose)


def _measure_interest(job: Job, config: Config, folder: Path, on_best: Callable[[float], None]) -> NDArray[np.float64]:
    if not job.tuning:
        config = with_values(config, {"interest.tuning_epochs": 0})
    data = _interest_data(job, config)
    seen = 0

    def on_epochs(epochs: Epochs) -> None:
        nonlocal seen
        for count in range(seen + 1, len(epochs) + 1):
            on_best(max(epoch[NDCG] for epoch in epochs[:count]))
        seen = len(epochs)

    fit = choose_epochs(
        data,
        config=config,
        seed=job.seed,
        folder=folder,
        update=lambda share, note: None,
        on_epochs=on_epochs,
        encoder_from=job.folder / ENCODER,
    )
    best = Path(fit.checkpoint)
    device = torch.device(fit.device)
    model = load_trained(best, config, torch.from_numpy(data.frequencies() > 0)).to(device)
    return ndcg_by_request(valid_scores(model, torch.from_numpy(load_text_vectors(best)).to(device), data), data)
