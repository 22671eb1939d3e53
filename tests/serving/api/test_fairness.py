"""Threads take turns more often while something slow is done, and as usual afterwards."""

import sys

import pytest

from serving.api.fairness import SHORT_S, USUAL_S, taking_turns


def test_the_interval_is_short_until_the_last_body_ends() -> None:
    """Also when one of them fails."""
    with taking_turns():
        with pytest.raises(ValueError), taking_turns():
            raise ValueError
        assert sys.getswitchinterval() == pytest.approx(SHORT_S)
    assert sys.getswitchinterval() == pytest.approx(USUAL_S)
