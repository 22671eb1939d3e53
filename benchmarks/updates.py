"""Updated weekly against retrained weekly against never, on the simulated shop cut into slices.

    .venv/bin/python -m benchmarks.updates WORK [--users 2000] [--items 1500] [--start 6] [--slices 11] [--days 7]

In: the size of the shop, the slices of the first training, and how many follow. Out: a line per slice and kind of model: ndcg@10 on the
requests of the next slice, which no model has seen, the difference to the model that is retrained, and the seconds of all processors that
its training took. Every model knows the counts and histories of all events before that slice, as one that follows a store does.

The fits run in this process and not under Ray, whose start costs the same seconds whatever is fitted, and so do not wait for others where
the machine is shared. What is done is kept in the folder, so that the script goes on where it was stopped.
"""

import argparse
import json
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from features.data.dataset import Dataset, load_dataset
from features.histories import EARLY, TEST, read_log
from features.simulator.shop import START_US, simulate
from recsys.atomic import atomic_file, atomic_folder
from recsys.config import load_config
from recsys.events import DAY_US
from recsys.metrics import bootstrap_interval
from serving.loading import load_bundle, save_bundle
from training.evaluation.evaluate import evaluate
from training.fits import fit, judge_update, up_to_date
from training.interest import ray_fit
from training.interest.data import InterestData
from training.interest.ray_fit import DATA, NDCG, Epochs, InterestFit
from training.interest.trainer import InterestTrainer
from training.plan import PLANS, FitOn
from training.prepared import prepare_dataset
from training.update import Start

RESULTS = "results.json"
FIT_ON: FitOn = "all"
"""What a shop trains for tomorrow's lists."""

Results = dict[str, dict[str, Any]]
"""What was measured, by kind and slice."""


class Worker(ray_fit._Worker):
    """A worker that runs here and keeps its checkpoints in the stage's folder."""

    def __init__(self, job: ray_fit._Job) -> None:
        self.job, self.history, self.passes, self.rank = job, Epochs(), 0, 0
        self.trainer = InterestTrainer(
            InterestData.load(job.folder / DATA),
            job.config,
            device=torch.device("cpu"),
            seed=job.seed,
            encoder_from=job.encoder_from,
            start=job.start,
        )

    def agreed(self, metric: float) -> float:
        """Return the only worker's metric."""
        return metric

    def restore_best(self) -> int:
        """Take the weights of the best epoch; return after how many passes it was."""
        best = max(range(len(self.history)), key=lambda epoch: self.history[epoch][NDCG])
        self.trainer.restore(self.job.folder / f"epoch-{best + 1}")
        return int(self.history[best]["epoch"])

    def report(self, metrics: dict[str, float]) -> None:
        """Save a checkpoint and the history beside it."""
        self.history = [*self.history, {"epoch": self.passes} | metrics]
        folder = self.job.folder / f"epoch-{len(self.history)}"
        folder.mkdir()
        self.trainer.save(folder)
        (self.job.folder / ray_fit.HISTORY).write_text(json.dumps(self.history))


def run_here(loop: Any, job: ray_fit._Job, keep: str) -> InterestFit:
    """Do what `ray_fit._run` does, in this process."""
    loop({"job": job})
    history: Epochs = json.loads((job.folder / ray_fit.HISTORY).read_text())
    best = max(range(len(history)), key=lambda epoch: history[epoch][keep])
    checkpoint = str(job.folder / f"epoch-{best + 1}")
    return InterestFit(int(history[best]["epoch"]), history[best].get(NDCG), history, checkpoint, "cpu")


