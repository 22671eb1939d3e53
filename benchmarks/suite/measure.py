"""The quality of the lists against baselines and the published table of the same test rows.

In: a dataset folder with the splits of a published table. Out: a Markdown report.

    .venv/bin/python -m benchmarks.quality ../shared/data/amazon-industrial --out docs/quality.md

Trains afresh with the defaults, for every seed and every `--fit-on`, and measures on `test` (which
no choice has seen). A run that was stopped goes on where it was; `--fresh` forgets what there is.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import time
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from features.data.dataset import load_dataset
from features.histories import Histories, read_log
from recsys.atomic import atomic_file
from recsys.config import Config
from recsys.metrics import Interval, bootstrap_interval, hit_rate, list_ranks, ndcg, paired_difference
from recsys.progress import console
from serving.loading import read_sentences
from serving.recommender import Recommender, RecommendOptions
from serving.retrieval.retriever import Retriever
from training.evaluation.baselines import fit_baselines
from training.evaluation.evaluate import LIST_LENGTH, Evaluation, baseline_values, source_recall
from training.pipeline import Prepared, fit, late_ranking_data, prepare_dataset
from training.plan import FitOn, item_counts
from training.ranker import fit_ranker

WORK = Path(".recsys/quality")
FITS: tuple[FitOn, ...] = ("train", "train+valid")

PUBLISHED = {
    "amazon-industrial": {
        "MiniOneRec": (0.1586, 0.1167), "S-DPO": (0.1524, 0.1082), "D3": (0.1500, 0.1082), "BIGRec": (0.1370, 0.0997),
        "LC-Rec": (0.1332, 0.0952), "TIGER": (0.1321, 0.0908), "HSTU": (0.1163, 0.0958), "SASRec": (0.1088, 0.0806),
        "GRU4Rec": (0.0999, 0.0669), "Caser": (0.0942, 0.0628),
    }
}  # fmt: skip
"""hr@10 and ndcg@10 by dataset and model (arXiv 2510.24431, table of Industrial), from 36,259 training rows."""

Values = dict[str, np.ndarray]
"""Metric values `[R]` of every request."""


def main() -> None:
    """Read the options, measure what is missing and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("docs/quality.md"))
    parser.add_argument("--fresh", action="store_true", help="forget what an earlier run measured")
    options = parser.parse_args()
    if options.fresh:
        shutil.rmtree(WORK, ignore_errors=True)
    results: dict[str, list[dict[str, Any]]] = {}
    for fit_on in FITS:
        results[fit_on] = [measure(options.dataset, fit_on, seed) for seed in range(options.seeds)]
        results[fit_on][0] |= measure_baselines(options.dataset, fit_on)
    with atomic_file(options.out) as temporary:
        temporary.write_text(render(options.dataset, results), encoding="utf-8")
    console.print(f"wrote {options.out}")


def measure(folder: Path, fit_on: FitOn, seed: int) -> dict[str, Any]:
    """Return the figures of one training, from its file where it was measured before."""
    dataset = load_dataset(folder)
    work = WORK / dataset.info.name / f"{fit_on}-{seed}"
    measured = work / "measured.npz"
    if not measured.exists():
        prepared = prepare_dataset(dataset, Config(), seed)
        start = time.monotonic()
        recommender, _ = fit(prepared, fit_on, work)
        seconds = time.monotonic() - start
        values = rows_of(prepared, recommender, fit_on, work)
        about = {"seconds": seconds, "peak": peak_gib(), "sources": sources_of(prepared, recommender)}
        with atomic_file(measured) as temporary:
            np.savez(temporary, allow_pickle=False, about=json.dumps(about), **values)
    with np.load(measured, allow_pickle=False) as arrays:
        return {name: arrays[name] if name != "about" else json.loads(str(arrays[name])) for name in arrays.files}


def rows_of(prepared: Prepared, recommender: Recommender, fit_on: FitOn, work: Path) -> dict[str, np.ndarray]:
    """Return `row|metric` → values `[R]` of the lists, of the other kind of ranker and of the interest model alone."""
    evaluation = Evaluation.of(prepared.log, "test", prepared.config.interest.max_history)
    rows = {"this engine": of_lists(recommender, evaluation, evaluation.histories)}
    data, early = late_ranking_data(prepared, fit_on, work)
    network = prepared.config.ranker.model_copy(update={"kind": "torchrec"})
    early = replace(early, config=prepared.config.model_copy(update={"ranker": network}))
    other = replace(recommender, ranker=fit_ranker(data, early, prepared.seed))
    rows["with ranker.kind=torchrec"] = of_lists(other, evaluation, evaluation.histories)
    interest = evaluation.ranks_of(lambda part: interest_of(recommender.retriever, evaluation.histories.rows(part)))
    rows["interest model alone"] = metrics(interest, evaluation)
    rows["typed sentence"] = sentences(prepared, recommender, evaluation)
    counts = item_counts(prepared.log, fit_on, len(recommender.retriever.vectors))
    return flat(rows) | {
        "users": evaluation.requests.users,
        "cold": counts[evaluation.requests.targets] == 0,
        "repeat": (evaluation.histories.items == evaluation.requests.targets[:, None]).any(1),
        "length": (evaluation.histories.items >= 0).sum(1),
    }


