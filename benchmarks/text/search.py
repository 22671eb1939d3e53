"""What the search of the simulated shop learns from clicked queries, on later ones.

In: nothing. Out: lines of a table: BM25 alone, the search without learning, and with it. Each seed is a shop and a training of its own.

Shapes: Q queries, N catalogue, D width.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from features.data.dataset import load_dataset
from features.simulator.shop import simulate
from recsys.arrays import Ints
from recsys.config import load_config
from recsys.metrics import Floats, bootstrap_interval, ndcg, paired_difference
from serving.retrieval.queries import QueryTower
from training.demo import SETTINGS
from training.pipeline import fit_retrievers, prepare_dataset, query_cuts
from training.plan import FitOn
from training.queries import ClickedQueries, learn, newest_queries, ranks_of, reciprocal_ranks

FIT_ON: FitOn = "train+valid"
QUICK = (*SETTINGS, "sources.taste=0", "interest.epochs=1", "interest.tuning_epochs=0")
"""The text encoder stays as it is, which takes a fraction of the time."""
WORDS, WITHOUT, WITH = "BM25 alone", "search without learning", "search that has learned"

ABOUT = """Queries of the simulated shop (2,000 users, 1,500 items; a shop and a training of its own for each seed; `--fit-on train+valid`; one epoch with a frozen text encoder), each with the one item that was
clicked. Half of the typed words are in no text of the shop. Relevant is the clicked item alone, though others fit as well, so that figures are far below 1. Intervals are over texts."""


@dataclass(frozen=True)
class Searched:
    """What each search found for the queries of `test` of one seed."""

    ranks: dict[str, Floats]
    """`[Q]` of the clicked items."""
    texts: Ints
    """`[Q]`"""
    learned_from: int
    """Queries before."""


def searched(seed: int, folder: Path) -> Searched:
    """Simulate a shop, fit the item vectors and the query's side, and search for what was typed later."""
    simulate(folder / "shop", seed=7 + seed)
    config = load_config(None, QUICK)
    prepared = prepare_dataset(load_dataset(folder / "shop"), config, seed)
    retriever = fit_retrievers(prepared, FIT_ON, folder / "stages").late
    table, cuts, width = prepared.dataset.queries, query_cuts(prepared.log), retriever.vectors.shape[1]
    assert table is not None
    learned = learn(table, retriever, prepared.tokenizer, cuts, FIT_ON, seed)
    assert learned.tower is not None, learned.said
    queries = ClickedQueries.of(newest_queries(table, retriever.items), retriever, prepared.tokenizer)
    test = queries.rows(queries.times >= cuts[1])
    towers = {
        WORDS: QueryTower(-np.eye(width, dtype=np.float32), 1.0),  # queries without a vector
        WITHOUT: QueryTower.untaught(width),
        WITH: learned.tower,
    }
    ranks = {name: ranks_of(tower, test, retriever) for name, tower in towers.items()}
    return Searched(ranks, test.texts, len(queries) - len(test))


def table(seeds: int) -> list[str]:
    """Return the lines of the table."""
    every = []
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as work:
            every.append(searched(seed, Path(work)))
    shift = max(int(one.texts.max()) for one in every) + 1
    texts = np.concatenate([one.texts + shift * seed for seed, one in enumerate(every)])
    lines = ["| search | mrr@10 | ndcg@10 | mrr@10 above the search without learning |", "|---|---|---|---|"]
    without = np.concatenate([reciprocal_ranks(one.ranks[WITHOUT]) for one in every])
    for name in (WORDS, WITHOUT, WITH):
        ranks = np.concatenate([one.ranks[name] for one in every])
        found = reciprocal_ranks(ranks)
        gains = ndcg(ranks, np.arange(len(ranks) + 1), 10)
        figures = [
            bootstrap_interval(found, texts),
            bootstrap_interval(gains, texts),
            paired_difference(found, without, texts),
        ]
        lines.append(
            f"| {name} | {' | '.join(f'{one.value:.3f} [{one.low:.3f}, {one.high:.3f}]' for one in figures)} |"
        )
    by_seed = ", ".join(
        f"{reciprocal_ranks(one.ranks[WITHOUT]).mean():.3f} → {reciprocal_ranks(one.ranks[WITH]).mean():.3f}"
        for one in every
    )
    fitted = ", ".join(f"{one.learned_from:,}" for one in every)
    return [
        *lines,
        "",
        f"{len(texts):,} queries of {seeds} seeds, learned from {fitted} before; mrr@10 by seed: {by_seed}.",
    ]
