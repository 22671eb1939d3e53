"""Search under Ray Tune: Optuna proposes, ASHA stops what is behind; the only module that imports Ray Tune and Optuna.

In: a `Job`, a `Space`, how many trials and how long. Out: `Records` in the folder of the search.

The sampler (TPE, Bergstra et al. 2011) is told what is there of trials before; the first trial of a search is the configuration that it
begins with. ASHA (Li et al. 2020) stops trials of the interest model by their epochs; a ranker is fitted in one go.
"""

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler
from ray.tune.search.optuna import OptunaSearch

from recsys.cluster import interruptible, start_ray
from training.interest.ray_fit import NDCG
from training.search.record import FAILED, FINISHED, STOPPED, Records, Trial
from training.search.space import Choices, Space, labelled, unlabelled, value_of
from training.search.trials import Job, measure

QUIET = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",  # what is resumed are our own records
    "TUNE_WARN_THRESHOLD_S": "1000000000",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "OMP_WAIT_POLICY": "PASSIVE",  # trials beside other work would spin while they wait for their own threads
}
GRACE_EPOCHS, REDUCTION = 2, 3
"""ASHA: epochs that every trial may run, and which part of the trials goes on at 2, 6, 18 … of them: the best third."""
MOST_EPOCHS = 1000
BY_ITSELF = "ended_by_itself"
"""What a trial's last report says, unless it is stopped before."""
LEAVING_CORES = {"cpu": 0, "memory": 1}
"""What a trial asks for whose cores are for the workers of its fit; Ray Tune refuses to ask for nothing."""
FEW_TO_WEIGH = 10
"""Trials below which nothing is said of a key's importance."""

optuna.logging.set_verbosity(optuna.logging.ERROR)


@dataclass(frozen=True)
class Limits:
    """How far a search goes."""

    trials: int
    """All of them, with those that are there already."""
    seconds: float | None = None
    concurrent: int = 1


def run_trials(job: Job, space: Space, limits: Limits, records: Records, on_trial: Callable[[Trial], None]) -> None:
    """Run trials until there are as many as `limits` says, or the time is over; `on_trial` gets each that ended.

    Raises:
        RecsysError: Ray did not start.
    """
    kept = [trial for trial in records.trials() if trial.state != FAILED]
    if len(kept) >= limits.trials:
        return
    os.environ.update(QUIET)
    start_ray()
    try:
        interruptible(partial(_tune, job, space, limits, kept, _Recorder(space, limits, records, on_trial)))
    finally:
        shutil.rmtree(job.folder / "ray", ignore_errors=True)


def _tune(job: Job, space: Space, limits: Limits, kept: list[Trial], recorder: "_Recorder") -> None:
    # `tune.Tuner` would pickle the recorder, and with it all that shows progress.
    tune.run(
        tune.with_parameters(_trial, job=job, space=space),
        name="ray",
        storage_path=str(job.folder),
        metric=NDCG,
        mode="max",
        search_alg=_searcher(job, space, kept),
        scheduler=_asha() if job.kind == "interest" else FIFOScheduler(),
        num_samples=limits.trials - len(kept),
        max_concurrent_trials=limits.concurrent,
        time_budget_s=limits.seconds,
        resources_per_trial={"cpu": job.threads} if job.kind == "ranker" else LEAVING_CORES,
        reuse_actors=True,
        raise_on_failed_trial=False,
        verbose=0,
        callbacks=[recorder],
    )


def _asha() -> AsyncHyperBandScheduler:
    return AsyncHyperBandScheduler(max_t=MOST_EPOCHS, grace_period=GRACE_EPOCHS, reduction_factor=REDUCTION)


def _trial(labels: dict[str, Any], job: Job, space: Space) -> None:
    """Run one trial in a process of Ray Tune."""
    trial_id, records = tune.get_context().get_trial_id(), Records(job.folder)
    values = measure(
        job,
        unlabelled(space, labels),
        records.work / trial_id,
        lambda best: tune.report({NDCG: best, BY_ITSELF: False}),
    )
    records.keep_values(trial_id, values)
    tune.report({NDCG: float(values.mean()), BY_ITSELF: True})


