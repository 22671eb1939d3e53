"""Which ranker, and how long: ndcg@10 of the candidates of `valid` in the order of each kind.

In: a dataset folder. Out: a Markdown table.

    .venv/bin/python -m benchmarks.rankers ../shared/data/amazon-industrial

The interest model is fitted on `train`. The requests of `valid` are cut into five parts, in time where there is a clock; each
part is ranked by what has learnt from the other four.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.special import expit

from features.data.dataset import load_dataset
from features.histories import Requests
from recsys.arrays import Floats
from recsys.config import Config, RankerConfig
from recsys.metrics import Interval, bootstrap_interval, list_ranks, ndcg, paired_difference
from recsys.models.rankers import value
from recsys.progress import console
from serving.retrieval.retriever import Retriever
from training.fits import late_ranking_data, ranker_requests
from training.plan import PLANS
from training.prepared import prepare_dataset
from training.ranker import fit_ranker
from training.ranker.data import RankingData

WORK = Path(".recsys/rankers")
PARTS = 5
DEFAULT = "100 trees (default)"
VARIANTS: dict[str, dict[str, str | int]] = {
    DEFAULT: {},
    "50 trees": {"trees": 50},
    "200 trees": {"trees": 200},
    "100 trees of 15 leaves": {"leaves": 15},
    "network, 3 passes": {"kind": "torchrec", "epochs": 3},
    "network, 6 passes": {"kind": "torchrec"},
    "network, 12 passes": {"kind": "torchrec", "epochs": 12},
}
BLENDED = (DEFAULT, "network, 6 passes")


def main() -> None:
    """Fit every variant and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stages", type=Path, help="folder of a fit on train+valid, to begin from its interest model")
    options = parser.parse_args()
    dataset = load_dataset(options.dataset)
    prepared = prepare_dataset(dataset, Config(), options.seed)
    folder = options.stages or WORK / f"{dataset.info.name}-{options.seed}"
    data, early = late_ranking_data(prepared, "train+valid", folder)
    requests = ranker_requests(prepared, PLANS["train+valid"])
    logits = {}
    for name, settings in VARIANTS.items():
        logits[name] = cross_fitted(data, early, prepared.config.ranker.model_copy(update=settings), options.seed)
        console.print(name)
    logits["mean log odds of both"] = np.stack([logits[name] for name in BLENDED]).mean(0)
    values = {name: gains(scores, data, requests, prepared.config) for name, scores in logits.items()}
    print("| ranker | ndcg@10 | above the default |\n|---|---|---|")
    for name, own in values.items():
        gap = "" if name == DEFAULT else show(paired_difference(own, values[DEFAULT], requests.users))
        print(f"| {name} | {show(bootstrap_interval(own, requests.users))} | {gap} |")


def cross_fitted(data: RankingData, early: Retriever, ranker: RankerConfig, seed: int) -> Floats:
    """Return log odds `[R, C, 2]`, those of each part from a ranker of the other parts."""
    early = replace(early, config=early.config.model_copy(update={"ranker": ranker}))
    logits = np.empty(data.labels.shape, np.float32)
    for part in np.array_split(np.arange(len(data)), PARTS):
        others = np.setdiff1d(np.arange(len(data)), part)
        fitted, held = fit_ranker(data.rows(others), early, seed), data.rows(part)
        logits[part] = fitted.log_odds(held.dense, held.categorical)
    return logits


def gains(logits: Floats, data: RankingData, requests: Requests, config: Config) -> np.ndarray:
    """Return ndcg@10 `[R]` of the candidates in the order of their value."""
    values = np.where(data.present, value(expit(logits), data.price, config.value), -np.inf)
    lists = np.take_along_axis(data.candidates, np.argsort(-values, axis=1, kind="stable"), axis=1)
    return ndcg(list_ranks(lists, requests.targets, requests.offsets), requests.offsets, 10)


def show(interval: Interval) -> str:
    """Return a value with its interval."""
    return f"{interval.value:.4f} [{interval.low:.4f}, {interval.high:.4f}]"


if __name__ == "__main__":
    main()
