"""Run the interest model's training under Ray Train: the door to ray in this package.

In: `InterestData`, the configuration and a stage folder. Out: `InterestFit`, with the checkpoint of
the best (or last) epoch. A stage that was killed goes on from its last checkpoint; one that had
ended returns what it found.

Shapes: none; arrays travel through `data.npz` in the stage folder.
"""

import json
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from recsys.atomic import atomic_file
from recsys.cluster import start_ray
from recsys.config import Config
from recsys.errors import RecsysError
from recsys.progress import Update
from training.interest.data import InterestData
from training.interest.trainer import InterestTrainer

PROGRESS = "progress.json"
RESULT = "result.json"


@dataclass(frozen=True)
class InterestFit:
    """How a fit went."""

    epochs: int
    """Passes that gave the kept weights."""
    metric: float | None
    """Validation ndcg@10 of the interest model alone; None where valid was not looked at."""
    history: list[dict[str, float]]
    """Per epoch: loss and, where valid was looked at, ndcg@10."""
    checkpoint: str
    """Folder of the kept weights."""


def fit_interest(
    data: InterestData, config: Config, seed: int, folder: Path, update: Update, chosen: InterestFit | None = None
) -> InterestFit:
    """Fit on `data` in the stage `folder`.

    Without `chosen` the best epoch on validation is kept and `patience` ends the fit. With it, as
    many epochs are run as it found best, with its text encoder as it is, and the last is kept,
    without a look at valid, which may be among what is fitted.
    """
    result = folder / RESULT
    if result.exists():
        return InterestFit(**json.loads(result.read_text(encoding="utf-8")))
    folder.mkdir(parents=True, exist_ok=True)
    data.save(folder / "data.npz")
    settings = {
        "folder": str(folder.resolve()),
        "config": config.model_dump_json(),
        "seed": seed,
        "epochs": chosen.epochs if chosen else None,
        "encoder_from": chosen.checkpoint if chosen else None,
    }
    with _watching(folder / PROGRESS, update):
        fit = _run(settings, config, folder)
    with atomic_file(result) as temporary:
        temporary.write_text(json.dumps(asdict(fit)), encoding="utf-8")
    return fit


def _run(settings: dict[str, Any], config: Config, folder: Path) -> InterestFit:
    start_ray()
    from ray.train import CheckpointConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    gpu = use_gpu(config)
    workers = config.compute.workers
    cpus = max(1, (os.cpu_count() or 1) // workers)
    trainer = TorchTrainer(
        worker_loop,
        train_loop_config=settings | {"threads": cpus},
        scaling_config=ScalingConfig(
            num_workers=workers, use_gpu=gpu, resources_per_worker={"CPU": cpus} | ({"GPU": 1} if gpu else {})
        ),
        run_config=RunConfig(
            name="ray",
            storage_path=str(folder.resolve()),
            checkpoint_config=CheckpointConfig(
                num_to_keep=2, checkpoint_score_attribute="ndcg@10" if settings["epochs"] is None else "epoch"
            ),
        ),
    )
    try:
        outcome = trainer.fit()
    except Exception as error:
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else repr(error)
        raise RecsysError(f"training failed in a worker: {reason} (log: {folder / 'ray'})") from error
    best = max(outcome.best_checkpoints, key=lambda pair: pair[1]["score"])
    metrics = best[1]
    return InterestFit(int(metrics["epoch"]), metrics.get("ndcg@10"), metrics["history"], best[0].path)


def worker_loop(settings: dict[str, Any]) -> None:
    """Train in one Ray worker: restore, fit epochs, report each with a checkpoint."""
    import ray.train
    from ray.train.torch import get_device, prepare_model

    torch.set_num_threads(settings["threads"])
    config = Config.model_validate_json(settings["config"])
    folder, context = Path(settings["folder"]), ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    trainer = InterestTrainer(
        InterestData.load(folder / "data.npz"),
        config,
        get_device(),
        settings["seed"],
        rank,
        world_size,
        wrap=(lambda module: prepare_model(module, parallel_strategy_kwargs={"broadcast_buffers": False}))
        if world_size > 1
        else (lambda module: module),
        encoder_from=Path(settings["encoder_from"]) if settings["encoder_from"] else None,
    )
    history, checkpoint = [], ray.train.get_checkpoint()
    if checkpoint:
        with checkpoint.as_directory() as saved:
            trainer.restore(Path(saved))
            history = json.loads((Path(saved) / "history.json").read_text(encoding="utf-8"))
    fixed, total = settings["epochs"] is not None, settings["epochs"] or config.interest.epochs
    for epoch in range(len(history), total):
        if not fixed and _stalled(history, config.interest.patience):
            break
        loss = trainer.fit_epoch(epoch, _writer(folder / PROGRESS, epoch, total, history, rank))
        history.append({"epoch": epoch + 1, "loss": loss} | ({} if fixed else {"ndcg@10": trainer.evaluate()}))
        with tempfile.TemporaryDirectory() as saved:
            if rank == 0:
                trainer.save(Path(saved))
                (Path(saved) / "history.json").write_text(json.dumps(history), encoding="utf-8")
            score = history[-1]["epoch" if fixed else "ndcg@10"]
            ray.train.report(
                history[-1] | {"score": score, "history": list(history)},
                checkpoint=ray.train.Checkpoint.from_directory(saved) if rank == 0 else None,
            )


def use_gpu(config: Config) -> bool:
    """Whether training runs on GPUs.

    Raises:
        RecsysError: a GPU is asked for and there is none.
    """
    if config.compute.device == "gpu" and not torch.cuda.is_available():
        raise RecsysError("compute.device is gpu but PyTorch sees no GPU; use compute.device=auto or cpu")
    return config.compute.device != "cpu" and torch.cuda.is_available()


def _stalled(history: list[dict[str, float]], patience: int) -> bool:
    metrics = [epoch["ndcg@10"] for epoch in history]
    return bool(metrics) and len(metrics) - 1 - metrics.index(max(metrics)) >= patience


def _writer(path: Path, epoch: int, total: int, history: list[dict[str, float]], rank: int) -> Any:
    """Return a callback that notes the progress of rank 0 where the driver looks for it."""
    best = max((past["ndcg@10"] for past in history if "ndcg@10" in past), default=None)
    note = f"epoch {epoch + 1} of at most {total}" + (f", best ndcg@10 {best:.4f}" if best is not None else "")

    def write(done: int, of: int) -> None:
        if rank == 0:
            with atomic_file(path) as temporary:
                state = {"share": (epoch + done / of) / total, "note": note}
                temporary.write_text(json.dumps(state), encoding="utf-8")

    return write


@contextmanager
def _watching(path: Path, update: Update) -> Iterator[None]:
    """Pass what workers write to `path` on to `update` while the body runs."""
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.5):
            if path.exists():
                state = json.loads(path.read_text(encoding="utf-8"))
                update(state["share"], state["note"])

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
