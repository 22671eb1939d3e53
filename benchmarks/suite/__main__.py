"""The quality suite: ours against all baselines, peers and published rows, on every data set.

    .venv/bin/python -m benchmarks.suite
    .venv/bin/python -m benchmarks.suite --only nemig --seeds 1

In: the folder of real data. Out: a Markdown page of each data set, and one over all pages. Every training and
baseline has a file in `.recsys/suite`, by a key of the data and the default configuration: a suite that was stopped goes on
with what is missing, and changed defaults are measured anew (changed code is not seen: `--fresh`).
"""

import argparse
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.suite.exchange import exchange_folder, export, peers
from benchmarks.suite.measure import (
    OURS,
    RANKS,
    Arrays,
    in_own_process,
    kept,
    key_of,
    measure_baselines,
    measure_training,
    measure_without,
)
from benchmarks.suite.report import write
from benchmarks.suite.results import Results
from benchmarks.suite.sets import SETS, WORK, Places
from features.data.dataset import Dataset, load_dataset
from recsys.config import Config, SourcesConfig, load_config
from recsys.errors import RecsysError
from recsys.progress import console
from training.plan import FitOn


def main() -> None:
    """Read the options, measure what is missing and write the report."""
    options = parse()
    chosen = options.only or list(SETS)
    if options.fresh:
        for name in chosen:
            shutil.rmtree(WORK / name, ignore_errors=True)
    for name in chosen:
        try:
            if results := results_of(name, options):
                write(options.out, name, results)
                console.print(f"wrote {options.out / name}.md")
        except RecsysError as error:
            console.print(f"{name} left out: {error}", soft_wrap=True)


def parse() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.suite", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the real data sets")
    parser.add_argument("--movielens", type=Path, help="folder of the RecBole files of MovieLens-100K")
    parser.add_argument("--only", action="append", choices=list(SETS), help="measure this data set; repeatable")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each data set")
    parser.add_argument("--ablate", action="store_true", help="also turn off each candidate source in turn, seed 0")
    parser.add_argument("--export", action="store_true", help="only write what benchmarks.peers.run reads")
    parser.add_argument("--out", type=Path, default=Path("docs/quality"), help="folder of the pages")
    parser.add_argument("--fresh", action="store_true", help="forget what was measured of the chosen data sets")
    return parser.parse_args()


def results_of(name: str, options: argparse.Namespace) -> dict[FitOn, Results]:
    """Return the results of a data set by `--fit-on`, measuring what is missing; none where it is only exported.

    Raises:
        RecsysError: the data are not at hand.
    """
    fits, work = SETS[name].fits, WORK / name
    dataset = load_dataset(SETS[name].find(name, Places(options.data, options.movielens)))
    exchange = exchange_folder(work, dataset)
    export(dataset, fits, exchange)
    if options.export:
        return {}
    results: dict[FitOn, Results] = {}
    for fit_on in fits:
        measured = Measured(work, dataset, fit_on)
        shared = measured.arrays("baselines", Config(), measure_baselines)
        results[fit_on] = Results(
            shared={key: array for key, array in shared.items() if not key.startswith(RANKS)},
            seeds=[measured.training(seed) for seed in range(options.seeds)],
            others={key: array for key, array in shared.items() if key.startswith(RANKS)} | peers(exchange, fit_on),
            without=measured.ablations(options.ablate),
        )
    return results


@dataclass(frozen=True)
class Measured:
    """The files of a data set and `--fit-on`, made where they are missing."""

    work: Path
    dataset: Dataset
    fit_on: FitOn

    def training(self, seed: int) -> Arrays:
        """Return what a training with the default configuration gave."""
        return self.arrays(str(seed), Config(), measure_training, seed, self.stages(seed))

    def ablations(self, measure: bool) -> Arrays:
        """Return the ranks `[T]` without each candidate source in turn, of those measured before or to `measure` now."""
        rows = {}
        for source in SourcesConfig.model_fields:
            config = load_config(None, (f"sources.{source}=0",))
            if measure or self.path("without", config).exists():
                arrays = self.arrays("without", config, measure_without, 0, self.stages(0))
                rows[f"{RANKS}without source {source}"] = arrays[RANKS + OURS]
        return rows

    def stages(self, seed: int) -> Path:
        """Return the folder where a training with the default configuration leaves its stages."""
        return self.path(str(seed), Config()).with_suffix("")

    def path(self, tag: str, config: Config) -> Path:
        """Return the file of what is measured."""
        return self.work / f"{self.fit_on}-{tag}-{key_of(self.dataset, config)}.npz"

    def arrays(self, tag: str, config: Config, measure: Callable[..., Arrays], *rest: Any) -> Arrays:
        """Return what `measure` gives, from its file or measured now in a process of its own."""
        path = self.path(tag, config)
        if not path.exists():
            console.print(f"measuring {path}", soft_wrap=True)
        return kept(path, lambda: in_own_process(measure, self.dataset.folder, self.fit_on, config, *rest))


if __name__ == "__main__":
    main()
