"""Measure a training or the baselines of a data set on `test`, once: what is on disk is not measured again.

In: a dataset folder, `--fit-on`, a seed and the configuration. Out: arrays, kept in an npz file.

Shapes: R requests, T targets, N catalogue.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from multiprocessing import get_context
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import psutil

from benchmarks.train_cost import EVERY_S, memory_of
from features.data.dataset import Dataset, load_dataset
from features.facts import fit_facts
from features.histories import Histories, read_log
from recsys.arrays import offsets_of
from recsys.atomic import atomic_file
from recsys.config import Config
from recsys.metrics import impression_metrics, list_ranks
from serving.loading import read_sentences
from serving.recommender import Recommender, RecommendOptions
from serving.retrieval.retriever import Retriever
from training.evaluation.baselines import fit_baselines
from training.evaluation.evaluate import LIST_LENGTH, Evaluation, baseline_ranks, oracle_ranks, source_recall
from training.fits import fit, late_ranking_data
from training.plan import PLANS, FitOn, item_counts
from training.prepared import Prepared, prepare_dataset
from training.ranker import fit_ranker
from training.ranker.data import impression_data

OURS, INTEREST, TYPED, ORACLE = "this engine", "interest model alone", "typed sentence", "oracle"
RANKS = "ranks|"
"""Before the name of a row: the ranks `[T]` of its targets."""

Arrays = dict[str, np.ndarray]


def kept(path: Path, measure: Callable[[], Arrays]) -> Arrays:
    """Return the arrays in the file `path`, which are measured now if it is not there."""
    if not path.exists():
        arrays = measure()
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as temporary:
            np.savez(temporary, allow_pickle=False, **arrays)
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def in_own_process(measure: Callable[..., Arrays], *arguments: Any) -> Arrays:
    """Return what `measure` returns in a new process, whose memory is its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measure, *arguments).result()


def key_of(dataset: Dataset, config: Config) -> str:
    """Return a key that changes with the data and with every default of the configuration."""
    return hashlib.sha256(f"{dataset.fingerprint} {config.model_dump_json()}".encode()).hexdigest()[:10]


def measure_training(folder: Path, fit_on: FitOn, config: Config, seed: int, stages: Path) -> Arrays:
    """Train, and return the ranks `[T]` of every row with what the training took; stages are left in `stages`."""
    prepared = prepare_dataset(load_dataset(folder), config, seed)
    shutil.rmtree(stages, ignore_errors=True)  # of a training that was stopped: its minutes would not be whole
    start = time.monotonic()
    with memory_watched() as seen:
        recommender, _ = fit(prepared, fit_on, stages)
    seconds = time.monotonic() - start
    evaluation = Evaluation.of(prepared.log, "test", config.interest.max_history, recommender.retriever.since)
    ranks, sources = lists_of(recommender, evaluation)
    other, name = other_ranker(prepared, recommender, fit_on, stages)
    scores_of = interest_of(recommender.retriever, evaluation.histories)
    rows = {
        OURS: ranks,
        name: lists_of(other, evaluation)[0],
        INTEREST: evaluation.ranks_of(scores_of),
        TYPED: typed_ranks(prepared, recommender, evaluation),
    }
    about = {
        "date": str(date.today()),
        "minutes": seconds / 60,
        "gib": max(seen, default=0) / 2**30,
        "sources": sources,
    }
    return ranks_of(rows) | shown(recommender, evaluation) | {"about": np.array(json.dumps(about))}


def measure_without(folder: Path, fit_on: FitOn, config: Config, seed: int, stages: Path) -> Arrays:
    """Return the ranks `[T]` under a configuration that the interest model of `stages` knows nothing of."""
    prepared = prepare_dataset(load_dataset(folder), config, seed)
    recommender, _ = fit(prepared, fit_on, stages)
    evaluation = Evaluation.of(prepared.log, "test", config.interest.max_history, recommender.retriever.since)
    return ranks_of({OURS: lists_of(recommender, evaluation)[0]})


