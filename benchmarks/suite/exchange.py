"""What peers read and what they give back, as plain files: they share no environment with the engine.

In: a dataset folder. Out: `events.parquet` (user, item, part) in order, `valid.parquet` and `test.parquet` (user,
history, targets) and `about.json`. Back: `FIT-MODEL.npz` with the ranks `[T]` of the targets of `test`.
"""

import json
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.suite.measure import RANKS, Arrays
from features.data.dataset import Dataset
from features.histories import EARLY, LATE, TEST, VALID, EventLog, read_log
from recsys.atomic import atomic_folder
from recsys.config import Config
from training.plan import FitOn

HISTORY = 50
"""Events of a user that a peer may read, the latest ones; ours read fewer."""


def exchange_folder(work: Path, dataset: Dataset) -> Path:
    """Return the folder of what is exchanged; other data have another."""
    return work / f"peers-{dataset.fingerprint[:10]}"


def export(dataset: Dataset, fits: tuple[FitOn, ...], out: Path) -> None:
    """Write what peers read to the folder `out`, once."""
    if out.exists():
        return
    log = read_log(dataset, Config())
    about = {"users": len(log.user_ids), "items": dataset.items.height, "fits": fits}
    with atomic_folder(out) as folder:
        events_of(log).write_parquet(folder / "events.parquet")
        for name, segment in (("valid", VALID), ("test", TEST)):
            requests_of(log, segment).write_parquet(folder / f"{name}.parquet")
        (folder / "about.json").write_text(json.dumps(about), encoding="utf-8")


def events_of(log: EventLog) -> pl.DataFrame:
    """Return the events before test; of one item several times in a row, as a click and its purchase, the first."""
    fitted = log.in_segments(EARLY, LATE, VALID)
    frame = pl.DataFrame({"user": fitted.user_rows, "item": fitted.items, "valid": fitted.segments == VALID})
    again = (pl.col("item") == pl.col("item").shift(1)).over("user").fill_null(False)
    part = pl.when("valid").then(pl.lit("valid")).otherwise(pl.lit("train"))
    return frame.filter(~again).select("user", "item", part=part)


def requests_of(log: EventLog, segment: int) -> pl.DataFrame:
    """Return the requests of a segment in the order of the suite, each with the history that was known before it."""
    requests = log.requests(segment)
    items = log.histories(requests.users, requests.times, HISTORY).items  # [R, L]
    again = np.diff(items, axis=1, prepend=-1) == 0
    histories = [row[(row >= 0) & ~same].tolist() for row, same in zip(items, again, strict=True)]
    targets = [part.tolist() for part in np.split(requests.targets, requests.offsets[1:-1])]
    kind = pl.List(pl.Int64)
    return pl.DataFrame(
        {"user": requests.users, "history": histories, "targets": targets},
        schema_overrides={"history": kind, "targets": kind},
    )


def peers(folder: Path, fit_on: FitOn) -> Arrays:
    """Return the ranks `[T]` of the peers that were measured, by the names of their rows."""
    rows = {}
    for path in sorted(folder.glob(f"{fit_on}-*.npz")):
        with np.load(path, allow_pickle=False) as arrays:
            rows[RANKS + path.stem.removeprefix(f"{fit_on}-")] = arrays["ranks"]
    return rows
