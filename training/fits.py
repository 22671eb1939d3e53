"""All that `recsys train` fits, one after the other.

In: a `Prepared` dataset. Out: a `Recommender`, and how the fits of the interest model went.

Choices are made on `valid`: the interest model is fitted on what comes before the ranker's segment
and stopped by `valid`; the ranker learns from the later segment; then the interest model is fitted
anew, for as many epochs, on everything that `--fit-on` allows. Each stage leaves its result in the
stage folder, where a call after a stopped one finds it.

With `--from MODEL` both fits start from that model's weights and learn from the events since (`training.update`).

Shapes: N catalogue, H width of the text encoder.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from features.facts import fit_facts
from features.histories import VALID, Requests, fit_context, type_weights
from features.leakage import refuse_leakage
from features.ranking import RankingFeatures
from recsys.arrays import Bools, Ints
from recsys.errors import RecsysError
from recsys.models.encoder import Tokens
from recsys.models.interest import HEADS, InterestModel
from recsys.models.rankers import Ranker
from recsys.models.taste import SegmentVectors, TasteModel
from recsys.progress import stage
from serving.encoding import project, segment_vectors, taste_vectors
from serving.loading import feature_sources
from serving.recommender import Recommender
from serving.rerank import Reranker
from serving.retrieval.retriever import Retriever
from serving.retrieval.sources import SOURCES, FitContext
from training.encoding import catalogue_vectors
from training.interest.data import InterestData
from training.interest.ray_fit import Epochs, InterestFit, OnEpochs, choose_epochs, refit, use_gpu
from training.interest.sequences import at_most, prepare, valid_requests
from training.interest.text_vectors import catalogue_text_vectors
from training.interest.trainer import STATE, load_text_vectors, load_trained
from training.plan import PLANS, FitOn, FitPlan, Segments
from training.prepared import Prepared
from training.ranker import fit_ranker
from training.ranker.calibration import latest_rows
from training.ranker.choice import Lesson
from training.ranker.data import RankingData, impression_data, ranking_data
from training.ranker.neural import epochs_of
from training.taste.data import prepare_taste
from training.taste.fit import fit_taste
from training.update import Verdict

START = "start"
"""Folder of the weights that an update starts from, beside those of the stages."""

REPEAT_SHARE = 0.01
"""If at least this share of the targets had been seen before, seen items stay in lists (`exclude_seen=auto`)."""


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
        lessons: list[Lesson] = []
        ranker = fit_ranker(data, early, prepared.seed, shown, on_epoch, lessons.extend)
        if said := [f"{HEADS[head]}: {own}" for head, own in enumerate(lessons) if data.labels[..., head].any()]:
            update(1.0, "; ".join(said))
        return ranker


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
