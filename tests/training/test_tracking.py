"""MLflow's store: made once, also when several start at the same time."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_two_first_runs_at_once_share_one_store(tmp_path: Path) -> None:
    """Neither meets the other's half-made tables."""
    code = "from training.tracking import start_run; print(start_run(None, {'a': 1}, {}))"
    both = [subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE) for _ in range(2)]
    runs = [process.communicate()[0].strip() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert len(set(runs)) == 2