def measure_baselines(folder: Path, fit_on: FitOn) -> dict[str, np.ndarray]:
    """Return `row|metric` → values `[R]` of every baseline, from their file where they were measured before."""
    dataset, config = load_dataset(folder), Config()
    measured = WORK / dataset.info.name / f"baselines-{fit_on}.npz"
    if not measured.exists():
        log = read_log(dataset, config)
        evaluation = Evaluation.of(log, "test", config.interest.max_history)
        baselines, _ = fit_baselines(config, dataset.items, dataset, log, fit_on)
        rows = {name: baseline_values(evaluation, baseline) for name, baseline in baselines.items()}
        with atomic_file(measured) as temporary:
            np.savez(temporary, allow_pickle=False, **flat(rows))
    with np.load(measured, allow_pickle=False) as arrays:
        return dict(arrays)


def flat(rows: dict[str, Values]) -> dict[str, np.ndarray]:
    """Return `row|metric` → values."""
    return {f"{row}|{metric}": array for row, values in rows.items() for metric, array in values.items()}


def of_lists(recommender: Recommender, evaluation: Evaluation, histories: Histories) -> Values:
    """Return hr@10 and ndcg@10 of the recommender's lists."""
    lists = recommender.recommend(histories, RecommendOptions(LIST_LENGTH)).items
    return metrics(list_ranks(lists, evaluation.requests.targets, evaluation.requests.offsets), evaluation)


def metrics(ranks: np.ndarray, evaluation: Evaluation) -> Values:
    """Return the values `[R]` of the two metrics of the published table."""
    offsets = evaluation.requests.offsets
    return {"hr@10": hit_rate(ranks, offsets, 10), "ndcg@10": ndcg(ranks, offsets, 10)}


def interest_of(retriever: Retriever, histories: Histories) -> np.ndarray:
    """Return the interest score `[R, N]` of every item."""
    return retriever.open(histories).requests.users[:, 0] @ retriever.vectors.T


def sentences(prepared: Prepared, recommender: Recommender, evaluation: Evaluation) -> Values:
    """Answer users of whom nothing is known but a sentence: the title of their last item, without its event."""
    last = evaluation.histories.items[:, -1]
    titles = prepared.dataset.items["title"]
    distinct = np.unique(last[last >= 0])
    typed = read_sentences(recommender.retriever, prepared.tokenizer, titles.gather(distinct).to_list())
    rows = np.searchsorted(distinct, np.maximum(last, 0))
    histories = replace(evaluation.histories, items=np.full_like(evaluation.histories.items, -1))
    histories.items[:, -1] = np.where(last >= 0, len(titles), -1)
    lists = recommender.recommend(histories, RecommendOptions(LIST_LENGTH), typed.rows(rows)).items
    return metrics(list_ranks(lists, evaluation.requests.targets, evaluation.requests.offsets), evaluation)


def sources_of(prepared: Prepared, recommender: Recommender) -> dict[str, dict[str, float]]:
    """Return the quota, the recall and the share that it alone proposes, per source."""
    evaluation = Evaluation.of(prepared.log, "test", prepared.config.interest.max_history)
    proposals = recommender.recommend(evaluation.histories, RecommendOptions(LIST_LENGTH)).proposals
    quotas = prepared.config.sources.model_dump()
    return {name: vars(source) for name, source in source_recall(proposals, quotas, evaluation).items()}


def peak_gib() -> float:
    """Return the largest resident memory so far, of this process and of its largest child, in GiB."""
    usage = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage) / 2**20


