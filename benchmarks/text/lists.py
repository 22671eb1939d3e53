"""What extracted attributes are worth to the lists of the simulated shop, on `test`.

In: nothing. Out: lines of a table: lists without attributes, with those that a text head found, and with the true ones.

All three share the interest model, which knows nothing of attributes.

Shapes: R requests, T targets, N catalogue, A attributes.
"""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.suite.measure import lists_of
from features.data.dataset import load_dataset
from features.simulator.shop import label, simulate
from features.simulator.text import ATTRIBUTES
from features.simulator.truth import load_truth
from features.texts.tagged import read_tagged
from recsys.arrays import Bools, Ints
from recsys.config import Config, load_config
from recsys.metrics import Floats, bootstrap_interval, ndcg, paired_difference
from serving.text.attributes import CONFIDENCE, extract
from serving.text.tokens import Tagger
from training.demo import LABELLED, SETTINGS
from training.evaluation.evaluate import Evaluation
from training.fits import fit
from training.plan import FitOn, item_counts
from training.prepared import prepare_dataset
from training.text.tokens import fit_tokens

FIT_ON: FitOn = "train+valid"
TRUE = "_true"
"""What the name of a column of true attributes ends in."""
WITHOUT, EXTRACTED, TRUTH = "without attributes", "extracted attributes", "true attributes"
COLUMNS = {WITHOUT: "", EXTRACTED: CONFIDENCE, TRUTH: TRUE}

ABOUT = """ndcg@10 on `test` of the demonstration's shop (2,000 users, 1,500 items, seed 7; `--fit-on train+valid`), whole catalogue ranked. The attributes are those that a text head
finds which knew 300 items' (one head, seed 0), and the true ones; each is a feature of the ranker. All three rows share the interest model of their seed. Intervals are over users."""


@dataclass(frozen=True)
class Lists:
    """What the lists of one variant and seed have."""

    ndcg: Floats
    """`[R]` ndcg@10."""
    hits: Floats
    """`[T]` 1 where the target is among the first ten."""
    users: Ints
    """`[R]`"""
    owners: Ints
    """`[T]` the request of each target."""
    cold: Bools
    """`[T]` whether the target had no event before."""


def write_shop(folder: Path) -> Path:
    """Simulate the shop, and write it with the attributes that a text head finds and with the true ones; return where."""
    shop, read = folder / "simulated", folder / "shop"
    simulate(shop)
    labelled, _ = label(shop, LABELLED)
    fitted, chosen = read_tagged(labelled).parts((0.8,))
    extract(Tagger(fit_tokens(fitted, chosen, Config(), 0, lambda share, note: None)), shop, read)
    truth = load_truth(shop)
    assert truth is not None
    has = (truth.item_attributes > 0).astype(np.float64)  # [N, A]
    path = read / "items.parquet"
    true = [pl.Series(name + TRUE, has[:, index]) for index, name in enumerate(ATTRIBUTES)]
    pl.read_parquet(path).with_columns(true).write_parquet(path)
    return read


def measured(shop: Path, variant: str, seed: int, stages: Path) -> Lists:
    """Train with the attributes of a variant; the interest model is that of `stages`, where it is left."""
    names = [name + COLUMNS[variant] for name in ATTRIBUTES] if COLUMNS[variant] else []
    config = load_config(None, (*SETTINGS, f"ranker.attributes={json.dumps(names)}"))
    prepared = prepare_dataset(load_dataset(shop), config, seed)
    recommender, _ = fit(prepared, FIT_ON, stages)
    evaluation = Evaluation.of(prepared.log, "test", config.interest.max_history, recommender.retriever.since)
    ranks, _ = lists_of(recommender, evaluation)
    requests = evaluation.requests
    owners = np.repeat(np.arange(len(requests)), np.diff(requests.offsets))
    cold = item_counts(prepared.log, FIT_ON, prepared.dataset.items.height)[requests.targets] == 0
    return Lists(ndcg(ranks, requests.offsets, 10), (ranks <= 10).astype(np.float64), requests.users, owners, cold)


def table(seeds: int) -> list[str]:
    """Return the lines of the table."""
    of: dict[str, list[Lists]] = {variant: [] for variant in COLUMNS}
    with tempfile.TemporaryDirectory() as work:
        shop = write_shop(Path(work))
        for seed in range(seeds):
            for variant, lists in of.items():
                lists.append(measured(shop, variant, seed, Path(work) / f"stages-{seed}"))
    gains = {variant: np.mean([own.ndcg for own in lists], axis=0) for variant, lists in of.items()}
    gap = {variant: float((gains[variant] - gains[WITHOUT]).mean()) for variant in of}
    new = int(of[WITHOUT][0].cold.sum())
    return [
        "| lists with | ndcg@10 | above those without | hr@10 of known items | of new items |",
        "|---|---|---|---|---|",
        *(_row(variant, lists, gains) for variant, lists in of.items()),
        "",
        f"{gap[EXTRACTED] / gap[TRUTH]:.0%} of the way to the true attributes; mean of {seeds} seeds, {new} targets were new.",
    ]


def _row(variant: str, lists: list[Lists], gains: dict[str, Floats]) -> str:
    """Return the line of a variant; `gains` are ndcg@10 `[R]` of each."""
    users, target_users, cold = lists[0].users, lists[0].users[lists[0].owners], lists[0].cold
    hits = np.mean([own.hits for own in lists], axis=0)
    figures = [
        bootstrap_interval(gains[variant], users),
        paired_difference(gains[variant], gains[WITHOUT], users),
        *(bootstrap_interval(hits[kept], target_users[kept]) for kept in (~cold, cold)),
    ]
    cells = (f"{one.value:.4f} [{one.low:.4f}, {one.high:.4f}]" for one in figures)
    return f"| {variant} | {' | '.join(cells)} |"
