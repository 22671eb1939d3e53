"""The control chart: its mean number of texts between alarms, its limits."""

import numpy as np
import pytest

from serving.text.control import increments, limits_for, run_length


def simulated(limit: float, usual: float, share: float, charts: int = 400) -> float:
    """Return the mean number of texts until charts alarm, one text at a time."""
    rng, (up, down) = np.random.default_rng(0), increments(np.array(usual))
    level, lengths, going = np.zeros(charts), np.zeros(charts), np.ones(charts, bool)
    while going.any():
        level = np.maximum(0, level + np.where(rng.random(charts) < share, up, -down))
        lengths += going
        going &= level <= limit
    return float(lengths.mean())


@pytest.mark.parametrize(
    ("limit", "usual", "share"), [(3.0, 0.1, 0.1), (3.0, 0.3, 0.3), (4.0, 0.1, 0.4), (3.0, 0.02, 0.1)]
)
def test_the_chain_gives_the_run_length_of_simulated_charts(limit: float, usual: float, share: float) -> None:
    """Within the error of 400 of them."""
    assert run_length(limit, usual, share) == pytest.approx(simulated(limit, usual, share), rel=0.15)


def test_an_alarm_can_be_worked_out_by_hand() -> None:
    """Where two negative texts in a row cross the limit and nothing else can, the chain has three states."""
    up, down = (float(value) for value in increments(np.array(0.5)))
    limit = 1.5 * up
    share = 0.5
    # From 0: a negative text leads to `up`; from there another crosses, and any other leads to max(0, up - down) = 0 as down > up.
    assert down > up
    by_hand = (1 + 1 / share) / share
    assert run_length(limit, 0.5, share) == pytest.approx(by_hand, rel=0.02)


def test_a_negative_text_is_evidence_for_and_another_against() -> None:
    """Their mean falls while nothing changes, and rises in the worse opinion."""
    usual = np.array([0.05, 0.2, 0.5])
    up, down = increments(usual)
    assert (up > 0).all() and (down > 0).all()
    assert (usual * up - (1 - usual) * down < 0).all()
    worse = 4 * usual / (1 - usual + 4 * usual)
    assert (worse * up - (1 - worse) * down > 0).all()


def test_limits_rise_with_the_texts_between_alarms() -> None:
    """And the chain has that number at them."""
    usual = np.full(3, 0.1)
    texts = np.array([1e3, 1e4, 1e5])
    limits = limits_for(texts, usual)
    assert (np.diff(limits) > 0).all()
    assert [run_length(limit, 0.1) for limit in limits] == pytest.approx(texts.tolist(), rel=0.3)
