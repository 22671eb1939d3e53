"""How seconds and memory of a training's preparation grow with the events and with the items.

    python -m benchmarks.scale scale --events 10000 1000000 20000000 --items 1000 30000 1000000

Logs are made up: users and items by power laws, written in parts as Parquet, with users a twentieth and items a hundredth of the events,
at most 200,000. Each step runs in a process of its own, and its result is kept in `scale/results.jsonl`, so that a run that was
stopped goes on, and sizes can be added. Out come a table, the slope between sizes on log-log axes, and with --picture a picture.
"""

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from rich.table import Table

from features.data.dataset import load_dataset
from features.data.validate import check
from features.facts import fit_facts
from features.histories import EARLY, LATE, VALID, EventLog, read_log, type_weights
from recsys.arrays import offsets_of
from recsys.atomic import atomic_file
from recsys.config import Config
from recsys.events import DEFAULT_EVENT_WEIGHTS
from recsys.models.encoder import Tokens
from recsys.models.taste import TasteModel
from recsys.progress import console, stage
from serving.retrieval.index import VectorIndex
from serving.retrieval.sources import SOURCES, FitContext
from training.interest.sequences import prepare
from training.pictures.canvas import COLOURS, MARKERS, Canvas, label

PART = 2_000_000
"""Events that are made up at a time."""
MOST_ITEMS = 200_000
WIDTH = 384
YEAR_US = 365 * 86_400_000_000
START_US = 1_700_000_000_000_000
OF_EVENTS = ("check", "read", "log", "sequences", "facts", "covisitation", "popular", "trending", "together")
OF_ITEMS = ("lexical", "related", "index")


@dataclass(frozen=True)
class Measured:
    """What a step took."""

    axis: str
    """`events` or `items`."""
    size: int
    step: str
    seconds: float
    core_seconds: float
    """Processor time, which other work on the machine changes little."""
    peak_gib: float
    """Of the process, what it needed to begin with among it."""
    load: float
    """Processes that ran or waited on the machine, by the average of a minute, when the step ended."""
    day: str