def measure_baselines(folder: Path, fit_on: FitOn, config: Config) -> Arrays:
    """Return the ranks `[T]` of every baseline, and what all rows share: users, offsets and kinds of targets."""
    dataset = load_dataset(folder)
    log = read_log(dataset, config)
    facts = fit_facts(dataset.items, log.in_segments(*PLANS[fit_on].refit), ())
    since = facts.since if dataset.has_clock else None
    evaluation = Evaluation.of(log, "test", config.interest.max_history, since)
    baselines, skipped = fit_baselines(config, dataset.items, dataset, log, fit_on, slow=True)
    rows = {name: baseline_ranks(evaluation, baseline) for name, baseline in baselines.items()}
    best = oracle_ranks(evaluation, folder)
    if best is not None:
        rows[ORACLE] = best
    requests, past = evaluation.requests, evaluation.histories
    owners = np.repeat(np.arange(len(requests)), np.diff(requests.offsets))  # [T]
    return ranks_of(rows) | {
        "skipped": np.array(json.dumps(skipped)),
        "users": requests.users,
        "offsets": requests.offsets,
        "cold": item_counts(log, fit_on, dataset.items.height)[requests.targets] == 0,
        "repeat": (past.items[owners] == requests.targets[:, None]).any(1),
        "length": past.lengths[owners],
    }


def ranks_of(rows: Arrays) -> Arrays:
    """Return the ranks under names that say so."""
    return {RANKS + name: ranks for name, ranks in rows.items()}


def lists_of(recommender: Recommender, evaluation: Evaluation) -> tuple[np.ndarray, dict[str, dict[str, float]]]:
    """Return the targets' ranks `[T]` in the lists; and each source's quota, recall, and share that it alone proposes."""
    ranking = recommender.recommend(evaluation.histories, RecommendOptions(LIST_LENGTH))
    quotas = recommender.retriever.config.sources.model_dump()
    sources = {name: vars(row) for name, row in source_recall(ranking.proposals, quotas, evaluation).items()}
    return list_ranks(ranking.items, evaluation.requests.targets, evaluation.requests.offsets), sources


def other_ranker(prepared: Prepared, recommender: Recommender, fit_on: FitOn, stages: Path) -> tuple[Recommender, str]:
    """Return the recommender with the kind of ranker that is not the default, and the name of its row."""
    kind = "torchrec" if prepared.config.ranker.kind == "lightgbm" else "lightgbm"
    data, early = late_ranking_data(prepared, fit_on, stages)
    ranker = prepared.config.ranker.model_copy(update={"kind": kind})
    early = replace(early, config=prepared.config.model_copy(update={"ranker": ranker}))
    return replace(recommender, ranker=fit_ranker(data, early, prepared.seed)), f"with ranker.kind={kind}"


def interest_of(retriever: Retriever, histories: Histories) -> Callable[[slice], np.ndarray]:
    """Return what gives the interest score of every item `[rows, N]`."""
    return lambda rows: retriever.open(histories.rows(rows)).requests.users[:, 0] @ retriever.vectors.T


def typed_ranks(prepared: Prepared, recommender: Recommender, evaluation: Evaluation) -> np.ndarray:
    """Answer users of whom nothing is known but a sentence: the title of their last item, without its event."""
    last = evaluation.histories.items[:, -1]
    titles = prepared.dataset.items["title"]
    distinct = np.unique(last[last >= 0])
    typed = read_sentences(recommender.retriever, prepared.tokenizer, titles.gather(distinct).to_list())
    rows = np.searchsorted(distinct, np.maximum(last, 0))
    histories = replace(evaluation.histories, items=np.full_like(evaluation.histories.items, -1))
    histories.items[:, -1] = np.where(last >= 0, len(titles), -1)
    lists = recommender.recommend(histories, RecommendOptions(LIST_LENGTH), typed.rows(rows)).items
    return list_ranks(lists, evaluation.requests.targets, evaluation.requests.offsets)


def shown(recommender: Recommender, evaluation: Evaluation) -> Arrays:
    """Return how well p(click) orders what users were shown, per request that has impressions."""
    part, data = impression_data(recommender.retriever, evaluation.log, evaluation.requests)
    if not len(part):
        return {}
    clicks = recommender.ranker.probabilities(data.dense, data.categorical)[data.present][:, 0]
    values = impression_metrics(clicks, data.labels[data.present][:, 0] > 0, offsets_of(data.present.sum(1)))
    return {"impression_users": part.users, **{f"impression_{name}": values[name] for name in ("auc", "mrr")}}


@contextmanager
def memory_watched() -> Iterator[list[int]]:
    """Collect the memory of this process and of all that it started, in bytes, while the body runs."""
    seen: list[int] = []
    over = Event()

    def watch() -> None:
        while not over.wait(EVERY_S):
            seen.append(memory_of(psutil.Process()))

    thread = Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()
