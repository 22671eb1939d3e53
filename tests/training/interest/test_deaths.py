"""Processes of a fit that die: training goes on from the last checkpoint and comes to the same weights."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from ray._raylet import PlacementGroupID
from ray.cloudpickle import register_pickle_by_value
from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

from recsys.config import Config
from recsys.errors import RecsysError
from tests.training.interest.small import ITEMS, choose, config_of, data_of
from training.interest import ray_fit
from training.interest.ray_fit import PROGRESS, InterestFit
from training.interest.trainer import (
    STATE,
    InterestTrainer,
    load_text_vectors,
    load_trained,
    ndcg_by_request,
    valid_scores,
)

EPOCHS = 3
WAIT_S = 120.0
DRIVER = """
import sys
from pathlib import Path
from recsys.config import Config
from tests.training.interest.small import choose

if __name__ == "__main__":
    choose(Config.model_validate_json(sys.argv[1]), Path(sys.argv[2]))
"""


def long_config(folder: str) -> Config:
    """Return the configuration of a fit of `EPOCHS` by two workers, with steps enough to be met in the middle of an epoch."""
    return config_of(folder, workers=2, epochs=EPOCHS, patience=EPOCHS, batch_users=1, dropout=0.2, id_dropout=0.3)


@pytest.fixture(scope="module")
def undisturbed(folder: str, tmp_path_factory: pytest.TempPathFactory) -> InterestFit:
    """Return the fit that nothing disturbs."""
    return choose(long_config(folder), tmp_path_factory.mktemp("undisturbed"))


def of_epochs(fit: InterestFit) -> list[dict[str, float]]:
    """Return what the epochs learned, without how fast."""
    return [{name: value for name, value in epoch.items() if name != "sequences_per_s"} for epoch in fit.history]


def weights_of(fit: InterestFit) -> dict[str, torch.Tensor]:
    state: dict[str, Any] = torch.load(Path(fit.checkpoint) / STATE, weights_only=True)
    model: dict[str, torch.Tensor] = state["model"]
    return model


def wait_for_second_epoch(folder: Path) -> None:
    """Wait until one epoch is done and the next one has begun."""
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end:
        if (folder / PROGRESS).exists() and json.loads((folder / PROGRESS).read_text(encoding="utf-8"))["history"]:
            return
        time.sleep(0.01)
    raise TimeoutError(folder)


@contextmanager
def disturbed(folder: Path, disturb: Callable[[], None]) -> Iterator[None]:
    """Call `disturb` in the second epoch of a fit that the body runs."""

    def wait() -> None:
        wait_for_second_epoch(folder)
        disturb()

    thread = threading.Thread(target=wait)
    thread.start()
    yield
    thread.join()


def kill_a_worker() -> None:
    children = psutil.Process().children(recursive=True)
    workers = [child for child in children if "RayTrainWorker" in " ".join(child.cmdline())]
    workers[0].kill()


def remove_the_placement_group() -> None:
    for hexed, group in placement_group_table().items():
        if group["state"] == "CREATED":
            remove_placement_group(PlacementGroup(PlacementGroupID.from_hex(hexed)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("disturb", "reason"),
    [(kill_a_worker, "killed or crashed"), (remove_the_placement_group, "its placement group was removed")],
)
def test_a_fit_whose_worker_dies_goes_on_by_itself_to_the_same_weights(
    folder: str,
    tmp_path: Path,
    undisturbed: InterestFit,
    capsys: pytest.CaptureFixture[str],
    disturb: Callable[[], None],
    reason: str,
) -> None:
    """From the last checkpoint, with its peer, which fails as well, and one line says so; what chance decides depends on the epoch."""
    with disturbed(tmp_path, disturb):
        fit = choose(long_config(folder), tmp_path)
    lines = [line for line in capsys.readouterr().err.splitlines() if "died" in line]
    assert len(lines) == 1 and reason in lines[0]
    assert lines[0].startswith("a worker of the training died (")
    assert lines[0].endswith(("goes on from epoch 1", "goes on from epoch 2"))  # a checkpoint counts a moment later
    assert of_epochs(fit) == of_epochs(undisturbed) and len(fit.history) == EPOCHS
    torch.testing.assert_close(weights_of(fit), weights_of(undisturbed), rtol=0, atol=0)


@pytest.mark.slow
def test_a_fit_in_shares_whose_worker_dies_goes_on_to_a_checkpoint_that_one_process_reads(
    folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each worker takes its rows of the ID residuals again."""
    config = long_config(folder)
    config = config.model_copy(update={"compute": config.compute.model_copy(update={"id_table_gib": 8e-6})})
    with disturbed(tmp_path, kill_a_worker):
        fit = choose(config, tmp_path)
    assert capsys.readouterr().err.count("died") == 1 and len(fit.history) == EPOCHS
    state: dict[str, Any] = torch.load(Path(fit.checkpoint) / STATE, weights_only=True)
    assert state["rows"]["momentum"].shape == (ITEMS,)
    data = data_of(config)
    model = load_trained(Path(fit.checkpoint), config, torch.from_numpy(data.frequencies() > 0))
    scores = valid_scores(model, torch.from_numpy(load_text_vectors(Path(fit.checkpoint))), data)
    assert ndcg_by_request(scores, data).mean() == pytest.approx(fit.metric, abs=1e-6)


