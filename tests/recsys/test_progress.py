"""Long stages say that they go on, and bars never run backwards."""

import time

import pytest

from recsys import progress


def test_without_a_terminal_a_long_stage_says_that_it_goes_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what is done, whether or not the body reports anything meanwhile; a quick one prints one line."""
    monkeypatch.setattr(progress, "SILENCE_S", 0.05)
    with progress.stage("fitting") as update:
        update(0.5, "epoch 1")
        update(0.25, "")
        time.sleep(0.3)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) > 2
    assert all(line.startswith("fitting: 50%, epoch 1, ") for line in lines[:-1])
    assert lines[-1] == "fitting: epoch 1, 0 s"
    monkeypatch.setattr(progress, "SILENCE_S", 60.0)
    with progress.stage("reading"):
        pass
    assert capsys.readouterr().err == "reading: 0 s\n"


def test_the_seconds_of_each_stage_are_collected() -> None:
    """Under its title, those of a stage that comes twice together, and none from outside."""
    with progress.stage("outside"):
        pass
    with progress.timed() as seconds:
        for _ in range(2):
            with progress.stage("reading"):
                time.sleep(0.02)
        with progress.timed() as inner, progress.stage("fitting"):
            pass
    assert seconds.keys() == {"reading", "fitting"} and inner.keys() == {"fitting"}
    assert seconds["reading"] >= 0.04
