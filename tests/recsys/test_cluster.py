"""What can be said of a cluster without one; most of what travels between machines is in the tests of fits and batch lists."""

import os
from pathlib import Path

import pytest
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem
from ray.train import Checkpoint

from recsys.cluster import cores_each, opened
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


def test_a_worker_that_comes_late_leaves_alone_the_checkpoint_that_another_reads(tmp_path: Path) -> None:
    """Both are on one machine, and the checkpoint is in storage."""
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "weights.pt").write_bytes(b"weights")
    checkpoint = Checkpoint("checkpoint", SubTreeFileSystem(str(tmp_path), LocalFileSystem()))
    with opened(checkpoint) as early:
        os.utime(early / "weights.pt", (0, 0))
        with opened(checkpoint) as late:
            assert (late / "weights.pt").read_bytes() == b"weights"
        assert (early / "weights.pt").stat().st_mtime == 0
    assert not early.exists()
    assert not late.exists()
