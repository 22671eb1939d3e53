"""The benchmark of sizes: its logs are datasets, what was measured is kept, and slopes are powers of the size."""

from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from benchmarks import scale
from benchmarks.scale import Measured, dataset_folder, kept, measure_once, measured, slope_of, write_dataset
from features.data.validate import check

ONE = Measured("events", 1000, "log", 1.0, 2.0, 0.5, 1.0, "2026-11-29")


def test_a_made_up_log_is_a_valid_dataset_written_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale, "PART", 700)
    write_dataset(tmp_path / "data", 2000)
    assert pq.ParquetFile(tmp_path / "data" / "events.parquet").metadata.num_row_groups == 3
    report = check(tmp_path / "data")
    assert report.ok and report.counts["events"] == 2000


def test_every_step_of_a_log_runs(tmp_path: Path) -> None:
    """In one process here; a step that needs the log finds the one that `log` kept."""
    write_dataset(dataset_folder(tmp_path, 2000), 2000)
    for step in scale.OF_EVENTS:
        assert measured(tmp_path, "events", 2000, step).peak_gib > 0
    for step in scale.OF_ITEMS:
        assert measured(tmp_path, "items", 200, step).size == 200


def test_a_step_that_was_measured_is_not_measured_again(tmp_path: Path) -> None:
    measure_once(tmp_path, "items", 50, "index")
    before = (tmp_path / "results.jsonl").read_text()
    measure_once(tmp_path, "items", 50, "index")
    assert (tmp_path / "results.jsonl").read_text() == before
    assert [one.step for one in kept(tmp_path)] == ["index"]


def test_a_slope_is_the_power_by_which_processor_time_grows() -> None:
    assert slope_of(ONE, replace(ONE, size=10_000, core_seconds=200.0)) == pytest.approx(2.0)
    assert scale.drawn([ONE, replace(ONE, size=10_000, core_seconds=200.0)]).startswith(b"\x89PNG")
