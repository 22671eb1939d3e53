"""From a dataset to a registered model: the whole of `recsys train`.

In: a dataset folder and the configuration. Out: an MLflow run with a registered bundle. What is evaluated knows only the events
that `--fit-on` names; what is registered has the same models, over the counts, sources and histories of all events.

What is fitted, and on which events, is in `training.fits`; its stages are kept in the run's folder, so that `--resume` goes on
where a run was stopped.
"""

import json
import shutil
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from features.data.dataset import load_dataset
from features.histories import TEST, VALID, EventLog, split_rule
from recsys import names
from recsys.config import WORK, Config
from recsys.errors import RecsysError
from recsys.progress import console, stage, timed
from serving.loading import save_bundle
from serving.recommender import Recommender
from serving.retrieval.windows import LATEST
from training import costs, tracking
from training.evaluation.baselines import fit_baselines
from training.evaluation.evaluate import evaluate
from training.evaluation.report import Report
from training.fits import fit, judge_update, up_to_date
from training.interest.ray_fit import Epochs
from training.machine import machine
from training.pictures.charts import pictures
from training.pictures.page import as_files, report_page
from training.plan import PLANS, FitOn, item_counts
from training.prepared import Prepared, prepare_dataset
from training.queries import learn
from training.run_info import FULL_FIT, UPDATE, UPDATED_FROM
from training.update import Start

EARLIER_RUNS = 200
"""Latest runs among which one is sought that tells how long a training takes."""


@dataclass(frozen=True)
class Trained:
    """What `recsys train` prints."""

    run_id: str
    version: str
    report: Report | None

    @property
    def model(self) -> str:
        """The registered version, as other commands name it."""
        return names.version_name(self.version)


def train(
    folder: Path,
    config: Config,
    name: str | None,
    seed: int,
    fit_on: FitOn,
    resume: str | None = None,
    start: Start | None = None,
) -> Trained:
    """Train on the dataset in `folder`, from the model `start` on where given, log to MLflow and register the bundle.

    Raises:
        RecsysError: the data, the configuration, the model to start from or the run to resume is invalid.
    """
    config = start.continued(config) if start else config
    with stage("reading the data"):
        dataset = load_dataset(folder, config.data.on_invalid)
        prepared = replace(prepare_dataset(dataset, config, seed), start=start)
        if start:
            start.refuse_other_data(dataset, prepared.log, split_rule(dataset, config))
    run_id = _open_run(prepared, name, fit_on, resume)
    console.print(f"MLflow run {run_id}; resume it with --resume {run_id}", soft_wrap=True)
    if resume is None:
        expected = costs.estimate(prepared.sizes, config, start is not None, tracking.runs(limit=EARLIER_RUNS))
        console.print(f"time: {expected}", soft_wrap=True, markup=False)
    log_epochs = tracking.EpochLog(run_id)

    def log_meanwhile(title: str, epochs: Epochs) -> None:
        with suppress(RecsysError):  # they are logged when the fit has ended
            log_epochs(title, epochs)

    try:
        with timed() as seconds, tracking.system_metrics(run_id):
            prepared = _guarded(prepared, fit_on, run_id)
            recommender, fits = fit(prepared, fit_on, WORK / "runs" / run_id, log_meanwhile)
            for title, result in fits.items():
                log_epochs(title, result.history)
            recommender = with_learned_queries(recommender, prepared, fit_on, run_id)
            report = _report(recommender, prepared, fit_on)
            _log_pictures(run_id, report, {title: result.history for title, result in fits.items()})
            version = _register(run_id, up_to_date(prepared, recommender), prepared, fit_on, report)
        tracking.log_metrics(run_id, costs.metrics_of(seconds, prepared.sizes))
        console.print(costs.summary(seconds, prepared.sizes), soft_wrap=True, markup=False)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            options = f"--from {start.model} " if start else ""
            console.print(f"`recsys train {folder} {options}--resume {run_id}` continues this run", soft_wrap=True)
        with suppress(RecsysError):  # the original error matters more than a failure to record it
            tracking.end_run(run_id, finished=False)
        raise
    tracking.end_run(run_id, finished=True)
    shutil.rmtree(WORK / "runs" / run_id, ignore_errors=True)
    return Trained(run_id, version, report)


def _guarded(prepared: Prepared, fit_on: FitOn, run_id: str) -> Prepared:
    """Return what is fitted: an update that is worse than the model it starts from gives way to a fit from nothing."""
    if not prepared.start:
        return prepared
    verdict = judge_update(prepared, fit_on, WORK / "runs" / run_id)
    console.print(verdict.line(prepared.start.model), soft_wrap=True, markup=False)
    tracking.log_metrics(run_id, verdict.metrics())
    tracking.set_tag(run_id, UPDATE, FULL_FIT if verdict.worse else "kept")
    return replace(prepared, start=None) if verdict.worse else prepared


def with_learned_queries(recommender: Recommender, prepared: Prepared, fit_on: FitOn, run_id: str) -> Recommender:
    """Return the recommender whose search has learned from the dataset's queries, if it has any; log what that is worth."""
    dataset = prepared.dataset
    if dataset.queries is None:
        return recommender
    if split_rule(dataset, prepared.config) != "time":
        console.print("the search learns from no queries: these are split by time, and the events are not")
        return recommender
    retriever, tokenizer = recommender.retriever, prepared.tokenizer
    cuts = query_cuts(prepared.log)
    with stage("learning from queries") as update:
        learned = learn(dataset.queries, retriever, tokenizer, cuts, fit_on, prepared.seed, update)
    console.print(f"search: {learned.said}", soft_wrap=True, markup=False)
    if learned.test:
        tracking.log_metrics(run_id, learned.test.metrics())
    return replace(recommender, retriever=replace(retriever, queries=learned.tower))