def main() -> None:
    """Make the slices, train and measure what is not there yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--users", type=int, default=2000)
    parser.add_argument("--items", type=int, default=1500)
    parser.add_argument("--start", type=int, default=6, help="slices that the first training knows")
    parser.add_argument("--slices", type=int, default=11, help="slices after it; the last one is only measured on")
    parser.add_argument("--days", type=int, default=7)
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="SECTION.KEY=VALUE")
    options = parser.parse_args()
    ray_fit._run, ray_fit._Worker = run_here, Worker  # type: ignore[misc, assignment]
    options.folder.mkdir(exist_ok=True)
    os.chdir(options.folder)
    if not Path("shop").exists():
        simulate(Path("shop"), options.users, options.items)
    ends = {number: START_US + number * options.days * DAY_US for number in range(options.start, 100)}
    last = options.start + options.slices
    for number in range(options.start, last + 1):
        cut(Path("shop"), Path(f"slice-{number}"), ends[number])
    base = updated = trained("retrained", options.start, options.sets)
    for number in range(options.start + 1, last):
        updated = trained("updated", number, options.sets, updated)
        models = {"retrained": trained("retrained", number, options.sets), "updated": updated, "never": base}
        for kind, bundle in models.items():
            measure(kind, number, bundle, ends[number])
        table(options.start + 1, number)


def cut(shop: Path, out: Path, until: int) -> None:
    """Write the dataset as it was at the time `until`: the items that were there, and the events before."""
    if out.exists():
        return
    items, events = pl.read_parquet(shop / "items.parquet"), pl.read_parquet(shop / "events.parquet")
    items = items.filter(pl.col("created_at").fill_null(0) < until)
    events = events.filter(pl.col("timestamp") < until, pl.col("item_id").is_in(items["item_id"].implode()))
    with atomic_folder(out) as folder:
        items.write_parquet(folder / "items.parquet")
        events.write_parquet(folder / "events.parquet")
        for name in ("users.parquet", "dataset.json"):
            shutil.copy(shop / name, folder / name)


def trained(kind: str, number: int, sets: list[str], before: Path | None = None) -> Path:
    """Train on a slice, from the bundle `before` on where given; return the folder of the new bundle."""
    out, key = Path(f"{kind}-{number}"), f"{kind} {number}"
    if out.exists():
        return out
    clock, processors = time.monotonic(), time.process_time()
    start = Start.of(str(before)) if before else None
    config = load_config(None, tuple(sets), start.config if start else None)
    config = start.continued(config) if start else config
    dataset, stages, notes = load_dataset(Path(f"slice-{number}")), Path(f"stages-{kind}-{number}"), []
    shutil.rmtree(stages, ignore_errors=True)
    prepared = replace(prepare_dataset(dataset, config, 0), start=start)
    if start:
        verdict = judge_update(prepared, FIT_ON, stages)
        notes.append(verdict.line(start.model))
        prepared = replace(prepared, start=None) if verdict.worse else prepared
    recommender = up_to_date(prepared, fit(prepared, FIT_ON, stages)[0])
    spent = {"seconds": time.monotonic() - clock, "processor_seconds": time.process_time() - processors}
    about: dict[str, Any] = {
        "dataset": "shop",
        "dataset_fingerprint": dataset.fingerprint,
        "fit_on": FIT_ON,
        "metrics": {},
    }
    about |= {"event_weights": prepared.weights, "fitted_until": int(prepared.log.times.max())}
    with atomic_folder(out) as folder:
        save_bundle(folder, recommender, prepared.tokenizer, prepared.segments(PLANS[FIT_ON].refit), about)
    note(key, notes=notes, **spent)
    shutil.rmtree(stages)
    return out


def measure(kind: str, number: int, folder: Path, until: int) -> None:
    """Measure a bundle on the requests of the slice after `number`, which begins at `until`."""
    requests = Path(f"requests-{kind}-{number}.parquet")
    if requests.exists():
        return
    dataset: Dataset = load_dataset(Path(f"slice-{number + 1}"))
    bundle = load_bundle(folder, dataset.items)
    recommender = bundle.recommender
    config, ids = recommender.retriever.config, recommender.retriever.items["item_id"]
    log = read_log(dataset, config, ids)
    log = replace(log, segments=np.where(log.times < until, EARLY, TEST).astype(log.segments.dtype))
    before = log.in_segments(EARLY)
    recommender = replace(recommender, retriever=recommender.retriever.as_of(before, bundle.weights))
    report = evaluate(recommender, log, "test", dataset="shop", counts=np.bincount(before.items, minlength=len(ids)))
    report.requests.write_parquet(requests)


def read() -> Results:
    """Return what is done."""
    path = Path(RESULTS)
    results: Results = json.loads(path.read_text()) if path.exists() else {}
    return results


def note(key: str, **values: Any) -> None:
    """Keep what a training took."""
    with atomic_file(Path(RESULTS)) as temporary:
        temporary.write_text(json.dumps(read() | {key: values}, indent=1))


def table(first: int, last: int) -> None:
    """Print a line for each slice and kind, and one over all slices."""
    results = read()
    print(f"{'slice':>6} {'kind':10}{'requests':>9}{'ndcg@10':>9}  {'difference to retrained':28}{'CPU s':>7}")
    every: dict[str, list[pl.DataFrame]] = {}
    for number in range(first, last + 1):
        for kind in ("retrained", "updated", "never"):
            every.setdefault(kind, []).append(pl.read_parquet(f"requests-{kind}-{number}.parquet"))
            found = results.get(f"{kind} {number}", {})
            columns = compared(every[kind][-1:], every["retrained"][-1:])
            print(f"{number:6} {kind:10}{columns}{found.get('processor_seconds', 0):7.0f}")
            for line in found.get("notes", []):
                print(f"       {line}")
    for kind, parts in every.items():
        print(f"   all {kind:10}{compared(parts, every['retrained'])}", flush=True)


def compared(ours: list[pl.DataFrame], theirs: list[pl.DataFrame]) -> str:
    """Return requests, ndcg@10 and the difference of two models on the same requests, as columns."""
    one, other = pl.concat(ours), pl.concat(theirs)
    values = (one["ndcg@10"] - other["ndcg@10"]).to_numpy()
    interval = bootstrap_interval(values, one["user"].to_numpy(), 4000)
    difference = f"{interval.value:+.4f} [{interval.low:+.4f}, {interval.high:+.4f}]"
    return f"{one.height:9}{float(one['ndcg@10'].to_numpy().mean()):9.4f}  {difference:28}"


if __name__ == "__main__":
    main()
