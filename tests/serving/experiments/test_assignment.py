"""Who gets what: arms stay, have their shares, and lists of two arms are fair to both."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from serving.experiments.assignment import arm_of, team_draft
from serving.experiments.definition import Experiment

IDS = st.lists(st.integers(0, 30).map(str), unique=True, max_size=15)


def experiment(name: str = "e", **shares: float) -> Experiment:
    """Return an experiment of arms with `shares`, each with a model of its own."""
    arms = {arm: {"share": share, "model": arm} for arm, share in shares.items()}
    return Experiment.model_validate({"name": name, "arms": arms})


def test_an_arm_gets_its_share_of_users_and_the_rest_is_in_none() -> None:
    counts = Counter(arm_of(experiment(a=0.2, b=0.5), f"user {number}") for number in range(20_000))
    for arm, share in (("a", 0.2), ("b", 0.5), (None, 0.3)):
        assert abs(counts[arm] / 20_000 - share) < 0.015


def test_the_arms_of_two_experiments_have_nothing_to_do_with_each_other() -> None:
    pairs = Counter(
        (arm_of(experiment("one", a=0.5, b=0.5), str(user)), arm_of(experiment("two", a=0.5, b=0.5), str(user)))
        for user in range(8_000)
    )
    assert all(abs(count / 8_000 - 0.25) < 0.02 for count in pairs.values()) and len(pairs) == 4


def test_a_user_keeps_the_arm_in_every_process() -> None:
    """The hash is not Python's, which differs between processes."""
    assert [arm_of(experiment(a=0.5, b=0.5), user) for user in ("u1", "u2", "u3", "u4", "u5")] == [
        "b",
        "b",
        "b",
        "a",
        "a",
    ]


@given(IDS, IDS, st.integers(1, 12), st.integers(0, 99))
def test_a_draft_has_no_item_twice_and_each_team_its_own_best(
    one: list[str], two: list[str], k: int, seed: int
) -> None:
    drafted = team_draft(one, two, k, np.random.default_rng(seed))
    items = [item for item, _ in drafted]
    assert len(set(items)) == len(items) == min(k, len({*one, *two}))
    for team, own in enumerate((one, two)):
        picked = [item for item, of in drafted if of == team]
        assert picked == [item for item in own if item in picked]
        taken: set[str] = set()
        for item, of in drafted:
            if of == team:
                assert item == next(each for each in own if each not in taken)
            taken.add(item)


@given(IDS, IDS, st.integers(0, 99))
def test_of_two_long_lists_each_has_half_of_the_positions(one: list[str], two: list[str], seed: int) -> None:
    k = 2 * (min(len(one), len(two)) // 2)
    teams = Counter(team for _, team in team_draft(one, two, k, np.random.default_rng(seed)))
    assert k == 0 or teams[0] == teams[1] == k // 2 or len({*one, *two}) < k


def test_two_equal_lists_win_as_often() -> None:
    rng, same = np.random.default_rng(0), [str(number) for number in range(10)]
    first = Counter(team_draft(same, same, 10, rng)[0][1] for _ in range(2_000))
    assert abs(first[0] / 2_000 - 0.5) < 0.04