@pytest.mark.slow
def test_a_fit_whose_driver_is_killed_goes_on_when_it_is_called_again(
    folder: str, tmp_path: Path, undisturbed: InterestFit
) -> None:
    """As `--resume` does: to the weights of a fit that nothing disturbs."""
    config = long_config(folder)
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, config.model_dump_json(), str(tmp_path)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.DEVNULL,
    )
    wait_for_second_epoch(tmp_path)
    started = psutil.Process(driver.pid).children(recursive=True)
    driver.kill()
    driver.wait()
    psutil.wait_procs(started, timeout=WAIT_S)  # they notice that it is gone, one after the other
    fit = choose(config, tmp_path)
    assert of_epochs(fit) == of_epochs(undisturbed)
    torch.testing.assert_close(weights_of(fit), weights_of(undisturbed), rtol=0, atol=0)


def fail(settings: dict[str, ray_fit._Job]) -> None:
    """Stand for a loop with an error of its own."""
    with (settings["job"].folder / "calls").open("a") as calls:
        calls.write("called\n")
    raise RecsysError("the loss is no number")


def die(settings: dict[str, ray_fit._Job]) -> None:
    """Stand for a loop that is killed at the same point each time."""
    with (settings["job"].folder / "calls").open("a") as calls:
        calls.write("called\n")
    os.kill(os.getpid(), 9)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loop", "calls", "message"),
    [
        (fail, 1, r"^training failed in a worker: the loss is no number \(log: "),
        (die, 2, "^training failed in a worker: killed or crashed, perhaps for want of memory "),
    ],
)
def test_what_would_come_again_is_not_repeated_without_end(
    folder: str, tmp_path: Path, loop: Callable[[dict[str, ray_fit._Job]], None], calls: int, message: str
) -> None:
    """An error of our own ends the fit at once; deaths at the same point do after `compute.retries` more of them."""
    register_pickle_by_value(sys.modules[__name__])  # workers need not find the tests
    config = config_of(folder)
    config = config.model_copy(update={"compute": config.compute.model_copy(update={"retries": 1})})
    with pytest.raises(RecsysError, match=message):
        ray_fit._run(loop, ray_fit._Job(tmp_path, config, seed=3, epochs=1), keep="epoch")
    assert (tmp_path / "calls").read_text().count("called") == calls


def test_a_loss_that_is_no_number_ends_the_epoch_with_what_to_do(folder: str) -> None:
    """Weights that are no numbers would be saved as the last checkpoint."""
    config = config_of(folder, learning_rate=1e30)
    trainer = InterestTrainer(data_of(config), config, device=torch.device("cpu"), seed=3)
    with pytest.raises(RecsysError, match=r"^the loss of epoch \d is (nan|inf); lower interest.learning_rate$"):
        for epoch in range(3):
            trainer.fit_epoch(epoch)
