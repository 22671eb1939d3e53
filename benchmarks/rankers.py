"""Which ranker, and how long: ndcg@10 of the candidates of `valid` in the order of each kind.

In: a dataset folder. Out: a Markdown table.

    .venv/bin/python -m benchmarks.rankers ../shared/data/amazon-industrial

The interest model is fitted on `train`. The requests of `valid` are cut into five parts in time; each
part is ranked by what has learnt from the other four.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from features.data.dataset import load_dataset
from features.histories import Requests
from recsys.config import Config, RankerConfig
from recsys.metrics import Interval, bootstrap_interval, list_ranks, ndcg, paired_difference
from recsys.models.rankers import value
from recsys.progress import console
from serving.recommender import Recommender
from training.interest.sequences import latest
from training.pipeline import late_ranking_data, prepare_dataset
from training.plan import PLANS
from training.ranker.data import RankingData
from training.ranker.neural import fit_ranker

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
    requests = latest(prepared.log.requests(PLANS["train+valid"].rank), prepared.config.ranker.max_requests)
    logits = {}
    for name, settings in VARIANTS.items():
        logits[name] = cross_fitted(data, early, prepared.config.ranker.model_copy(update=settings), options.seed)
        console.print(name)
    logits["mean log odds of both"] = torch.stack([logits[name] for name in BLENDED]).mean(0)
    found = {name: gains(scores, data, requests, prepared.config) for name, scores in logits.items()}
    print("| ranker | ndcg@10 | above the default |\n|---|---|---|")
    for name, values in found.items():
        gap = "" if name == DEFAULT else show(paired_difference(values, found[DEFAULT], requests.users))
        print(f"| {name} | {show(bootstrap_interval(values, requests.users))} | {gap} |")


def cross_fitted(data: RankingData, early: Recommender, ranker: RankerConfig, seed: int) -> Tensor:
    """Return log odds `[R, C, 2]`, those of each part from a ranker of the other parts."""
    early.config = early.config.model_copy(update={"ranker": ranker})
    logits = torch.empty(data.labels.shape)
    for part in torch.arange(len(data)).tensor_split(PARTS):
        others = torch.ones(len(data), dtype=torch.bool)
        others[part] = False
        fitted, held = fit_ranker(data.rows(others), early, seed), data.rows(part)
        logits[part] = torch.logit(fitted.probabilities(held.dense, held.categorical), eps=1e-6)
    return logits


def gains(logits: Tensor, data: RankingData, requests: Requests, config: Config) -> np.ndarray:
    """Return ndcg@10 `[R]` of the candidates in the order of their value."""
    worth = value(torch.sigmoid(logits), data.price, config.value).masked_fill(data.candidates < 0, float("-inf"))
    order = worth.argsort(dim=1, descending=True, stable=True)
    lists = data.candidates.gather(1, order).numpy()
    return ndcg(list_ranks(lists, requests.targets, requests.offsets), requests.offsets, 10)


def show(interval: Interval) -> str:
    """Return a value with its interval."""
    return f"{interval.value:.4f} [{interval.low:.4f}, {interval.high:.4f}]"


if __name__ == "__main__":
    main()