def _searcher(job: Job, space: Space, kept: list[Trial]) -> OptunaSearch:
    """Return the sampler, which knows the trials that are `kept` and else begins with the job's configuration."""
    default = labelled(space, {key: value_of(job.config, key) for key in space})
    known = [labelled(space, trial.parameters) for trial in kept]
    searcher = OptunaSearch(
        _distributions(space),
        metric=NDCG,
        mode="max",
        sampler=optuna.samplers.TPESampler(seed=job.seed + len(kept)),
        points_to_evaluate=None if default in known else [default],
    )
    for parameters, trial in zip(known, kept, strict=True):
        searcher.add_evaluated_point(parameters, trial.metric)
    return searcher


def _distributions(space: Space) -> dict[str, BaseDistribution]:
    """Return the space as Optuna knows it."""

    def of(key: str) -> BaseDistribution:
        domain = space[key]
        if isinstance(domain, Choices):
            return CategoricalDistribution(domain.labels)
        if domain.whole:
            return IntDistribution(int(domain.low), int(domain.high), log=domain.log)
        return FloatDistribution(domain.low, domain.high, log=domain.log)

    return {key: of(key) for key in space}


class _Recorder(tune.Callback):
    """Keeps each trial when it ends."""

    def __init__(self, space: Space, limits: Limits, records: Records, on_trial: Callable[[Trial], None]) -> None:
        self.space, self.records, self.on_trial = space, records, on_trial
        self.until = time.monotonic() + limits.seconds if limits.seconds else float("inf")
        self.started: dict[str, float] = {}
        self.epochs: dict[str, list[float]] = {}

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self.started[trial.trial_id] = time.time()

    def on_trial_result(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: dict[str, Any], **info: Any
    ) -> None:
        if not result[BY_ITSELF]:
            self.epochs.setdefault(trial.trial_id, []).append(result[NDCG])

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        by_itself = trial.last_result.get(BY_ITSELF, False)
        if by_itself or time.monotonic() < self.until:  # else it was the time that stopped it
            self._keep(trial, FINISHED if by_itself else STOPPED, metric=trial.last_result[NDCG])

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self._keep(trial, FAILED, error=_reason(Path(trial.error_file)))

    def _keep(self, trial: TuneTrial, state: str, metric: float | None = None, error: str = "") -> None:
        started = self.started.get(trial.trial_id, time.time())
        epochs = tuple(self.epochs.pop(trial.trial_id, ()))
        parameters = unlabelled(self.space, trial.config)
        kept = Trial(trial.trial_id, started, time.time() - started, state, parameters, metric, epochs, error)
        self.records.add(kept)
        self.on_trial(kept)


def _reason(error_file: Path) -> str:
    """Return in a line why a trial failed, from what Ray Tune has written of it."""
    text = error_file.read_text(encoding="utf-8") if error_file.exists() else ""
    _, known, reason = text.strip().rpartition("\n")[2].partition("Error: ")
    return reason if known else "its process was killed, perhaps for want of memory"


def importance(space: Space, trials: list[Trial]) -> dict[str, float]:
    """Return how much of the differences between trials each key accounts for, as shares (PED-ANOVA, Watanabe et al. 2023).

    It is empty where the trials are too few to tell.
    """
    measured = [trial for trial in trials if trial.metric is not None]
    if len(measured) < FEW_TO_WEIGH:
        return {}
    study = optuna.create_study(direction="maximize")
    for trial in measured:
        parameters = labelled(space, trial.parameters)
        study.add_trial(
            optuna.trial.create_trial(params=parameters, distributions=_distributions(space), value=trial.metric)
        )
    return dict(optuna.importance.get_param_importances(study))