def main() -> None:
    """Measure what is not in the results yet, and print all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--events", type=int, nargs="*", default=[])
    parser.add_argument("--items", type=int, nargs="*", default=[])
    parser.add_argument(
        "--steps", nargs="*", default=[*OF_EVENTS, *OF_ITEMS], help="of " + ", ".join(OF_EVENTS + OF_ITEMS)
    )
    parser.add_argument("--picture", type=Path, help="where to draw the seconds and the memory")
    parser.add_argument("--step", nargs=3, metavar=("AXIS", "SIZE", "STEP"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        axis, size, step = options.step
        print(json.dumps(asdict(measured(options.folder, axis, int(size), step))))
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    wanted = [("events", size, step) for size in options.events for step in OF_EVENTS if step in options.steps]
    wanted += [("items", size, step) for size in options.items for step in OF_ITEMS if step in options.steps]
    for axis, size, step in wanted:
        measure_once(options.folder, axis, size, step)
    results = kept(options.folder)
    console.print(table_of(results))
    if options.picture:
        options.picture.write_bytes(drawn(results))


def kept(folder: Path) -> list[Measured]:
    """Return the results in `folder`, the smallest sizes first; of one step at one size, the latest counts."""
    path = folder / "results.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    results = [Measured(**json.loads(line)) for line in lines]
    latest = {(one.axis, one.step, one.size): one for one in results}
    order = OF_EVENTS + OF_ITEMS
    return sorted(latest.values(), key=lambda one: (order.index(one.step), one.size))


def measure_once(folder: Path, axis: str, size: int, step: str) -> None:
    """Measure a step in a process of its own and keep what it took, unless that is known."""
    if any((one.axis, one.size, one.step) == (axis, size, step) for one in kept(folder)):
        return
    if axis == "events" and not (dataset_folder(folder, size) / "events.parquet").exists():
        with stage(f"writing {size:,} events"):
            write_dataset(dataset_folder(folder, size), size)
    command = [sys.executable, "-m", "benchmarks.scale", str(folder), "--step", axis, str(size), step]
    with stage(f"{size:,} {axis}: {step}"):
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        console.print(f"{size:,} {axis}: {step} failed with code {done.returncode}")
        return
    with (folder / "results.jsonl").open("a", encoding="utf-8") as file:
        file.write(done.stdout.splitlines()[-1] + "\n")


def measured(folder: Path, axis: str, size: int, step: str) -> Measured:
    """Run a step and return what it took; what it needs is read or made before."""
    run = of_events(dataset_folder(folder, size), step) if axis == "events" else of_items(size, step)
    start, core = time.perf_counter(), time.process_time()
    run()
    seconds, core_seconds = time.perf_counter() - start, time.process_time() - core
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return Measured(axis, size, step, seconds, core_seconds, peak, os.getloadavg()[0], date.today().isoformat())


def dataset_folder(folder: Path, events: int) -> Path:
    """Return where the log of so many events is."""
    return folder / f"events-{events}"


def of_events(folder: Path, step: str) -> Callable[[], object]:
    """Return the work of a step on the log in `folder`."""
    if step == "check":
        return lambda: check(folder)
    if step == "read":
        return lambda: load_dataset(folder)
    if step == "log":
        return lambda: save_log(read_log(load_dataset(folder), Config()), folder)
    if step == "together":
        return lambda: together(folder)
    items = pl.read_parquet(folder / "items.parquet")
    log = load_log(folder)
    return lambda: with_log(log, items, step)


def together(folder: Path) -> None:
    """Do all that a training does between the files and its first fit, and again after it, in one process."""
    check(folder)
    dataset = load_dataset(folder)
    log = read_log(dataset, Config())
    for step in ("sequences", "facts", "covisitation", "popular", "trending"):
        with_log(log, dataset.items, step)


def with_log(log: EventLog, items: pl.DataFrame, step: str) -> object:
    """Run a step that needs the log."""
    if step == "sequences":
        tokens = Tokens(np.zeros(items.height, np.int32), np.arange(items.height + 1))
        return prepare(log, (EARLY,), tokens, weights=DEFAULT_EVENT_WEIGHTS, has_clock=True, config=Config())
    if step == "facts":
        return fit_facts(items, log.in_segments(EARLY, LATE), ())
    return SOURCES[step].fit(context_of(items, log.in_segments(EARLY, LATE, VALID)))


def context_of(items: pl.DataFrame, log: EventLog) -> FitContext:
    """Return what sources that need no vectors are fitted on."""
    none, weights = np.empty((items.height, 0), np.float32), type_weights(DEFAULT_EVENT_WEIGHTS)
    category = np.zeros(items.height, np.int64)
    return FitContext(items, none, none, category, TasteModel(4, 8), log=log, weights=weights, has_clock=True)


def of_items(count: int, step: str) -> Callable[[], object]:
    """Return the work of a step on a catalogue of `count` items."""
    rng = np.random.default_rng(0)
    if step == "index":
        vectors = rng.standard_normal((count, WIDTH), np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return lambda: VectorIndex.build(vectors, np.arange(count))
    items = made_up_items(count)
    rows = ranks(rng, count, 10 * count)
    none = np.zeros(len(rows), np.int64)
    log = EventLog(["u"], offsets_of(np.array([len(rows)])), rows.astype(np.int32), none.astype(np.int8), none,
                   none.astype(np.int8), none - 1, np.empty(0, np.int32), np.zeros(1, np.int64), [])  # fmt: skip
    return lambda: SOURCES[step].fit(context_of(items, log))


def ranks(rng: np.random.Generator, count: int, size: int | tuple[int, ...]) -> np.ndarray:
    """Return numbers below `count` by a power law: rank r as often as 1 / (r + 1)."""
    drawn = np.expm1(rng.random(size) * math.log1p(count))
    return np.minimum(drawn.astype(np.int64), count - 1)


def write_dataset(folder: Path, events: int) -> None:
    """Write a dataset of so many events; a part in memory at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    users, items = max(events // 20, 10), min(max(events // 100, 100), MOST_ITEMS)
    made_up_items(items).write_parquet(folder / "items.parquet")
    (folder / "dataset.json").write_text(json.dumps({"name": folder.name}), encoding="utf-8")
    with atomic_file(folder / "events.parquet") as temporary:
        writer = None
        for part in event_parts(users, items, events):
            writer = writer or pq.ParquetWriter(temporary, part.schema)
            writer.write_table(part)
        if writer:
            writer.close()


def event_parts(users: int, items: int, events: int) -> Iterator[pa.Table]:
    """Yield events in order of time: some users act often, and half the time within their own hundredth of the catalogue."""
    rng = np.random.default_rng(0)
    for start in range(0, events, PART):
        size = min(PART, events - start)
        user = (users * rng.random(size) ** 2).astype(np.int64)
        own = user * 7919 % items + ranks(rng, max(items // 100, 10), size)
        item = np.where(rng.random(size) < 0.5, own % items, ranks(rng, items, size))
        time_us = START_US + (YEAR_US * (start + np.arange(size)) // events)
        yield pl.DataFrame(
            {
                "user_id": pl.Series(user).cast(pl.String).str.zfill(8),
                "item_id": pl.Series(item).cast(pl.String).str.zfill(7),
                "event_type": pl.select(
                    pl.when(pl.Series(rng.random(size)) < 0.1).then(pl.lit("purchase")).otherwise(pl.lit("click"))
                ).to_series(),
                "timestamp": time_us,
            }
        ).to_arrow(compat_level=pl.CompatLevel.oldest())


def made_up_items(count: int) -> pl.DataFrame:
    """Return a catalogue whose vocabulary grows with it: words of all items and of the category, by power laws."""
    rng = np.random.default_rng(0)
    categories, brands, words = max(20, math.isqrt(count) // 2), max(20, count // 30), int(60 * count**0.6)
    category = ranks(rng, categories, count)
    vocabulary = pl.Series([f"word{word:x}" for word in range(words)])

    def texts(length: int) -> pl.Series:
        parts = []
        for start in range(0, count, 100_000):
            own = category[start : start + 100_000]
            shape = (len(own), length)
            special = (own[:, None] * 7919 + ranks(rng, 400, shape) * 104729) % words
            chosen = np.where(rng.random(shape) < 0.4, special, ranks(rng, words, shape))
            spelled = vocabulary.gather(chosen.ravel()).reshape(shape)
            parts.append(spelled.arr.join(" "))
        return pl.concat(parts)

    return pl.DataFrame(
        {
            "item_id": pl.Series(np.arange(count)).cast(pl.String).str.zfill(7),
            "title": texts(7),
            "description": texts(40),
            "brand": "brand" + pl.Series(ranks(rng, brands, count)).cast(pl.String),
            "category": "category" + pl.Series(category).cast(pl.String),
            "tags": pl.Series([[]] * count, dtype=pl.List(pl.String)),
            "price": 1 + 100 * rng.random(count),
            "created_at": pl.Series([None] * count, dtype=pl.Int64),
        }
    )


ARRAYS = ("offsets", "items", "types", "times", "segments", "request_index", "impressions", "impression_offsets")


def save_log(log: EventLog, folder: Path) -> None:
    """Keep the arrays of a log in `folder`."""
    for name in ARRAYS:
        np.save(folder / f"log-{name}.npy", getattr(log, name))
    pl.DataFrame({"user_id": log.user_ids}).write_parquet(folder / "log-users.parquet")


def load_log(folder: Path) -> EventLog:
    """Return the log that `save_log` kept, its arrays mapped from their files."""
    arrays = {name: np.load(folder / f"log-{name}.npy", mmap_mode="r") for name in ARRAYS}
    return EventLog(
        user_ids=pl.read_parquet(folder / "log-users.parquet")["user_id"].to_list(), request_ids=[], **arrays
    )


def table_of(results: list[Measured]) -> Table:
    """Return the results as a table; the slope is that from the size before, 1 where time is proportional to the size."""
    table = Table("step", "size", "wall s", "core s", "slope", "GiB", "load", title="by events, and by items")
    before: Measured | None = None
    for one in results:
        same = before is not None and (before.axis, before.step) == (one.axis, one.step)
        slope = f"{slope_of(before, one):.2f}" if same and before else ""
        figures = (one.seconds, one.core_seconds)
        table.add_row(
            one.step,
            f"{one.size:,}",
            *(f"{figure:.1f}" for figure in figures),
            slope,
            f"{one.peak_gib:.2f}",
            f"{one.load:.0f}",
        )
        before = one
    return table


def slope_of(small: Measured, large: Measured) -> float:
    """Return by which power of the size the processor time grew."""
    return math.log(max(large.core_seconds, 1e-3) / max(small.core_seconds, 1e-3)) / math.log(large.size / small.size)


def drawn(results: list[Measured]) -> bytes:
    """Return the picture of processor time and memory by size, on log-log axes."""
    canvas = Canvas(3.6, panels=2)
    steps = [step for step in OF_EVENTS + OF_ITEMS if sum(one.step == step for one in results) > 1]
    for index, step in enumerate(steps):
        own = [one for one in results if one.step == step]
        style = {
            "color": COLOURS[index % len(COLOURS)],
            "marker": MARKERS[index % len(MARKERS)],
            "label": f"{step} ({own[0].axis})",
        }
        for panel, name in zip(canvas.panels, ("core_seconds", "peak_gib"), strict=True):
            panel.loglog(
                [one.size for one in own], [getattr(one, name) for one in own], markersize=4, linewidth=1, **style
            )
    label(canvas.panels[0], "events or items", "seconds of a core")
    label(canvas.panels[1], "events or items", "GiB at most")
    canvas.figure.legend(
        *canvas.panels[0].get_legend_handles_labels(), loc="outside right center", fontsize=7, frameon=False
    )
    return canvas.finish(
        "scale", "What preparing a training takes by size", "", "Each step in a process of its own."
    ).png


if __name__ == "__main__":
    main()
