"""What the search of the simulated shop learns from clicked queries, on later ones.

In: nothing. Out: lines of a table: BM25 alone, the search without learning, and with it. Each seed is a shop of its own. The interest model is
as before a training, so that a seed takes a minute: items and queries have the vectors of the packaged encoder.

Shapes: Q queries.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from features.data.dataset import load_dataset
from features.simulator.shop import simulate
from recsys.arrays import Ints
from recsys.config import load_config
from recsys.metrics import Floats, bootstrap_interval, ndcg, paired_difference
from recsys.models.text_vectors import text_vectors
from serving.retrieval.queries import QueryTower
from serving.retrieval.retriever import Retriever
from training.demo import SETTINGS
from training.fits import CatalogueTexts, assemble
from training.interest.trainer import build_model
from training.pipeline import query_cuts
from training.plan import PLANS, FitOn
from training.prepared import Prepared, prepare_dataset
from training.queries import ClickedQueries, learn, newest_queries, ranks_of, reciprocal_ranks

FIT_ON: FitOn = "train+valid"
WORDS, WITHOUT, WITH = "BM25 alone", "search without learning", "search that has learned"

ABOUT = """Queries of the simulated shop (2,000 users, 1,500 items; a shop for each seed, from 7 on; `--fit-on train+valid`), each with the one item that was clicked. Half of the typed words
are in no text of the shop. Relevant is the clicked item alone, though others fit as well, so that figures are far below 1. Items and queries have the vectors of the packaged encoder, as
before a training of the interest model. Intervals are over texts."""


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
    """Simulate a shop, fit the query's side, and search for what was typed later."""
    simulate(folder / "shop", seed=7 + seed)
    config = load_config(None, (*SETTINGS, "sources.taste=0"))
    prepared = prepare_dataset(load_dataset(folder / "shop"), config, seed)
    retriever = untrained(prepared)
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


def untrained(prepared: Prepared) -> Retriever:
    """Return the retriever of an interest model that has learned nothing yet."""
    items, config = prepared.dataset.items, prepared.config
    model = build_model(config, torch.zeros(items.height, dtype=torch.bool)).eval()
    texts = CatalogueTexts(text_vectors(model.encoder, prepared.tokens, config.encoder.precision), None)
    return assemble(prepared, PLANS[FIT_ON].refit, model, texts, exclude_seen=False)


def table(seeds: int) -> list[str]:
    """Return the lines of the table."""
    every = []
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as work:
            every.append(searched(seed, Path(work)))
    shift = max(int(one.texts.max()) for one in every) + 1
    texts = np.concatenate([one.texts + shift * seed for seed, one in enumerate(every)])
    ranks = {name: np.concatenate([one.ranks[name] for one in every]) for name in (WORDS, WITHOUT, WITH)}
    fitted = ", ".join(f"{one.learned_from:,}" for one in every)
    by_seed = ", ".join(
        " → ".join(f"{reciprocal_ranks(one.ranks[name]).mean():.3f}" for name in (WITHOUT, WITH)) for one in every
    )
    return [
        "| search | mrr@10 | ndcg@10 | mrr@10 above the search without learning |",
        "|---|---|---|---|",
        *(_row(name, own, ranks[WITHOUT], texts) for name, own in ranks.items()),
        "",
        f"{len(texts):,} queries of {seeds} seeds, learned from {fitted} before; mrr@10 by seed: {by_seed}.",
    ]


def _row(name: str, ranks: Floats, without: Floats, texts: Ints) -> str:
    """Return the line of a search, by the `ranks` `[Q]` of its items and those of the search without learning."""
    found = reciprocal_ranks(ranks)
    figures = [
        bootstrap_interval(found, texts),
        bootstrap_interval(ndcg(ranks, np.arange(len(ranks) + 1), 10), texts),
        paired_difference(found, reciprocal_ranks(without), texts),
    ]
    return f"| {name} | {' | '.join(f'{one.value:.3f} [{one.low:.3f}, {one.high:.3f}]' for one in figures)} |"
