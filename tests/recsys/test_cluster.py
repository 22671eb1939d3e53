"""What can be said of a cluster without one; files that travel between machines are in the tests of fits and batch lists."""

import pytest

from recsys.cluster import cores_each
from recsys.errors import RecsysError


@pytest.mark.parametrize(
    ("workers", "machines", "cores"),
    [(1, [2], 2), (2, [2], 1), (3, [8], 2), (2, [8, 8], 8), (3, [8, 4], 4), (2, [0, 7, 1], 3)],
)
def test_workers_have_as_many_cores_each_as_all_can_have_alike(workers: int, machines: list[int], cores: int) -> None:
    """None is spread over two machines."""
    assert cores_each(workers, machines) == cores


def test_more_workers_than_cores_are_refused() -> None:
    """They would wait for ever."""
    with pytest.raises(RecsysError, match=r"^compute.workers=4: each needs a core, and there are 3; set fewer$"):
        cores_each(4, [2, 1])
