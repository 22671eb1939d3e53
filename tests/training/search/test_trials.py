"""Trials know nothing of `test`, and what they do not change is made once."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from features.data.dataset import load_dataset
from features.histories import TEST, VALID, read_log
from recsys.metrics import Floats
from tests.training.search.small import fit_stages, small_config, small_shop
from training import fits
from training.search import trials
from training.search.space import Choices, Space
from training.search.trials import Job, measure, prepared_of, users_of

SPACE: Space = {"ranker.leaves": Choices((7, 3)), "sources.popular": Choices((40, 2))}
OTHERS: tuple[dict[str, Any], ...] = (
    {},
    {"ranker.leaves": 3},
    {"sources.popular": 2, "ranker.trees": 9},
    {"value.purchase": 9.0},
)
"""Parameters of trials that build on the same retrievers."""


def ignore(best: float) -> None:
    """Take no note of an epoch."""


def job_of(folder: Path, dataset: Path) -> Job:
    """Return a search's job with a fitted interest model."""
    config = small_config(folder)
    fit_stages(dataset, config, folder)
    return replace(Job.of(dataset, config, SPACE, 0, threads=1), folder=folder)


def scrambled(dataset: Path) -> Path:
    """Return a copy of the dataset in which each event of `test` is one of another item and type."""
    log = read_log(load_dataset(dataset), small_config(dataset.parent))
    since = int(log.times[log.segments == TEST].min()) // 1_000_000
    events = pl.read_csv(dataset / "events.csv")
    late = pl.col("timestamp") >= since
    other = ("i" + ((pl.col("item_id").str.slice(1).cast(pl.Int64) * 7 + 5) % 16).cast(pl.String)).alias("item_id")
    changed = events.filter(late).with_columns(other, event_type=pl.lit("purchase"))
    out = dataset.with_name("scrambled")
    out.mkdir()
    for path in dataset.iterdir():
        (out / path.name).write_bytes(path.read_bytes())
    pl.concat([events.filter(~late), changed]).write_csv(out / "events.csv")
    assert changed.height > 10
    return out


def gains_of(job: Job) -> list[Floats]:
    """Return what trials measure, each by request."""
    return [measure(job, parameters, job.folder / "work", ignore) for parameters in OTHERS]


def test_a_search_never_sees_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its log ends with `valid`, and events of `test` that are others give the same figures to the last digit."""
    monkeypatch.chdir(tmp_path)
    dataset = small_shop(tmp_path)
    first = job_of(tmp_path / "one", dataset)
    second = job_of(tmp_path / "two", scrambled(dataset))
    whole = read_log(load_dataset(dataset), first.config)
    assert TEST not in prepared_of(first).log.segments and TEST in whole.segments
    ours, theirs = gains_of(first), gains_of(second)
    for gains, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(gains, other)
    assert len(ours[0]) == len(users_of(first)) == len(whole.requests(VALID))
    assert 0 < ours[0].mean() < 1


def noted(made: list[str], real: Callable[..., Any]) -> Callable[..., Any]:
    """Return the same function, whose calls are noted by its name."""

    def call(*arguments: Any) -> Any:
        made.append(real.__name__)
        return real(*arguments)

    return call


def test_what_trials_do_not_change_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts are encoded once; taste model, sources and facts are fitted again where a trial changes them."""
    monkeypatch.chdir(tmp_path)
    job = job_of(tmp_path / "one", small_shop(tmp_path))
    made: list[str] = []
    monkeypatch.setattr(fits, "_texts", noted(made, fits._texts))
    monkeypatch.setattr(fits, "assemble", noted(made, fits.assemble))
    trials._fit_once.cache_clear()
    default, _, fewer, _ = gains_of(job)
    assert made == ["_texts", "assemble", "assemble"]
    assert not np.array_equal(default, fewer)
    without_taste = measure(job, {"sources.taste": 0}, tmp_path, ignore)
    assert made == ["_texts", *["assemble"] * 4] and not np.array_equal(default, without_taste)
    measure(job, {}, tmp_path, ignore)
    assert made == ["_texts", *["assemble"] * 4]
