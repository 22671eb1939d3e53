"""From a dataset to a registered model: the whole of `recsys train`.

In: a dataset folder and the configuration. Out: an MLflow run with a registered bundle. What is evaluated knows only the events
that `--fit-on` names; what is registered has the same models, over the counts, sources and histories of all events.

Choices are made on `valid`: the interest model is fitted on what comes before the ranker's segment
and stopped by `valid`; the ranker learns from the later segment; then the interest model is fitted
anew, for as many epochs, on everything that `--fit-on` allows. Each stage leaves its result in the
run's folder, so that `--resume` goes on where a run was stopped.

With `--from MODEL` both fits start from that model's weights and learn from the events since (`training.update`).
"""

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from features.context import refuse_unknown_columns
from features.data.dataset import Dataset, load_dataset
from features.data.validate import judge_texts
from features.facts import fit_facts, refuse_no_numbers
from features.histories import TEST, VALID, EventLog, Requests, fit_context, read_log, split_rule, type_weights
from features.leakage import refuse_leakage
from features.opinions import refuse_bad_opinions
from features.ranking import RankingFeatures
from features.tokens import item_tokens
from recsys import names
from recsys.arrays import Bools, Ints
from recsys.config import WORK, Config
from recsys.errors import RecsysError
from recsys.models.encoder import Tokens, load_encoder
from recsys.models.interest import InterestModel
from recsys.models.rankers import Ranker
from recsys.models.taste import SegmentVectors, TasteModel
from recsys.progress import console, stage, timed
from serving.encoding import project, segment_vectors, taste_vectors
from serving.loading import feature_sources, save_bundle
from serving.recommender import Recommender
from serving.rerank import Reranker
from serving.retrieval.retriever import Retriever
from serving.retrieval.sources import SOURCES, FitContext
from serving.retrieval.windows import LATEST
from training import costs, tracking
from training.encoding import catalogue_vectors
from training.evaluation.baselines import fit_baselines
from training.evaluation.evaluate import evaluate
from training.evaluation.report import Report
from training.interest.data import InterestData
from training.interest.ray_fit import Epochs, InterestFit, OnEpochs, choose_epochs, refit, use_gpu
from training.interest.sequences import at_most, prepare, valid_requests
from training.interest.text_vectors import catalogue_text_vectors
from training.interest.trainer import STATE, load_text_vectors, load_trained
from training.machine import machine
from training.pictures.charts import pictures
from training.pictures.page import as_files, report_page
from training.plan import PLANS, UPDATES, FitOn, FitPlan, Segments, item_counts
from training.queries import learn
from training.ranker import fit_ranker
from training.ranker.calibration import latest_rows
from training.ranker.data import RankingData, impression_data, ranking_data
from training.ranker.neural import epochs_of
from training.run_info import FULL_FIT, UPDATE, UPDATED_FROM
from training.taste.data import prepare_taste
from training.taste.fit import fit_taste
from training.update import Start, Verdict

START = "start"
"""Folder of the weights that an update starts from, beside those of the stages."""

EARLIER_RUNS = 200
"""Latest runs among which one is sought that tells how long a training takes."""

REPEAT_SHARE = 0.01
"""If at least this share of the targets had been seen before, seen items stay in lists (`exclude_seen=auto`)."""


@dataclass(frozen=True)
class Prepared:
    """A dataset made ready: its log, tokens and everything that both fits share."""

    dataset: Dataset
    log: EventLog
    tokens: Tokens
    tokenizer: Any
    config: Config
    seed: int
    start: Start | None = None
    """The model that an update starts from."""

    @cached_property
    def _cuts(self) -> dict[Segments, EventLog]:
        return {}

    def segments(self, segments: Segments) -> EventLog:
        """Return the log of the events in `segments`, cut once."""
        if segments not in self._cuts:
            self._cuts[segments] = self.log.in_segments(*segments)
        return self._cuts[segments]

    @property
    def sizes(self) -> costs.Sizes:
        """How large the dataset is."""
        return costs.Sizes(len(self.log), self.dataset.items.height)

    @property
    def weights(self) -> dict[str, float]:
        """Event weights by type."""
        return self.dataset.info.event_weights

    def plan(self, fit_on: FitOn) -> FitPlan:
        """Return which segments each fit sees."""
        return (UPDATES if self.start else PLANS)[fit_on]

    @property
    def since(self) -> int | None:
        """The time up to which an update has nothing to learn; None for a fit from nothing."""
        return self.start.learned_until if self.start else None


@dataclass(frozen=True)
class CatalogueTexts:
    """The catalogue's texts as the text encoder reads them."""

    whole: Tensor
    """`[N, H]`"""
    segments: SegmentVectors | None
    """None without a taste model."""


