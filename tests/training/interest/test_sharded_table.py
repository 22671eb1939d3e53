"""Two workers without Ray, each with a share of the ID residuals: they learn what one learns, and leave a whole table behind."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, distributed, nn
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from recsys.config import Config
from recsys.errors import RecsysError
from tests.training.interest.small import ITEMS, config_of
from tests.training.interest.test_workers import data_with_impressions
from training.interest import trainer as trainer_module
from training.interest.row_adam import RowAdam, clip_gradients
from training.interest.sharded_table import EPSILON, MOMENTUM, RATE, WEIGHT, ShardedIdTable
from training.interest.trainer import STATE, InterestTrainer, load_text_vectors, load_trained, valid_scores

CPU = torch.device("cpu")
SEED, EPOCHS = 3, 2
TABLE = f"id_table.{WEIGHT}"
START, FIRST, LAST, RESUMED = "start", "first", "last", "resumed"
parallel = partial(DistributedDataParallel, broadcast_buffers=False)


def config_with_shares(folder: str, gib: float = 8e-6) -> Config:
    """Return a configuration by which the table, of some 20 kB with all that Adam needs, is in shares."""
    config = config_of(folder, trainable=1, workers=2, batch_users=6, encoded_per_step=2000, encoder_learning_rate=3e-3)
    return config.model_copy(update={"compute": config.compute.model_copy(update={"id_table_gib": gib})})


def worker_of(config: Config, rank: int, world_size: int, seed: int = SEED) -> InterestTrainer:
    wrap: Callable[[nn.Module], nn.Module] = parallel if world_size > 1 else (lambda module: module)
    data = data_with_impressions(config)
    return InterestTrainer(data, config, device=CPU, seed=seed, rank=rank, world_size=world_size, wrap=wrap)


def save(trainer: InterestTrainer, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    trainer.save(folder)


def fit(trainer: InterestTrainer, folder: Path) -> list[float]:
    """Train two epochs, the second of which tunes the encoder; return the metric of each."""
    trainer.fit_epoch(0)
    save(trainer, folder / FIRST)
    metrics = [trainer.evaluate()]
    trainer.start_tuning()
    trainer.fit_epoch(1)
    save(trainer, folder / LAST)
    return [*metrics, trainer.evaluate()]


def work(rank: int, config: Config, folder: Path) -> None:
    """Be one of two workers: train, and train again from the first checkpoint on."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    trainer = worker_of(config, rank, 2)
    assert isinstance(trainer.rows, ShardedIdTable)
    rows = [tuple(p.shape) for p in trainer.rows.parameters()]
    save(trainer, folder / START)
    said = {"rows": rows, "metrics": fit(trainer, folder)}
    resumed = worker_of(config, rank, 2, seed=99)
    resumed.seed = SEED
    resumed.restore(folder / FIRST)
    resumed.start_tuning()
    resumed.fit_epoch(1)
    save(resumed, folder / RESUMED)
    torch.save(said, folder / f"{rank}.pt")
    distributed.destroy_process_group()


@dataclass(frozen=True)
class Fitted:
    """What two workers with shares left behind."""

    config: Config
    folder: Path
    said: list[dict[str, Any]]

    def state(self, checkpoint: str) -> dict[str, Any]:
        state: dict[str, Any] = torch.load(self.folder / checkpoint / STATE, weights_only=True)
        return state


