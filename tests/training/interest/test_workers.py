"""Two workers without Ray: the gradients of a step are those of one worker with the same sequences."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, distributed
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from recsys.config import Config
from recsys.models import encoder
from tests.training.interest.test_interest import ITEMS, config_of, data_of, encoded_texts
from training.interest.data import InterestData
from training.interest.trainer import InterestTrainer

SEED, STEPS = 3, 3


def data_with_impressions(config: Config) -> InterestData:
    """Return sequences of different lengths with purchases here and there, a third of whose events come with impressions."""
    data, rng = data_of(config), np.random.default_rng(0)
    requests = np.where(
        (data.items >= 0) & (rng.random(data.items.shape) < 1 / 3), rng.integers(8, size=data.items.shape), -1
    )
    return replace(data, request_index=requests, impressions=rng.integers(-1, ITEMS, (8, 3)).astype(np.int32))


def gradients(config: Config, rank: int = 0, world_size: int = 1) -> list[dict[str, Tensor]]:
    """Return the gradients of a few steps by worker `rank`, by parameter; all parameters are random at first."""
    trainer = InterestTrainer(
        data_with_impressions(config),
        config,
        device=torch.device("cpu"),
        seed=SEED,
        rank=rank,
        world_size=world_size,
        wrap=(lambda module: DistributedDataParallel(module, broadcast_buffers=False))
        if world_size > 1
        else (lambda module: module),
    )
    trainer.start_tuning()
    with torch.no_grad():
        for name, parameter in trainer.model.named_parameters():
            if not name.startswith("encoder") and parameter.ndim:
                parameter.add_(0.1 * torch.randn_like(parameter))
    seen = []
    for batch, _ in zip(
        trainer.data.batches(SEED, config.interest.batch_users, rank, world_size), range(STEPS), strict=False
    ):
        trainer.model.zero_grad()
        trainer.step_module(batch).backward()
        seen.append({name: p.grad.to_dense() for name, p in trainer.model.named_parameters() if p.grad is not None})
    return seen


def work(rank: int, config: Config, folder: Path) -> None:
    """Be one of two workers."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    torch.save(gradients(config, rank, 2), folder / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_the_gradients_of_two_workers_are_those_of_one_with_the_same_sequences(folder: str, tmp_path: Path) -> None:
    """Of encoder, tower and ID table, though the workers' shares differ in events, purchases and impressions.

    Chance decides nothing here: no dropout, all items are negatives, and enough are encoded that none is left out.
    """
    config = config_of(folder, batch_users=5, encoded_per_step=2000)
    alone = gradients(config)
    spawn(work, (config, tmp_path), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert {name.partition(".")[0] for name in alone[0]} >= {"encoder", "user_tower", "id_table"}
    for step in range(STEPS):
        assert any(gradient.abs().max() > 1e-3 for name, gradient in alone[step].items() if name.startswith("encoder"))
        torch.testing.assert_close(first[step], second[step], rtol=0, atol=0)
        torch.testing.assert_close(first[step], alone[step], rtol=1e-3, atol=1e-5)


def encode(rank: int, config: Config, folder: Path) -> None:
    """Be one of two workers that encode the catalogue, in batches of a few texts."""
    torch.set_num_threads(1)
    encoder.TOKENS_PER_BATCH = 64
    distributed.init_process_group("gloo", f"file://{folder / 'encoding'}", rank=rank, world_size=2)
    trainer = InterestTrainer(data_of(config), config, device=torch.device("cpu"), seed=SEED)
    trainer.start_tuning()
    with encoded_texts(trainer.model) as counts:
        trainer.objective.refresh()
    torch.save({"vectors": trainer.objective.cache, "encoded": torch.tensor(sum(counts))}, folder / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_workers_share_the_encoding_of_the_catalogue_and_both_have_all_of_it(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the last bit as one worker encodes it."""
    config = config_of(folder)
    spawn(encode, (config, tmp_path), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    monkeypatch.setattr(encoder, "TOKENS_PER_BATCH", 64)
    alone = InterestTrainer(data_of(config), config, device=torch.device("cpu"), seed=SEED)
    alone.start_tuning()
    alone.objective.refresh()
    for worker in (first, second):
        torch.testing.assert_close(worker["vectors"], alone.objective.cache, rtol=0, atol=0)
        assert 0 < worker["encoded"] < ITEMS
    assert first["encoded"] + second["encoded"] == ITEMS
