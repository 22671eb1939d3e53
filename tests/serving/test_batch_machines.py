"""Lists that two machines make which share no folder: bundle and histories reach both, and the lists come back."""

import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from tests.machines import two_machines
from tests.worlds import tiny_bundle

DRIVER = """
import sys
from pathlib import Path

import polars as pl

import serving.batch
from serving.batch import write_lists
from serving.list_maker import Job
from serving.lists import FileOptions
from tests.serving.test_batch import EVENTS, USERS
from tests.worlds import log_of

if __name__ == "__main__":
    serving.batch.PART_USERS, bundle, log = 3, Path(sys.argv[1]), log_of(EVENTS, 40)
    job = Job.of("tiny", bundle, "-", 7, USERS, log)
    catalogue = pl.read_parquet(bundle / "items.parquet")
    write_lists(job, catalogue, log, USERS, Path(sys.argv[2]), False, lambda share, note: None, FileOptions())
"""


@pytest.mark.slow
def test_two_machines_that_share_no_folder_make_the_lists_that_one_makes(tmp_path: Path) -> None:
    """Each list exactly."""
    driver = tmp_path / "driver"
    driver.mkdir()
    bundle = tiny_bundle(driver)
    with two_machines(driver, {}) as env:
        alone = {name: value for name, value in env.items() if name != "RAY_ADDRESS"}
        for out, environment in (("alone", alone), ("both", env)):
            command = [sys.executable, "-c", DRIVER, str(bundle), str(driver / out)]
            subprocess.run(command, env=environment, cwd=driver, check=True)
    lists = [pl.read_parquet(driver / out / "*.parquet").sort("user_id", "rank") for out in ("alone", "both")]
    assert lists[0].height == 13 * 7
    assert lists[1].equals(lists[0])