@dataclass(frozen=True)
class Fitted:
    """All that is fitted but the ranker."""

    early: Retriever
    """What describes candidates to the ranker while it is fitted."""
    late: Retriever
    """What serves."""
    texts: CatalogueTexts
    fits: dict[str, InterestFit]
    """How the fits of the interest model went, by their titles `choose` and `refit`."""


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


def judge_update(prepared: Prepared, fit_on: FitOn, folder: Path) -> Verdict:
    """Fit the update whose epochs are chosen on `valid`, and compare it there with the model that it starts from."""
    plan = prepared.plan(fit_on)
    requests = ranker_requests(prepared, plan)
    _check_enough(prepared, plan, requests)
    chosen = _fit_interest(prepared, plan.choose, folder / "choose", "updating the interest model", lambda epochs: None)
    users = valid_requests(prepared.log, prepared.dataset.has_clock).users
    texts = load_text_vectors(Path(chosen.checkpoint))
    before, after = _load_start(prepared, folder), _load(prepared, plan.choose, chosen)
    return Verdict.of(before, after, texts, interest_data(prepared, plan.choose), users)


def up_to_date(prepared: Prepared, recommender: Recommender) -> Recommender:
    """Return the same models over the counts, sources and histories of all events, the newest ones too."""
    with stage("taking in the newest events"):
        weights = type_weights(prepared.weights)
        retriever = recommender.retriever.as_of(prepared.segments(PLANS["all"].refit), weights)
    return replace(recommender, retriever=retriever)


def prepare_dataset(dataset: Dataset, config: Config, seed: int) -> Prepared:
    """Split the events, build the log and tokenise the catalogue; print a warning if the encoder cannot read it.

    Raises:
        RecsysError: the configuration names attributes or an encoder that there is not.
    """
    refuse_no_numbers(dataset.items, config.ranker.attributes)
    users = dataset.users.schema if dataset.users is not None else None
    refuse_unknown_columns(config.ranker, dataset.events.collect_schema(), users)
    if config.ranker.opinion:
        refuse_bad_opinions(dataset.events, config.ranker.opinion)
    log = read_log(dataset, config)
    _, tokenizer = load_encoder(config.encoder)
    for warning in judge_texts(dataset.items, config.encoder.name, dataset.paths["items"].name)[1]:
        console.print(f"warning: {warning.line()}", soft_wrap=True, markup=False)
    tokens = item_tokens(dataset.items, tokenizer, config.encoder, WORK / "tokens")
    return Prepared(dataset, log, tokens, tokenizer, config, seed)


def fit(
    prepared: Prepared,
    fit_on: FitOn,
    folder: Path,
    on_epochs: Callable[[str, Epochs], None] = lambda title, epochs: None,
) -> tuple[Recommender, dict[str, InterestFit]]:
    """Fit everything in the stage folder `folder`; return the recommender and how the fits went.

    `on_epochs` is called now and then with a fit's title, `choose` or `refit`, and its epochs so far.
    """
    fitted = fit_retrievers(prepared, fit_on, folder, on_epochs)
    ranker = fit_ranker_of(prepared, fit_on, fitted.early)
    return Recommender(fitted.late, ranker, Reranker(prepared.config.lists)), fitted.fits


def fit_interest(prepared: Prepared, fit_on: FitOn, folder: Path) -> None:
    """Fit the interest model twice in the stage folder `folder`, where `fit_retrievers` then has it."""
    plan = prepared.plan(fit_on)
    _check_enough(prepared, plan, ranker_requests(prepared, plan))
    chosen = _fit_interest(prepared, plan.choose, folder / "choose", "choosing the interest model", _ignore)
    _fit_interest(prepared, plan.refit, folder / "refit", "fitting the interest model", _ignore, chosen)


def _ignore(epochs: Epochs) -> None:
    pass


def fit_retrievers(
    prepared: Prepared,
    fit_on: FitOn,
    folder: Path,
    on_epochs: Callable[[str, Epochs], None] = lambda title, epochs: None,
    texts: CatalogueTexts | None = None,
) -> Fitted:
    """Fit everything but the ranker in the stage folder `folder`.

    `texts` are those of a call before with the same fits of the interest model, which then need not be encoded again.
    """
    plan = prepared.plan(fit_on)
    chosen, texts, early = _choose(prepared, plan, folder, partial(on_epochs, "choose"), texts)
    if prepared.dataset.info.split == "time" and prepared.dataset.has_clock:
        fitted, requests = prepared.segments(plan.describe), ranker_requests(prepared, plan)
        refuse_leakage(early.features, prepared.dataset.items, fitted, prepared.log, requests)
    log = partial(on_epochs, "refit")
    final = _fit_interest(prepared, plan.refit, folder / "refit", "fitting the interest model", log, chosen)
    model = _load(prepared, plan.refit, final)
    late = assemble(prepared, plan.refit, model, texts, early.exclude_seen)  # both fits share the text encoder
    return Fitted(early, late, texts, {"choose": chosen, "refit": final})


