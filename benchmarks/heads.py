"""Two heads against one on the simulated shop, and what the value formula trades.

In: nothing; the shop is simulated. Out: a table, and a picture of clicks against purchases.

    .venv/bin/python -m benchmarks.heads [--out docs/value.png]

One head: the same ranker, but its purchase head has learnt clicks. Rankers learn from retrieved
candidates, which are clicked more seldom than what is shown; here the level of each is moved to the
share of shown items that were clicked, or bought, in `valid`. A run that was stopped goes on where it
was; `--fresh` forgets what there is.
"""

import argparse
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib import pyplot
from torch import Tensor

from features.data.dataset import load_dataset
from features.histories import VALID
from features.simulator.shop import simulate
from recsys.atomic import atomic_file
from recsys.config import Config
from recsys.events import PURCHASE
from recsys.metrics import Interval, auc, bootstrap_interval, calibration_error, list_ranks, logloss, ndcg
from recsys.models.interest import HEADS
from recsys.progress import console
from serving.recommender import Recommender, RecommendOptions
from training.evaluation.evaluate import LIST_LENGTH, Evaluation
from training.fits import fit, late_ranking_data
from training.prepared import prepare_dataset
from training.ranker import fit_ranker
from training.ranker.data import impression_data

WORK = Path(".recsys/heads")
WORTHS = (0, 0.5, 1, 2, 4, 8, 16, 32)
"""Values of `value.purchase` on the curve; `value.click` stays 1."""


def main() -> None:
    """Train on the shop, print the table and draw the curve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/value.png"))
    parser.add_argument("--users", type=int, default=6000)
    parser.add_argument("--items", type=int, default=1500)
    parser.add_argument("--fresh", action="store_true", help="forget what an earlier run fitted")
    options = parser.parse_args()
    if options.fresh:
        shutil.rmtree(WORK, ignore_errors=True)
    if not (WORK / "shop").exists():
        simulate(WORK / "shop", options.users, options.items, seed=7)
    prepared = prepare_dataset(load_dataset(WORK / "shop"), Config(), seed=0)
    two, _ = fit(prepared, "train+valid", WORK / "fit")
    data, early = late_ranking_data(prepared, "train+valid", WORK / "fit")
    clicks = np.broadcast_to(data.labels[..., :1], data.labels.shape)
    one = fit_ranker(replace(data, labels=clicks), early, prepared.seed)
    _, past = impression_data(early, prepared.log, prepared.log.requests(VALID))
    levels = past.labels[past.present].mean(0).tolist()
    evaluation = Evaluation.of(prepared.log, "test", prepared.config.interest.max_history)
    part, shown = impression_data(two.retriever, prepared.log, evaluation.requests)
    present = shown.present
    truth = shown.labels[present].astype(np.float64)
    print(f"{'heads':10}{'event':10}{'auc':>8}{'logloss':>9}{'calibration error':>19}   ({int(present.sum()):,} shown)")
    levelled = {}
    for name, ranker in (("two", two.ranker), ("one", one)):
        probabilities = ranker.probabilities(shown.dense, shown.categorical)[present]
        for head, event in enumerate(HEADS):
            levelled[name, event] = moved(probabilities[:, head], levels[head])
            values = [measure(levelled[name, event], truth[:, head]) for measure in (auc, logloss, calibration_error)]
            print(f"{name:10}{event:10}{values[0]:8.4f}{values[1]:9.4f}{values[2]:19.4f}")
    owners = np.repeat(part.users, present.sum(1))
    for measure in (auc, logloss):
        gap = difference(measure, levelled["two", "purchase"], levelled["one", "purchase"], truth[:, 1], owners)
        print(f"{measure.__name__} of purchases, two heads above one: {gap.value:.4f} [{gap.low:.4f}, {gap.high:.4f}]")
    draw(two, evaluation, options.out)
    console.print(f"wrote {options.out}")


def moved(probabilities: np.ndarray, level: float) -> np.ndarray:
    """Return probabilities whose log odds are shifted so that their mean is `level`."""
    logits = torch.logit(torch.from_numpy(probabilities).double(), eps=1e-6)
    low, high = -20.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if _mean(logits + middle) > level else (middle, high)
    return torch.sigmoid(logits + low).numpy()


def difference(
    measure: Callable[[np.ndarray, np.ndarray], float],
    ours: np.ndarray,
    theirs: np.ndarray,
    truth: np.ndarray,
    users: np.ndarray,
    samples: int = 300,
) -> Interval:
    """Return `measure(ours) - measure(theirs)` with its 95 % interval over users, drawn with replacement."""
    names, owners = np.unique(users, return_inverse=True)
    rows = np.split(np.argsort(owners, kind="stable"), np.cumsum(np.bincount(owners))[:-1])
    rng = np.random.default_rng(0)
    gaps = []
    for _ in range(samples):
        drawn = np.concatenate([rows[user] for user in rng.integers(len(names), size=len(names))])
        gaps.append(measure(ours[drawn], truth[drawn]) - measure(theirs[drawn], truth[drawn]))
    low, high = np.percentile(gaps, [2.5, 97.5])
    return Interval(measure(ours, truth) - measure(theirs, truth), float(low), float(high))


def _mean(logits: Tensor) -> float:
    return float(torch.sigmoid(logits).mean())


def draw(recommender: Recommender, evaluation: Evaluation, out: Path) -> None:
    """Print and draw ndcg@10 of clicks and of purchases as a purchase's worth grows."""
    matplotlib.use("Agg")
    points = []
    print(f"\n{'value.purchase':16}{'ndcg@10 of all targets':>32}{'ndcg@10 of purchases':>32}")
    for worth in WORTHS:
        config = recommender.retriever.config
        config = config.model_copy(update={"value": config.value.model_copy(update={"purchase": worth})})
        changed = replace(recommender, retriever=replace(recommender.retriever, config=config))
        lists = changed.recommend(evaluation.histories, RecommendOptions(LIST_LENGTH)).items
        both = [gains(lists, evaluation, kept) for kept in (None, PURCHASE)]
        points.append([interval.value for interval in both])
        shown = [f"{interval.value:.4f} [{interval.low:.4f}, {interval.high:.4f}]" for interval in both]
        print(f"{worth:<16}{shown[0]:>32}{shown[1]:>32}")
    figure, axes = pyplot.subplots(figsize=(6, 4))
    axes.plot(*zip(*points, strict=True), marker="o")
    for worth, point in zip(WORTHS, points, strict=True):
        axes.annotate(f"{worth:g}", (point[0], point[1]), textcoords="offset points", xytext=(6, 4))
    axes.margins(0.1)
    axes.set_xlabel("ndcg@10 of all targets")
    axes.set_ylabel("ndcg@10 of purchases")
    axes.set_title("What a purchase is worth (value.purchase), in clicks")
    figure.tight_layout()
    with atomic_file(out) as temporary:
        figure.savefig(temporary, dpi=120)


def gains(lists: np.ndarray, evaluation: Evaluation, event: int | None) -> Interval:
    """Return ndcg@10 over the targets of one event type, or of all."""
    requests = evaluation.requests
    kept = np.ones(len(requests.targets), bool) if event is None else requests.types == event
    owners = np.repeat(np.arange(len(requests)), np.diff(requests.offsets))[kept]
    rows = np.unique(owners)
    offsets = np.append(0, np.cumsum(np.bincount(owners, minlength=len(requests))[rows]))
    ranks = list_ranks(lists[rows], requests.targets[kept], offsets)
    return bootstrap_interval(ndcg(ranks, offsets, 10), requests.users[rows])


if __name__ == "__main__":
    main()
