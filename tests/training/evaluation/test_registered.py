"""A model is measured on nothing that it may have been fitted on, whatever the data are called."""

import json
from pathlib import Path

import pytest

from recsys.errors import RecsysError
from tests.worlds import DAY, START, write_dataset
from training.evaluation.registered import evaluate_model

FITTED_DAYS = 24
"""The tiny model was fitted on events of this many days."""


def shop(folder: Path, first_day: int, days: int, info: str = '{"name": "other"}') -> Path:
    """Write events of twelve users, one each on every day, on the items of the tiny model."""
    items = "item_id,title\n" + "".join(f"i{row},title {row}\n" for row in range(40))
    rows = "".join(
        f"u{user},i{(7 * user + day) % 40},click,{START + (first_day + day) * DAY}\n"
        for user in range(12)
        for day in range(days)
    )
    events = "user_id,item_id,event_type,timestamp\n" + rows
    return write_dataset(folder, **{"items.csv": items, "events.csv": events, "dataset.json": info})


def test_requests_before_the_end_of_the_fit_are_left_out_and_reported(tiny: Path, tmp_path: Path) -> None:
    """The others are measured; the JSON report has the number of those that are not."""
    folder = shop(tmp_path / "shop", first_day=0, days=30)  # test is the last fifth, of which day 24 was fitted
    report = evaluate_model(folder, str(tiny), "test", slow_baselines=False)
    ((reason, count),) = report.left_out.items()
    assert "may have been fitted" in reason
    assert (report.n, count) == (12 * 5, 12)
    report.write(tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text())["left_out"] == report.left_out


@pytest.mark.parametrize("info", ['{"name": "other"}', '{"name": "other", "split": "leave-last"}'])
def test_a_dataset_of_fitted_events_alone_is_refused(info: str, tiny: Path, tmp_path: Path) -> None:
    """Another split of the same events does not make them new."""
    folder = shop(tmp_path / "shop", first_day=0, days=20, info=info)
    with pytest.raises(RecsysError, match="requests of test lie before 2023-12"):
        evaluate_model(folder, str(tiny), "test", slow_baselines=False)


def test_later_events_are_all_measured(tiny: Path, tmp_path: Path) -> None:
    """Nothing is left out."""
    folder = shop(tmp_path / "shop", first_day=FITTED_DAYS + 1, days=10)
    report = evaluate_model(folder, str(tiny), "test", slow_baselines=False)
    assert (report.n, report.left_out) == (24, {})
