"""What a training takes: an estimate before it, from earlier ones on the same machine, and what it took.

In: the sizes of the data, the seconds of each stage, earlier runs. Out: sentences for the console, metrics for MLflow.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from recsys.config import Config
from training.machine import machine, peak_memory_gib
from training.run_info import RunInfo

ALL_STAGES, EVENTS, ITEMS = "seconds/all_stages", "size/events", "size/items"
"""Metrics of a run."""
SECTIONS = ("encoder", "interest", "taste", "ranker", "update")
"""Sections of the configuration that decide how long a training takes."""
HARDWARE = ("machine.cpu", "machine.cores", "machine.gpu")
AS_MUCH = 1.25
"""Growth up to which data count as equally large."""
FAR = 10.0
"""Growth from which an estimate is called a rough guess."""
SHOWN = 4
"""Stages that are named in what a training took."""


@dataclass(frozen=True)
class Sizes:
    """How large a dataset is."""

    events: int
    items: int

    def growth(self, run: RunInfo) -> float:
        """Return how many times as large the data are as those of `run`, by whichever grew more."""
        return max(self.events / max(run.metrics[EVENTS], 1), self.items / max(run.metrics[ITEMS], 1))


def metrics_of(seconds: Mapping[str, float], sizes: Sizes) -> dict[str, float]:
    """Return what a training took as metrics: seconds by stage, the most memory of this process, and the sizes of its data."""
    stages = {f"seconds/{title.replace(' ', '_')}": taken for title, taken in seconds.items()}
    whole = {ALL_STAGES: sum(seconds.values()), "memory/peak_gib": peak_memory_gib()}
    return stages | whole | {EVENTS: sizes.events, ITEMS: sizes.items}


def summary(seconds: Mapping[str, float], sizes: Sizes) -> str:
    """Return in a line what a training took: its longest stages, and its memory."""
    longest = sorted(seconds.items(), key=lambda stage: -stage[1])[:SHOWN]
    stages = ", ".join(f"{title} {duration(taken)}" for title, taken in longest)
    return (
        f"took {duration(sum(seconds.values()))} with {sizes.events:,} events on {sizes.items:,} items: {stages}; "
        f"at most {peak_memory_gib():.1f} GiB in this process"
    )


def estimate(sizes: Sizes, config: Config, is_update: bool, runs: Sequence[RunInfo]) -> str:
    """Return in a line how long a training will take, by the earlier one among `runs` that is most like it.

    That is one that finished on this machine, with the same settings, on the data nearest in size. Where there is none, the line says so.
    """
    alike = [run for run in runs if _is_like(run, config, is_update)]
    if not alike:
        return "how long it takes is not known: no training with these settings has finished on this machine"
    run = min(alike, key=lambda run: abs(math.log(max(sizes.growth(run), 1e-9))))
    taken, growth = run.metrics[ALL_STAGES], sizes.growth(run)
    if 1 / AS_MUCH <= growth <= AS_MUCH:
        return f"some {duration(taken)}, as {run.label} took on this machine with as much data; passes that bring no more end it sooner"
    source = f"{run.label} took {duration(taken)} on this machine with {run.metrics[EVENTS]:,.0f} events and {run.metrics[ITEMS]:,.0f} items"
    rough = "" if 1 / FAR < growth < FAR else ", a rough guess from data of quite another size"
    if growth > 1:
        return f"up to some {duration(taken * growth)}{rough}: {source}, and time grows at most with the data"
    return f"between {duration(taken * growth)} and {duration(taken)}{rough}: {source}"


def _is_like(run: RunInfo, config: Config, is_update: bool) -> bool:
    """Return whether `run` tells how long a training with `config` takes on this machine."""
    known = all(run.metrics.get(name, 0) > 0 for name in (ALL_STAGES, EVENTS, ITEMS))
    here = machine()
    same_machine = all(run.machine.get(name) == here[name] for name in HARDWARE)
    wanted = {f"{part}.{key}": str(value)[:500] for part, body in config.model_dump(mode="json").items()
              if part in SECTIONS for key, value in body.items()}  # fmt: skip
    same_settings = all(run.parameters.get(name, value) == value for name, value in wanted.items())
    return run.status == "finished" and known and same_machine and same_settings and is_update == bool(run.updated_from)


def duration(seconds: float) -> str:
    """Return a time in words, no more exact than it is worth."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} minutes" if minutes < 90 else f"{minutes / 60:.1f} hours"
