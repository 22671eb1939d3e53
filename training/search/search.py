"""From a dataset to a better configuration: the whole of `recsys tune`.

In: a dataset folder, a configuration, a space, and how far to go. Out: an MLflow run with a nested run per trial, a `Found` with the best
configuration, and what `--resume` needs in `.recsys/searches/RUN`.

Whether the best is better than the configuration that the search began with is decided on the same requests of `valid`, with an
interval that allows for the number of trials (Bonferroni), since the best of many looks good by chance. Its figure on `valid` is too high
for the same reason; `test`, which no trial sees, has the honest one.
"""

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import torch

from recsys import names
from recsys.atomic import atomic_file
from recsys.config import WORK, Config, as_toml
from recsys.errors import RecsysError
from recsys.metrics import CONFIDENCE, Interval, bootstrap_interval
from recsys.progress import console, stage
from training import tracking
from training.evaluation.compare import SAMPLES
from training.machine import machine
from training.pictures.canvas import Picture
from training.pictures.search import search_picture
from training.search.record import FAILED, FINISHED, STOPPED, Records, Trial, best_of
from training.search.run import Limits, importance, run_trials
from training.search.space import Space, labelled, value_of, with_values
from training.search.trials import Job, prepare_shared, prepared_of, users_of

SEARCHES = WORK / "searches"
VALID_NDCG = "valid_ndcg_at_10"


@dataclass(frozen=True)
class Found:
    """What a search has found."""

    run_id: str
    space: Space
    trials: list[Trial]
    """In the order of their starts."""
    default: Trial
    """The trial of the configuration that the search began with."""
    best: Trial
    interval: Interval
    """How much the best is above the default, on the same requests."""
    requests: int
    config: Config
    """The best configuration."""
    importance: dict[str, float]
    """By key, shares of the differences between trials; empty where there are too few."""

    @property
    def better(self) -> bool:
        """Whether the best is better than the default beyond chance."""
        return self.interval.low > 0

    @property
    def verdict(self) -> str:
        """What to make of it, in a sentence."""
        if self.best == self.default:
            return "no trial is better than the default configuration: keep the default"
        gap = f"{self.interval.value:+.4f} [{self.interval.low:+.4f}, {self.interval.high:+.4f}]"
        if self.better:
            return f"better than the default configuration by {gap} of ndcg@10 on valid"
        return f"not better than the default configuration by the interval, {gap} of ndcg@10 on valid: keep the default"

    @property
    def toml(self) -> str:
        """The best configuration as a TOML file, which says where it comes from."""
        return f"# recsys tune, run {self.run_id}, {len(self.trials)} trials: {self.verdict}\n{as_toml(self.config)}"

    @cached_property
    def picture(self) -> Picture:
        """The trials in their order, and what decides between them."""
        measured = [trial for trial in self.trials if trial.metric is not None]
        points = [(trial.metric or 0.0, trial.finished) for trial in measured]
        title = f"The best of {len(measured)} trials is {'better' if self.better else 'not better'} than the default"
        return search_picture(points, measured.index(self.default), title, self.verdict, self.importance)