def render(folder: Path, results: dict[str, list[dict[str, Any]]]) -> str:
    """Return the report as Markdown."""
    dataset = load_dataset(folder)
    seeds = len(next(iter(results.values())))
    count = len(next(iter(results.values()))[0]["users"])
    lines = [
        "# Quality",
        "",
        f"`make benchmark-quality`, {date.today()}, {os.cpu_count()} cores, {platform.machine()}, no GPU unless stated.",
        f"`{dataset.info.name}`, split `test`, {count:,} requests, full ranking, seen items allowed, default",
        f"configuration, mean of {seeds} seeds, 95 % bootstrap intervals over users (of the mean over seeds).",
        "Choices are made on `valid` or before it; `test` is used here alone. What each part of the interest model",
        "is worth is in [ablations](ablations.md).",
    ]
    for fit_on, runs in results.items():
        lines += ["", f"## `--fit-on {fit_on}`", "", *_table_of(runs, PUBLISHED.get(dataset.info.name, {}))]
        lines += ["", *_segments(runs), "", *_sources(runs[0]["about"]["sources"])]
        minutes = ", ".join(f"{run['about']['seconds'] / 60:.1f}" for run in runs)
        peak = max(run["about"]["peak"] for run in runs)
        lines += ["", f"Training took {minutes} minutes; largest memory of main process and worker {peak:.1f} GiB."]
    return "\n".join(lines) + "\n"


def _table_of(runs: list[dict[str, Any]], published: dict[str, tuple[float, float]]) -> list[str]:
    users = runs[0]["users"]
    names = dict.fromkeys(name.split("|")[0] for name in runs[0] if name.endswith("|ndcg@10"))
    ours = _mean(runs, "this engine", "ndcg@10")
    rows = []
    for name in (name for name in names if name != "typed sentence"):
        hits, gains = (_mean(runs, name, metric) for metric in ("hr@10", "ndcg@10"))
        gap = _show(paired_difference(ours, gains, users)) if name != "this engine" else ""
        each = ", ".join(f"{run[f'{name}|ndcg@10'].mean():.4f}" for run in runs if f"{name}|ndcg@10" in run)
        label = f"**{name}**" if name == "this engine" else name
        cells = (_show(bootstrap_interval(hits, users)), _show(bootstrap_interval(gains, users)), each, gap)
        rows.append((float(gains.mean()), f"| {label} | {' | '.join(cells)} |"))
    rows += [
        (gain, f"| {name} (published, 36,259 training rows) | {hits:.4f} | {gain:.4f} | | |")
        for name, (hits, gain) in published.items()
    ]
    head = ["| | hr@10 | ndcg@10 | ndcg@10 by seed | ndcg@10 of this engine above it |", "|---|---|---|---|---|"]
    return head + [row for _, row in sorted(rows, key=lambda pair: -pair[0])]


def _segments(runs: list[dict[str, Any]]) -> list[str]:
    run, users = runs[0], runs[0]["users"]
    ours = {metric: _mean(runs, "this engine", metric) for metric in ("hr@10", "ndcg@10")}
    typed = {metric: _mean(runs, "typed sentence", metric) for metric in ("hr@10", "ndcg@10")}
    everyone = np.ones(len(users), bool)
    parts = [
        ("items without any event before", run["cold"], ours),
        ("items with events", ~run["cold"], ours),
        ("items that the user had bought before", run["repeat"], ours),
        ("users with at most two events", run["length"] <= 2, ours),
        ("users with three to nine", (run["length"] > 2) & (run["length"] < 10), ours),
        ("users with ten or more", run["length"] >= 10, ours),
        ("users with nothing but a typed sentence", everyone, typed),
    ]
    lines = ["| segment | requests | hr@10 | ndcg@10 |", "|---|---|---|---|"]
    for name, rows, values in parts:
        cells = [_show(bootstrap_interval(values[metric][rows], users[rows])) for metric in ("hr@10", "ndcg@10")]
        lines.append(f"| {name} | {rows.sum():,} | {cells[0]} | {cells[1]} |")
    note = "The typed sentence is the title of the user's last item; the whole history is hidden."
    return [*lines, "", note]


def _sources(sources: dict[str, dict[str, float]]) -> list[str]:
    lines = ["| candidate source (seed 0) | quota | recall at quota | proposed by no other |", "|---|---|---|---|"]
    for name, row in sources.items():
        lines.append(f"| {name} | {row['quota']} | {row['recall']:.4f} | {row['alone']:.4f} |")
    return lines


def _mean(runs: list[dict[str, Any]], row: str, metric: str) -> np.ndarray:
    """Return the mean over seeds `[R]` of a row's values."""
    key = f"{row}|{metric}"
    return np.mean([run[key] for run in runs if key in run], axis=0)


def _show(interval: Interval) -> str:
    return f"{interval.value:.4f} [{interval.low:.4f}, {interval.high:.4f}]"


if __name__ == "__main__":
    main()
