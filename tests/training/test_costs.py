"""What a training is said to take before it, and after it."""

from dataclasses import replace

import pytest

from recsys.config import Config
from training.costs import Sizes, duration, estimate, metrics_of, summary
from training.machine import machine
from training.run_info import RunInfo

SIZES = Sizes(10_000, 1_000)
RUN = RunInfo.of(
    ("a" * 32, "one", 0, "FINISHED"),
    {
        f"{part}.{key}": str(value)
        for part, body in Config().model_dump(mode="json").items()
        for key, value in body.items()
    },
    machine(),
    {"seconds/all_stages": 840.0, "size/events": 10_000.0, "size/items": 1_000.0},
    (),
    {},
)


def test_an_earlier_run_on_as_much_data_is_the_estimate() -> None:
    assert estimate(SIZES, Config(), False, [RUN]).startswith("some 14 minutes, as run aaaaaaaa took on this machine")


def test_more_data_take_at_most_so_much_longer_and_less_data_at_most_as_long() -> None:
    """The run nearest in size counts; whichever of events and items grew more decides."""
    small = replace(RUN, metrics={"seconds/all_stages": 60.0, "size/events": 10.0, "size/items": 10.0})
    assert estimate(Sizes(30_000, 1_000), Config(), False, [small, RUN]).startswith(
        "up to some 42 minutes: run aaaaaaaa"
    )
    assert estimate(Sizes(5_000, 500), Config(), False, [RUN]).startswith("between 7 minutes and 14 minutes: run")
    assert "a rough guess" in estimate(Sizes(1_000_000, 1_000), Config(), False, [RUN])


@pytest.mark.parametrize(
    "run",
    [
        replace(RUN, status="failed"),
        replace(RUN, machine={**RUN.machine, "machine.cores": "4096"}),
        replace(RUN, metrics={"seconds/all_stages": 840.0}),
        replace(RUN, updated_from=("models:/recsys/1",)),
        replace(RUN, parameters={**RUN.parameters, "interest.epochs": "1"}),
    ],
)
def test_a_run_that_tells_nothing_is_no_estimate(run: RunInfo) -> None:
    """Unfinished, of another machine, without sizes, an update, or with other settings."""
    assert estimate(SIZES, Config(), False, [run]).startswith("how long it takes is not known")


def test_a_key_that_an_earlier_release_had_not_does_not_part_runs() -> None:
    older = {name: value for name, value in RUN.parameters.items() if name != "interest.max_sequences"}
    assert estimate(SIZES, Config(), False, [replace(RUN, parameters=older)]).startswith("some 14 minutes")


def test_what_it_took_names_the_longest_stages_and_the_memory() -> None:
    seconds = {"reading": 1.0, "choosing": 300.0, "fitting": 200.0, "encoding": 30.0, "drawing": 2.0}
    line = summary(seconds, SIZES)
    assert line.startswith("took 9 minutes with 10,000 events on 1,000 items: choosing 5 minutes, fitting 3 minutes")
    assert "reading" not in line and "GiB in this process" in line
    metrics = metrics_of(seconds, SIZES)
    assert metrics["seconds/all_stages"] == 533.0 and metrics["size/items"] == 1_000 and metrics["memory/peak_gib"] > 0


def test_times_are_in_the_unit_that_people_count_in() -> None:
    assert [duration(seconds) for seconds in (4.4, 89, 840, 5 * 3600)] == ["4 s", "89 s", "14 minutes", "5.0 hours"]