def query_cuts(log: EventLog) -> tuple[int, int]:
    """Return the times with which `valid` and `test` begin in a log that is split by time."""
    valid, test = (int(log.times[log.segments == segment].min(initial=LATEST)) for segment in (VALID, TEST))
    return valid, test


def _report(recommender: Recommender, prepared: Prepared, fit_on: FitOn) -> Report | None:
    """Evaluate on test beside the fast baselines, unless test was fitted."""
    requests = len(prepared.log.requests(TEST))
    if fit_on == "all" or not requests:
        console.print("nothing left to evaluate on: test was fitted or is empty")
        return None
    dataset = prepared.dataset
    baselines, skipped = fit_baselines(prepared.config, dataset.items, dataset, prepared.log, fit_on, slow=False)
    with stage("evaluating on test") as update:
        report = evaluate(
            recommender,
            prepared.log,
            "test",
            dataset=dataset.info.name,
            counts=item_counts(prepared.log, fit_on, dataset.items.height),
            baselines=baselines,
            truth_folder=dataset.folder,
            update=update,
        )
    return replace(report, skipped=skipped)


def _log_pictures(run_id: str, report: Report | None, fits: dict[str, Epochs]) -> None:
    """Keep the epochs of the fits, pictures, and the report as a page with the run."""
    with stage("drawing pictures"):
        drawn = pictures(report, fits)
        page = report_page(report, drawn, f"run {run_id[:8]}") if report else None
        tracking.log_text(run_id, json.dumps(fits), tracking.EPOCHS)
        tracking.log_files(run_id, as_files(page, drawn))


def _open_run(prepared: Prepared, name: str | None, fit_on: FitOn, resume: str | None) -> str:
    tags = {
        "dataset.fingerprint": prepared.dataset.fingerprint,
        "config": prepared.config.model_dump_json(),
        "seed": str(prepared.seed),
        "fit_on": fit_on,
    }
    if prepared.start:
        tags[UPDATED_FROM] = ", ".join(prepared.start.chain)
    if resume is None:
        sections = prepared.config.model_dump(mode="json")
        params = {f"{part}.{key}": value for part, body in sections.items() for key, value in body.items()}
        params |= {"dataset": prepared.dataset.info.name, "seed": prepared.seed, "fit_on": fit_on}
        if prepared.start:
            params["from"] = prepared.start.model
        run_id = tracking.start_run(name, params, tags | machine())
        _log_dataset(run_id, prepared)
        return run_id
    tracking.resume_run(resume, {UPDATED_FROM: ""} | tags)
    return resume


def _log_dataset(run_id: str, prepared: Prepared) -> None:
    dataset, log = prepared.dataset, prepared.log
    counts: dict[str, int | str] = {
        "items": dataset.items.height,
        "users": len(log.user_ids),
        "events": len(log.times),
        "requests of test": len(log.requests(TEST)),
    }
    if dataset.has_clock and len(log.times):
        first, last = (
            datetime.fromtimestamp(time / 1e6, UTC).isoformat() for time in (log.times.min(), log.times.max())
        )
        counts |= {"first event": first, "last event": last}
    tracking.log_dataset(run_id, dataset.info.name, dataset.fingerprint, dataset.folder, counts)


def _register(run_id: str, recommender: Recommender, prepared: Prepared, fit_on: FitOn, report: Report | None) -> str:
    fitted = prepared.segments(PLANS[fit_on].refit).times
    about = {
        "dataset": prepared.dataset.info.name,
        "dataset_fingerprint": prepared.dataset.fingerprint,
        "items_as_of": prepared.dataset.items_as_of,
        "seed": prepared.seed,
        "fit_on": fit_on,
        "fitted_until": int(fitted.max(initial=0)) if prepared.dataset.has_clock else None,
        "updated_from": prepared.start.chain if prepared.start else [],
        "event_weights": prepared.weights,
        "metrics": report.as_dict()["metrics"] if report else {},
    }
    if report:
        tracking.log_metrics(run_id, report.flat())
        tracking.log_text(run_id, report.as_json(), "evaluation.json")
        tracking.log_requests(run_id, report.requests)
    with stage("registering the model"):
        folder = WORK / "runs" / run_id / "bundle"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        save_bundle(folder, recommender, prepared.tokenizer, prepared.segments(PLANS["all"].refit), about)
        return tracking.register(run_id, folder, *_of_version(prepared, fit_on, report))


def _of_version(prepared: Prepared, fit_on: FitOn, report: Report | None) -> tuple[str, dict[str, str]]:
    """Return what the registry says of a version: a description with what differs from the defaults, and tags."""
    data, defaults = prepared.dataset.info.name, Config().model_dump()
    changed = [
        f"{part}.{key}={value}"
        for part, body in prepared.config.model_dump().items()
        for key, value in body.items()
        if value != defaults[part][key]
    ]
    tags = {"dataset": data, "fingerprint": prepared.dataset.fingerprint, "fit_on": fit_on, "seed": str(prepared.seed)}
    if prepared.start:
        tags[UPDATED_FROM] = prepared.start.model
        data = f"{data}, updated from {prepared.start.model}"
    measured = "not measured"
    if report:
        gain = report.metrics["ndcg@10"]
        measured = f"ndcg@10 {gain.value:.4f} [{gain.low:.4f}, {gain.high:.4f}] on test, {report.n:,} requests"
        tags |= {"ndcg_at_10": f"{gain.value:.4f}", "hr_at_10": f"{report.metrics['hr@10'].value:.4f}"}
    return (
        f"{data}, --fit-on {fit_on}, seed {prepared.seed}: {measured}; {', '.join(changed) or 'default configuration'}",
        tags,
    )