def late_ranking_data(prepared: Prepared, fit_on: FitOn, folder: Path) -> tuple[RankingData, Retriever]:
    """Return what `fit` fitted its ranker on, from the stages that it left in `folder`, and the retriever before it."""
    plan = prepared.plan(fit_on)
    _, _, early = _choose(prepared, plan, folder)
    return ranking_data(early, prepared.log, ranker_requests(prepared, plan), _rehearsed(prepared)), early


def _choose(
    prepared: Prepared,
    plan: FitPlan,
    folder: Path,
    on_epochs: OnEpochs = lambda epochs: None,
    texts: CatalogueTexts | None = None,
) -> tuple[InterestFit, CatalogueTexts, Retriever]:
    """Fit the interest model whose epochs are chosen on `valid`; its encoder need not read `texts` that are given.

    Return the fit, the catalogue's texts as vectors, and the retriever that describes candidates to the ranker: that of
    what was fitted, or of the model that an update starts from.
    """
    requests = ranker_requests(prepared, plan)
    _check_enough(prepared, plan, requests)
    chosen = _fit_interest(prepared, plan.choose, folder / "choose", "choosing the interest model", on_epochs)
    model = _load_start(prepared, folder) if prepared.start else _load(prepared, plan.choose, chosen)
    texts = texts or _texts(prepared, model, chosen, folder)
    hidden = _rehearsed(prepared)
    model.hide(torch.from_numpy(hidden))
    return chosen, texts, assemble(prepared, plan.describe, model, texts, _exclude_seen(prepared, requests), hidden)


def _rehearsed(prepared: Prepared) -> Bools:
    """Return the items `[N]` that look new to the ranker while it is fitted, so that it learns what to do with new ones."""
    rng = np.random.default_rng(prepared.seed)
    return rng.random(prepared.dataset.items.height) < prepared.config.ranker.rehearsed_share


def _texts(prepared: Prepared, model: InterestModel, chosen: InterestFit, folder: Path) -> CatalogueTexts:
    """Return what the encoder of `model`, that of the fit `chosen`, makes of the catalogue's texts.

    Where a stopped run goes on with encoding them is in the stage folder `folder`.
    """
    items, config = prepared.dataset.items, prepared.config
    encoder, precision = model.encoder, config.encoder.precision

    def encode(title: str, name: str, tokens: Tokens) -> Tensor:
        options: dict[str, Any] = {"folder": folder / name, "compute": config.compute, "gpu": use_gpu(config)}
        with stage(title) as update:
            return catalogue_vectors(encoder, tokens, precision, **options, update=update)

    encode_items = partial(encode, "encoding the catalogue", "texts", prepared.tokens)
    whole = torch.from_numpy(catalogue_text_vectors(chosen, encoder, precision, encode_items))
    if not config.sources.taste:
        return CatalogueTexts(whole, None)
    encode_segments = partial(encode, "encoding the segments of texts", "segments")
    return CatalogueTexts(whole, segment_vectors(encode_segments, prepared.tokenizer, items, whole))


def ranker_requests(prepared: Prepared, plan: FitPlan) -> Requests:
    """Return the requests that the ranker learns from."""
    requests = prepared.log.requests(*plan.rank)
    return at_most(prepared.config.ranker.max_requests, requests, prepared.dataset.has_clock)


def fit_ranker_of(prepared: Prepared, fit_on: FitOn, early: Retriever) -> Ranker:
    """Fit the ranker on its requests, described by what `early` knew before them."""
    requests = ranker_requests(prepared, prepared.plan(fit_on))
    with stage("fitting the ranker") as update:
        done = 0

        def on_block(count: int) -> None:
            nonlocal done
            done += count
            update(0.5 * done / len(requests), "describing candidates")

        def on_epoch(epoch: int) -> None:
            epochs = epochs_of(len(data), prepared.config.ranker)
            update(0.5 + 0.5 * epoch / epochs, f"pass {epoch} of {epochs}")

        data = ranking_data(early, prepared.log, requests, _rehearsed(prepared), on_block)
        held = latest_rows(len(requests))
        _, shown = impression_data(early, prepared.log, requests.select(np.arange(held.start, held.stop)))
        return fit_ranker(data, early, prepared.seed, shown, on_epoch)