@pytest.fixture(scope="module")
def fitted(folder: str, tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    config, results = config_with_shares(folder), tmp_path_factory.mktemp("fitted")
    spawn(work, (config, results), nprocs=2)
    return Fitted(config, results, [torch.load(results / f"{rank}.pt", weights_only=True) for rank in range(2)])


def plain_adagrad(trainer: InterestTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the table of one worker learn by the formula of row-wise Adagrad, before the other gradients are clipped."""
    assert trainer.model.id_table is not None
    weight = trainer.model.id_table.get_parameter(WEIGHT)
    squares = torch.zeros(len(weight))

    def clip(parameters: Iterable[nn.Parameter], most: float) -> Tensor:
        assert weight.grad is not None
        gradient = weight.grad.to_dense()
        rate = RATE * trainer.config.interest.learning_rate * trainer._rate(trainer.schedule.last_epoch)
        squares.add_(gradient.square().mean(1))
        weight.data -= rate * gradient / (squares.sqrt() + EPSILON).unsqueeze(1)
        weight.grad = None
        return clip_gradients(parameters, most)

    monkeypatch.setattr(trainer_module, "clip_gradients", clip)


@pytest.mark.slow
def test_two_workers_with_shares_learn_what_one_learns_by_the_plain_formula(
    fitted: Fitted, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the same batches, frozen and tuned; nothing is left to chance."""
    alone = worker_of(config_with_shares(folder), 0, 1)
    alone.model.load_state_dict(fitted.state(START)["model"], strict=False)
    plain_adagrad(alone, monkeypatch)
    metrics = fit(alone, tmp_path)
    for checkpoint in (FIRST, LAST):
        expected = torch.load(tmp_path / checkpoint / STATE, weights_only=True)["model"]
        torch.testing.assert_close(fitted.state(checkpoint)["model"], expected, rtol=0, atol=2e-3)
        assert expected[TABLE].abs().max() > 1e-2
    assert fitted.said[0]["metrics"] == fitted.said[1]["metrics"] == pytest.approx(metrics, abs=1e-3)


@pytest.mark.slow
def test_each_worker_holds_its_rows_and_the_checkpoint_all(fitted: Fitted) -> None:
    """And one number a row of what the optimiser keeps."""
    width = fitted.state(FIRST)["model"][TABLE].shape[1]
    assert [said["rows"] for said in fitted.said] == [[(ITEMS // 2, width)]] * 2
    assert fitted.state(FIRST)["model"][TABLE].shape == (ITEMS, width)
    assert fitted.state(FIRST)["rows"][MOMENTUM].shape == (ITEMS,)
    assert (fitted.state(FIRST)["rows"][MOMENTUM] > 0).all()


@pytest.mark.slow
def test_one_process_loads_the_model_of_two_workers(fitted: Fitted) -> None:
    """And ranks as they did."""
    data = data_with_impressions(fitted.config)
    model = load_trained(fitted.folder / LAST, fitted.config, torch.from_numpy(data.frequencies() > 0))
    scores = valid_scores(model, torch.from_numpy(load_text_vectors(fitted.folder / LAST)), data)
    gains = trainer_module.ndcg_by_request(scores, data)
    assert gains.mean() == pytest.approx(fitted.said[0]["metrics"][1], abs=1e-6)


@pytest.mark.slow
def test_workers_that_go_on_from_a_checkpoint_end_where_those_end_that_were_not_stopped(fitted: Fitted) -> None:
    """Each takes its rows of the table, and of what the optimiser keeps."""
    last, resumed = fitted.state(LAST), fitted.state(RESUMED)
    torch.testing.assert_close(resumed["model"], last["model"], rtol=0, atol=0)
    torch.testing.assert_close(resumed["rows"], last["rows"], rtol=0, atol=0)


def test_one_worker_has_the_whole_table_however_large(folder: str) -> None:
    """It learns as ever, by Adam."""
    trainer = worker_of(config_with_shares(folder), 0, 1)
    assert isinstance(trainer.rows, RowAdam)
    assert len(trainer.rows.weight) == ITEMS and TABLE in dict(trainer.model.named_parameters())


def test_a_share_that_is_larger_than_allowed_is_refused_with_what_to_do(tmp_path: Path) -> None:
    """By the planner, before anything is trained."""
    distributed.init_process_group("gloo", f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    try:
        ShardedIdTable(torch.ones(ITEMS, dtype=torch.bool), 32, 5 * ITEMS * 32, learning_rate=1e-3)
        with pytest.raises(
            RecsysError, match=r"^compute.id_table_gib: .* too few .* each of 1 workers .*id_residual=false$"
        ):
            ShardedIdTable(torch.ones(ITEMS, dtype=torch.bool), 32, 3 * ITEMS * 32, learning_rate=1e-3)
    finally:
        distributed.destroy_process_group()


def test_vectors_of_a_catalogue_are_the_same_in_blocks(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Items and requests are scored in pieces where there are many."""
    config = config_of(folder)
    trainer = InterestTrainer(data_with_impressions(config), config, device=CPU, seed=SEED)
    whole = list(trainer.valid_scores())
    monkeypatch.setattr(trainer_module, "ITEM_BLOCK", 7)
    monkeypatch.setattr(trainer_module, "VALID_SCORES", 5 * ITEMS)
    pieces = list(trainer.valid_scores())
    assert len(whole) == 1 and {len(piece) for piece in pieces[:-1]} == {5}
    np.testing.assert_allclose(np.concatenate(pieces), whole[0], atol=1e-6)
