"""Should the ranker learn from counts that follow the events, as those of serving do? ndcg@10 on `valid`.

    python -m benchmarks.following demo/shop --set encoder.max_tokens=48

In: a dataset folder with a clock. Out: a Markdown table. Interest model, taste model and catalogue are those of `--fit-on train` before its
last fit; the ranker learns from the later part of `train`, described by what was known at its start (as today) or at the start of
each of its `PIECES` parts, and its lists of `valid` are made by what was known at the start of `valid`, or of each of its parts.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from features.data.dataset import load_dataset
from features.histories import EARLY, LATE, VALID, EventLog, Requests, type_weights
from features.recent import RecentEvents
from recsys.config import load_config
from recsys.metrics import list_ranks, ndcg, paired_difference
from recsys.progress import console
from serving.recommender import Recommender, RecommendOptions
from serving.rerank import Reranker
from serving.retrieval.retriever import BLOCK, Retriever
from training.fits import late_ranking_data, ranker_requests
from training.plan import PLANS
from training.prepared import Prepared, prepare_dataset
from training.ranker import fit_ranker
from training.ranker.data import RankingData, ranking_data

WORK = Path(".recsys/following")
PIECES = 20


def main() -> None:
    """Fit both rankers and print what their lists are worth."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", dest="settings", action="append", default=[])
    options = parser.parse_args()
    dataset = load_dataset(options.dataset)
    prepared = prepare_dataset(dataset, load_config(None, tuple(options.settings)), options.seed)
    as_today, early = late_ranking_data(prepared, "train", WORK / f"{dataset.info.name}-{options.seed}")
    requests = ranker_requests(prepared, PLANS["train"])
    hidden = np.random.default_rng(options.seed).random(dataset.items.height) < prepared.config.ranker.rehearsed_share
    following = described(early, prepared, requests, hidden)
    later = early.as_of(prepared.segments((EARLY, LATE)), type_weights(prepared.weights))
    values = {}
    for learned, data in (("start", as_today), ("following", following)):
        recommender = Recommender(later, fit_ranker(data, early, options.seed), Reranker(prepared.config.lists))
        for listed in ("start", "following"):
            values[learned, listed] = gains(recommender, prepared, listed == "following")
            console.print(f"{learned}, {listed}: {values[learned, listed].mean():.4f}")
    users, reference = prepared.log.requests(VALID).users, values["start", "following"]
    print(
        "| the ranker learned from counts as of | lists from counts as of | ndcg@10 on valid | against today's serving |\n|---|---|---|---|"
    )
    for (learned, listed), own in values.items():
        gap = paired_difference(own, reference, users)
        print(f"| {learned} | {listed} | {own.mean():.4f} | {gap.value:+.4f} [{gap.low:+.4f}, {gap.high:+.4f}] |")


def pieces(
    retriever: Retriever, log: EventLog, requests: Requests, prepared: Prepared
) -> Iterator[tuple[Retriever, Requests]]:
    """Yield the requests in `PIECES` parts in time, each with the retriever as of its start; `log` has what it may know."""
    since = retriever.features.facts.events.newest
    for rows in np.array_split(np.arange(len(requests)), PIECES):
        if len(rows):
            known = log.only(log.times < requests.times[rows[0]])
            recent = RecentEvents.of_log(known, since)
            yield retriever.with_recent(recent, type_weights(prepared.weights)), requests.select(rows)


def described(early: Retriever, prepared: Prepared, requests: Requests, hidden: np.ndarray) -> RankingData:
    """Return what the ranker learns from, described by what was known at the start of each part."""
    visible = prepared.log.only(~hidden[prepared.log.items])
    parts = pieces(early, visible, requests, prepared)
    return RankingData.join([ranking_data(one, prepared.log, part, hidden) for one, part in parts])


def gains(recommender: Recommender, prepared: Prepared, follow: bool) -> np.ndarray:
    """Return ndcg@10 `[R]` of the lists of `valid`."""
    requests, log = prepared.log.requests(VALID), prepared.log
    retriever = recommender.retriever
    parts = pieces(retriever, log, requests, prepared) if follow else [(retriever, requests)]
    ranks = []
    for one, part in parts:
        histories = log.histories_of(part, one.config.interest.max_history)
        for start in range(0, len(part), BLOCK):
            rows = np.arange(start, min(start + BLOCK, len(part)))
            ranking = replace(recommender, retriever=one).recommend(histories.rows(rows), RecommendOptions(100))
            chosen = part.select(rows)
            ranks.append(list_ranks(ranking.items, chosen.targets, chosen.offsets))
    return ndcg(np.concatenate(ranks), requests.offsets, 10)


if __name__ == "__main__":
    main()