def assemble(
    prepared: Prepared,
    segments: Segments,
    model: InterestModel,
    texts: CatalogueTexts,
    exclude_seen: bool,
    hidden: Bools | None = None,
) -> Retriever:
    """Return the retriever whose taste model, counts, sources and facts come from `segments`.

    `texts` are by the encoder of `model`. Counts, sources and facts know no events of the `hidden` `[N]` items.
    """
    items, log, config = prepared.dataset.items, prepared.segments(segments), prepared.config
    if hidden is not None:
        log = log.only(~hidden[log.items])
    facts = fit_facts(items, log, config.ranker.attributes)
    vectors = project(model, texts.whole, np.arange(items.height))
    tastes = np.empty((items.height, 0), np.float32)
    if texts.segments:
        model.taste = _fit_taste(prepared, segments, texts.segments, facts.category)
        tastes = taste_vectors(model.taste, texts.segments)
    context = FitContext(
        items,
        vectors,
        tastes,
        facts.category,
        model.taste,
        log=log,
        weights=type_weights(prepared.weights),
        has_clock=prepared.dataset.has_clock,
    )
    sources = {name: SOURCES[name].fit(context) for name, quota in config.sources.model_dump().items() if quota}
    return Retriever(
        config=config,
        items=items,
        model=model,
        vectors=vectors,
        tastes=tastes,
        sources=sources,
        features=RankingFeatures(
            facts,
            prepared.dataset.has_clock,
            feature_sources(sources),
            config.ranker.attributes,
            context=fit_context(prepared.log, config.ranker),
        ),
        exclude_seen=exclude_seen,
    )


def _fit_taste(prepared: Prepared, segments: Segments, texts: SegmentVectors, category: Ints) -> TasteModel:
    config, weights = prepared.config.taste, prepared.start.taste() if prepared.start else None
    since = prepared.since if weights else None
    data = prepare_taste(prepared.log, segments, texts, category, prepared.weights, prepared.config, since)
    if weights:
        config = config.model_copy(update={"epochs": prepared.config.update.epochs})
    with stage("fitting the taste model") as update:
        return fit_taste(data, config, prepared.seed, lambda done, of: update(done / of, ""), weights)


def _fit_interest(
    prepared: Prepared,
    segments: Segments,
    folder: Path,
    title: str,
    on_epochs: OnEpochs,
    chosen: InterestFit | None = None,
) -> InterestFit:
    data = interest_data(prepared, segments)
    start = None
    if prepared.start:
        start, folder = folder.with_name(START), folder.with_name(f"update-{folder.name}")
        if not (start / STATE).exists():
            prepared.start.write_checkpoint(prepared.dataset.items["item_id"], start)
    with stage(title) as update:
        options: dict[str, Any] = {"config": prepared.config, "seed": prepared.seed, "folder": folder}
        options |= {"update": update, "on_epochs": on_epochs, "start": start}
        result = refit(data, chosen, **options) if chosen else choose_epochs(data, **options)
        metric = "" if result.metric is None else f", ndcg@10 on valid {result.metric:.4f}"
        tuning = f"; {result.tuning}" if result.tuning else ""
        update(1.0, f"{result.epochs} epochs{metric}{tuning}")
    return result


def interest_data(prepared: Prepared, segments: Segments) -> InterestData:
    """Return what the interest model is fitted on: the sequences of `segments`, and the requests of `valid`."""
    return prepare(
        prepared.log,
        segments,
        prepared.tokens,
        weights=prepared.weights,
        has_clock=prepared.dataset.has_clock,
        config=prepared.config,
        since=prepared.since,
    )


def _load(prepared: Prepared, segments: Segments, fitted: InterestFit) -> InterestModel:
    known = np.bincount(prepared.segments(segments).items, minlength=prepared.dataset.items.height) > 0
    return load_trained(Path(fitted.checkpoint), prepared.config, torch.from_numpy(known))


def _load_start(prepared: Prepared, folder: Path) -> InterestModel:
    """Return the interest model that an update starts from, for the items of today."""
    unknown = torch.zeros(prepared.dataset.items.height, dtype=torch.bool)
    return load_trained(folder / START, prepared.config, unknown)


def _exclude_seen(prepared: Prepared, requests: Requests) -> bool:
    rule = prepared.config.lists.exclude_seen
    if rule != "auto":
        return rule == "always"
    past = prepared.log.histories(requests.users, requests.times, prepared.config.interest.max_history).items
    owners = np.repeat(np.arange(len(requests)), np.diff(requests.offsets))
    repeated = (past[owners] == requests.targets[:, None]).any(1).mean()
    return bool(repeated < REPEAT_SHARE)


def _check_enough(prepared: Prepared, plan: FitPlan, requests: Requests) -> None:
    sequences = int((np.diff(prepared.segments(plan.choose).offsets) > 1).sum())
    valid = len(prepared.log.requests(VALID))
    if sequences < 2 or len(requests) < 2 or not valid:
        raise RecsysError(
            f"too little to learn from: {sequences} users with two events or more before the ranker's segment, "
            f"{len(requests)} requests in it, {valid} in valid; "
            "each needs at least 2: add events, or change data.split or data.valid_share"
        )


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