def search(
    dataset: Path, config: Config, space: Space, limits: Limits, seed: int, name: str | None, resume: str | None
) -> Found:
    """Search in `space` for a configuration better than `config` on the dataset in `dataset`, and log to MLflow.

    Raises:
        RecsysError: the data or the run to resume is invalid, or the time was over before there was a result.
    """
    began = time.monotonic()
    job = Job.of(dataset, config, space, seed, threads=max(1, torch.get_num_threads() // limits.concurrent))
    with stage("reading the data"):
        prepared_of(job)
    run_id = _open_run(job, space, name, resume)
    job = replace(job, folder=(SEARCHES / run_id).resolve())
    again = f"`recsys tune {dataset} --resume {run_id}` with the same options"
    console.print(f"MLflow run {run_id}; go on with it by --resume {run_id}", soft_wrap=True)
    try:
        prepare_shared(job)
        left = limits.seconds and limits.seconds - (time.monotonic() - began)
        records = _run(job, space, replace(limits, seconds=left), run_id)
        found = _found(job, space, records, run_id, again)
        _log(found)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            console.print(f"{again} goes on with this search", soft_wrap=True)
        with suppress(RecsysError):  # the original error matters more than a failure to record it
            tracking.end_run(run_id, finished=False)
        raise
    tracking.end_run(run_id, finished=True)
    return found


def _open_run(job: Job, space: Space, name: str | None, resume: str | None) -> str:
    dataset = prepared_of(job).dataset
    tags = {
        "dataset.fingerprint": dataset.fingerprint,
        "config": job.config.model_dump_json(),
        "seed": str(job.seed),
        "space": json.dumps({key: asdict(domain) for key, domain in space.items()}),
    }
    if resume:
        tracking.resume_run(resume, tags)
        return resume
    about = {"mlflow.source.name": "recsys tune"} | machine()
    params = {"dataset": dataset.info.name, "seed": job.seed, "searches": job.kind}
    return tracking.start_run(name, params, tags | about, names.searches())


def _run(job: Job, space: Space, limits: Limits, run_id: str) -> Records:
    """Run trials until a limit is reached, each of which is logged when it ends."""
    records = Records(job.folder)
    records.forget_failed()
    with stage("searching") as update:

        def on_trial(trial: Trial) -> None:
            trials = records.trials()
            number = trials.index(trial)
            _log_trial(run_id, number, trial)
            if trial.state == FAILED:
                console.print(f"trial {number} failed, {trial.words}: {trial.error}", soft_wrap=True, markup=False)
            update(len(trials) / limits.trials, _note(trials))

        if limits.seconds is None or limits.seconds > 0:
            run_trials(job, space, limits, records, on_trial)
    return records


def _note(trials: list[Trial]) -> str:
    finished = [trial for trial in trials if trial.finished]
    best = f", best ndcg@10 {best_of(trials).metric:.4f}" if finished else ""
    return f"{len(trials)} trials{best}"


def _log_trial(run_id: str, number: int, trial: Trial) -> None:
    metrics: dict[str, Sequence[float]] = {f"epochs/{VALID_NDCG}": trial.epochs, "seconds": (trial.seconds,)}
    if trial.metric is not None:
        metrics[VALID_NDCG] = (trial.metric,)
    times_s = (trial.started, trial.started + trial.seconds)
    status = {FINISHED: "FINISHED", STOPPED: "KILLED", FAILED: "FAILED"}[trial.state]
    tracking.log_nested(run_id, f"trial {number}", trial.parameters, metrics, times_s, status)


def _found(job: Job, space: Space, records: Records, run_id: str, again: str) -> Found:
    """Return what the trials that are kept tell.

    Raises:
        RecsysError: the configuration that the search began with was not measured.
    """
    trials = records.trials()
    start = labelled(space, {key: value_of(job.config, key) for key in space})
    default = next((trial for trial in trials if labelled(space, trial.parameters) == start), None)
    if default is None or not default.finished:
        problem = (
            f"failed: {default.error}; {again} tries again"
            if default
            else f"did not end in time; {again} and more time goes on"
        )
        raise RecsysError(f"the first trial, that of the configuration itself, {problem}")
    best, users = best_of(trials), users_of(job)
    gains = records.values(best) - records.values(default)
    looks = max(1, sum(trial.finished for trial in trials) - 1)
    return Found(
        run_id=run_id,
        space=space,
        trials=trials,
        default=default,
        best=best,
        interval=bootstrap_interval(gains, users, SAMPLES, confidence=1 - (1 - CONFIDENCE) / looks),
        requests=len(users),
        config=with_values(job.config, best.parameters),
        importance=importance(space, trials),
    )


def _log(found: Found) -> None:
    """Log the best configuration, its figures and the picture to the run of the search."""
    gap = found.interval
    figures = {VALID_NDCG: found.best.metric or 0.0, f"default_{VALID_NDCG}": found.default.metric or 0.0}
    figures |= {"above_default": gap.value, "above_default_low": gap.low, "above_default_high": gap.high}
    tracking.log_metrics(found.run_id, figures)
    tracking.log_files(found.run_id, {"best.toml": found.toml.encode(), "search.png": found.picture.png})


def write(found: Found, path: Path) -> None:
    """Write the best configuration to `path`, for `recsys train --config`, and the picture beside it."""
    with atomic_file(path) as temporary:
        temporary.write_text(found.toml, encoding="utf-8")
    with atomic_file(path.with_suffix(".png")) as temporary:
        temporary.write_bytes(found.picture.png)
