"""Run the fits of the interest model under Ray Train; the only module of this package that imports Ray.

In: `InterestData`, the configuration and the folder of a stage. Out: `InterestFit`, with the checkpoint of the kept
epoch. `choose_epochs` stops early and keeps the best epoch; `refit` runs as many epochs as were chosen.

A stage that was killed goes on from its last checkpoint, as does a fit whose worker died; a finished stage returns its saved result.
Arrays travel to the workers in `data.npz` in the stage's folder.
"""

import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from recsys.atomic import atomic_file
from recsys.cluster import interruptible, start_ray
from recsys.config import Config
from recsys.errors import RecsysError
from recsys.progress import Update, say
from training.interest.data import InterestData
from training.interest.trainer import InterestTrainer

if TYPE_CHECKING:
    from ray.train import Result
    from ray.train.torch import TorchTrainer

DATA, PROGRESS, RESULT, HISTORY = "data.npz", "progress.json", "result.json", "history.json"
BEST = "best"
"""Folder of the best epoch with a frozen encoder, which fine-tuning starts from."""

RUN = "ray"
"""Folder of Ray Train's checkpoints."""

NDCG, TUNED = "ndcg@10", "tuned"

Epochs = list[dict[str, float]]
"""Per epoch: passes over the sequences so far, its figures and, if validated, ndcg@10 and whether the encoder was tuned."""

OnEpochs = Callable[[Epochs], None]
"""Called now and then with all epochs so far, while a fit runs."""


@dataclass(frozen=True)
class InterestFit:
    """The outcome of a fit."""

    epochs: int
    """Epochs after which the kept weights were saved."""
    metric: float | None
    """Validation ndcg@10 of the kept weights by the interest model alone; None after a refit."""
    history: Epochs
    """All epochs that were run; `choose_epochs` may run some after those that it keeps."""
    checkpoint: str
    """Folder of the kept weights."""
    device: str
    """Type of the device that trained: cpu or cuda."""

    @property
    def tuning(self) -> str:
        """What fine-tuning the text encoder brought, in words; empty where it was not tried."""
        frozen, tuned = ([epoch[NDCG] for epoch in self.history if epoch.get(TUNED) == kind] for kind in (0.0, 1.0))
        if not tuned:
            return ""
        kept = "kept" if max(tuned) > max(frozen) else "not kept"
        return f"fine-tuning the text encoder, {kept}: {max(frozen):.4f} to {max(tuned):.4f}"


@dataclass(frozen=True)
class _Job:
    """What every worker of a fit needs to know."""

    folder: Path
    config: Config
    seed: int
    epochs: int
    """Most epochs to run."""
    encoder_from: Path | None = None
    """Checkpoint whose text encoder, and vectors of the catalogue, a fit starts with."""
    start: Path | None = None
    """Checkpoint that an update starts from."""


def choose_epochs(
    data: InterestData,
    *,
    config: Config,
    seed: int,
    folder: Path,
    update: Update,
    on_epochs: OnEpochs = lambda epochs: None,
    encoder_from: Path | None = None,
    start: Path | None = None,
) -> InterestFit:
    """Fit until `patience` epochs brought no better validation ndcg@10, and keep the best epoch.

    The text encoder is frozen at first; then it is fine-tuned from the best epoch on, as long as `valid` gains. It starts as that
    of the checkpoint `encoder_from`, whose vectors of the catalogue are then taken over, where there is one. With the checkpoint
    `start`, the fit starts from there, ends with the first epoch that brings nothing better and leaves the text encoder as it is.

    Raises:
        RecsysError: a worker failed, or there is no GPU where the configuration asks for one.
    """
    if start:
        job = _Job(folder.resolve(), config, seed, epochs=config.update.epochs, start=start.resolve())
        return _fit(_updating_loop, job, data, update, on_epochs, keep=NDCG)
    job = _Job(
        folder.resolve(),
        config,
        seed,
        epochs=config.interest.epochs + _tuning_epochs(config),
        encoder_from=encoder_from,
    )
    return _fit(_choosing_loop, job, data, update, on_epochs, keep=NDCG)


def refit(
    data: InterestData,
    chosen: InterestFit,
    *,
    config: Config,
    seed: int,
    folder: Path,
    update: Update,
    on_epochs: OnEpochs = lambda epochs: None,
    start: Path | None = None,
) -> InterestFit:
    """Fit all but the text encoder anew, or from the checkpoint `start` on, for as many epochs as `chosen` kept, and keep the last.

    The text encoder is that of `chosen`. Validation requests are not looked at: they may be among the fitted events.

    Raises:
        RecsysError: a worker failed, or there is no GPU where the configuration asks for one.
    """
    before = start.resolve() if start else None
    job = _Job(folder.resolve(), config, seed, chosen.epochs, encoder_from=Path(chosen.checkpoint), start=before)
    return _fit(_refitting_loop, job, data, update, on_epochs, keep="epoch")


def use_gpu(config: Config) -> bool:
    """Return whether training runs on GPUs.

    Raises:
        RecsysError: the configuration asks for a GPU and there is none.
    """
    if config.compute.device == "gpu" and not torch.cuda.is_available():
        raise RecsysError("compute.device is gpu but PyTorch sees no GPU; use compute.device=auto or cpu")
    return config.compute.device != "cpu" and torch.cuda.is_available()


def _fit(
    loop: Callable[[dict[str, _Job]], None],
    job: _Job,
    data: InterestData,
    update: Update,
    on_epochs: OnEpochs,
    *,
    keep: str,
) -> InterestFit:
    """Run `loop` in every worker and keep the checkpoint with the highest value of the metric `keep`."""
    result = job.folder / RESULT
    if result.exists():
        return InterestFit(**json.loads(result.read_text(encoding="utf-8")))
    job.folder.mkdir(parents=True, exist_ok=True)
    data.save(job.folder / DATA)
    with _watching(job.folder / PROGRESS, update, on_epochs):
        fit = _run(loop, job, keep)
    with atomic_file(result) as temporary:
        temporary.write_text(json.dumps(asdict(fit)), encoding="utf-8")
    return fit


def _run(loop: Callable[[dict[str, _Job]], None], job: _Job, keep: str) -> InterestFit:
    """Run `loop` in the workers; where one of them dies, all go on from the last checkpoint.

    Ray Train's `FailureConfig` is not used: it repeats exceptions of `loop` as well, which would come again each time.
    """
    start_ray()
    retries = left = job.config.compute.retries
    done = _epochs_done(job)
    while True:
        try:
            return _fit_of(interruptible(_trainer(loop, job, keep).fit), keep)
        except Exception as error:
            death, before, done = _death(error), done, _epochs_done(job)
            left = retries if done > before else left
            if not (death and left):
                last = (str(error).strip().splitlines() or [repr(error)])[-1]
                reason = death or last.removeprefix("recsys.errors.RecsysError: ")
                raise RecsysError(f"training failed in a worker: {reason} (log: {job.folder / RUN})") from error
            left -= 1
            say(f"a worker of the training died ({death}); training goes on from epoch {done + 1}")


def _trainer(loop: Callable[[dict[str, _Job]], None], job: _Job, keep: str) -> "TorchTrainer":
    """Return a trainer, which goes on from the last checkpoint in the job's folder where there is one."""
    from ray.train import CheckpointConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    gpu, compute = use_gpu(job.config), job.config.compute
    resources = {"CPU": _threads(job.config)} | ({"GPU": 1} if gpu else {})
    return TorchTrainer(
        loop,
        train_loop_config={"job": job},
        scaling_config=ScalingConfig(num_workers=compute.workers, use_gpu=gpu, resources_per_worker=resources),
        run_config=RunConfig(
            name=RUN,
            storage_path=str(job.folder),
            checkpoint_config=CheckpointConfig(num_to_keep=2, checkpoint_score_attribute=keep),
        ),
    )


def _fit_of(outcome: "Result", keep: str) -> InterestFit:
    """Return the fit with the highest value of the metric `keep` among what the workers reported."""
    assert outcome.metrics and outcome.best_checkpoints
    checkpoint, metrics = max(outcome.best_checkpoints, key=lambda pair: pair[1][keep])
    return InterestFit(
        epochs=int(metrics["epoch"]),
        metric=metrics.get(NDCG),
        history=outcome.metrics["history"],  # the last report's, which has the epochs after the best one, too
        checkpoint=checkpoint.path,
        device=metrics["device"],
    )


def _epochs_done(job: _Job) -> int:
    """Return how many epochs the last checkpoint in the job's folder has behind it."""
    from ray.train import Result

    try:
        metrics = Result.from_path(str(job.folder / RUN)).metrics
    except RuntimeError:  # there is none yet
        return 0
    return len(metrics["history"]) if metrics else 0


def _death(error: Exception) -> str:
    """Return what a worker died of, in a few words; empty where `error` is an exception that one of them raised.

    A worker whose peer died fails as well, in the exchange of gradients, and perhaps before that death is noticed.
    """
    from ray.exceptions import ActorUnschedulableError, RayActorError

    failures = list(getattr(error, "worker_failures", {}).values())
    causes = [getattr(failure, "health_check_failure", None) for failure in failures]
    if isinstance(cause := getattr(error, "controller_failure", None), (ActorUnschedulableError, RayActorError)):
        causes.append(cause)  # before the loop began
    texts = [" ".join(str(cause).split()) for cause in causes if cause]
    if texts:
        detail = texts[0].rpartition("Worker exit detail: ")[2].partition(". ")[0]
        return "killed or crashed, perhaps for want of memory" if "SYSTEM_ERROR" in texts[0] else detail
    lost = any(isinstance(failure, torch.distributed.DistError) or "gloo" in str(failure) for failure in failures)
    return "no longer reached by the others" if lost else ""


def _tuning_epochs(config: Config) -> int:
    """Return the most epochs that fine-tune the text encoder; 0 where it has no layers to train."""
    return config.interest.tuning_epochs if config.encoder.trainable_layers else 0


def _threads(config: Config) -> int:
    """Return the CPU cores of each worker."""
    return max(1, (os.cpu_count() or 1) // config.compute.workers)


def _choosing_loop(settings: dict[str, _Job]) -> None:
    """Train and validate in one worker: with a frozen text encoder while `valid` gains, then fine-tuning while it gains."""
    worker = _Worker(settings["job"])
    interest, tuning_epochs = worker.job.config.interest, _tuning_epochs(worker.job.config)
    while not worker.tuned and len(worker.history) < interest.epochs and worker.unimproved < interest.patience:
        worker.choose_epoch()
    if tuning_epochs and not worker.tuned:
        worker.tune_from_best()
    while worker.tuned < tuning_epochs and not (worker.tuned and worker.unimproved):
        worker.choose_epoch()


def _updating_loop(settings: dict[str, _Job]) -> None:
    """Train and validate in one worker, with a frozen text encoder while `valid` gains."""
    worker = _Worker(settings["job"])
    while len(worker.history) < worker.job.epochs and not worker.unimproved:
        worker.choose_epoch()


def _refitting_loop(settings: dict[str, _Job]) -> None:
    """Train in one worker for the chosen number of epochs."""
    worker = _Worker(settings["job"])
    while len(worker.history) < worker.job.epochs:
        worker.report(worker.fit_epoch())


def since_best(metrics: list[float]) -> int:
    """Return how many of `metrics` came after the best one; an equal one is no better."""
    return len(metrics) - 1 - metrics.index(max(metrics)) if metrics else 0


class _Worker:
    """A trainer in a worker of Ray Train, continued from the last checkpoint where there is one."""

    def __init__(self, job: _Job) -> None:
        import ray.train
        from ray.train.torch import get_device, prepare_model

        torch.set_num_threads(_threads(job.config))
        context = ray.train.get_context()
        self.job, self.history = job, Epochs()
        self.passes = 0  # over the sequences that the present weights have seen
        self.rank, world_size = context.get_world_rank(), context.get_world_size()
        self.best = job.folder / BEST / str(self.rank)
        # Workers draw and encode different items, so that their buffers may differ until the epoch ends.
        parallel = partial(prepare_model, parallel_strategy_kwargs={"broadcast_buffers": False})
        self.trainer = InterestTrainer(
            InterestData.load(job.folder / DATA),
            job.config,
            device=get_device(),
            seed=job.seed,
            rank=self.rank,
            world_size=world_size,
            wrap=parallel if world_size > 1 else _unwrapped,
            encoder_from=job.encoder_from,
            start=job.start,
        )
        if checkpoint := ray.train.get_checkpoint():
            with checkpoint.as_directory() as folder:
                self.trainer.restore(Path(folder))
                self.history = json.loads((Path(folder) / HISTORY).read_text(encoding="utf-8"))
                self.passes = int(self.history[-1]["epoch"])

    @property
    def unimproved(self) -> int:
        """How many epochs there were since the best one."""
        return since_best([epoch[NDCG] for epoch in self.history])

    @property
    def tuned(self) -> int:
        """How many epochs fine-tuned the text encoder."""
        return sum(bool(epoch.get(TUNED)) for epoch in self.history)

    def choose_epoch(self) -> None:
        """Train and validate the next epoch, and keep a copy of the best one."""
        figures, tuning = self.fit_epoch(), float(self.trainer.tuning)
        metric = self.agreed(self.trainer.evaluate())
        if not tuning and not since_best([*(epoch[NDCG] for epoch in self.history), metric]):
            # Before the report: a worker that is killed in between trains and saves this epoch again.
            self.best.mkdir(parents=True, exist_ok=True)
            self.trainer.save(self.best)
        self.report(figures | {NDCG: metric, TUNED: tuning})

    def agreed(self, metric: float) -> float:
        """Return the first worker's `metric`: where one took another for the best epoch, the others would wait for it."""
        from ray.train.collective import broadcast_from_rank_zero

        return float(broadcast_from_rank_zero(metric))

    def tune_from_best(self) -> None:
        """Go back to the best epoch and fine-tune the text encoder from there."""
        self.trainer.restore(self.best)
        self.passes = 1 + max(range(len(self.history)), key=lambda epoch: self.history[epoch][NDCG])
        self.trainer.start_tuning()

    def fit_epoch(self) -> dict[str, float]:
        """Train the next epoch and return its figures: those of the trainer, and how fast it went."""
        self.passes += 1
        start = time.monotonic()
        figures = self.trainer.fit_epoch(len(self.history), self._note_progress if self.rank == 0 else _ignore)
        return figures | {"sequences_per_s": len(self.trainer.data.items) / (time.monotonic() - start)}

    def report(self, metrics: dict[str, float]) -> None:
        """Add an epoch to the history and hand it to Ray Train with a checkpoint."""
        import ray.train

        self.history = [*self.history, {"epoch": self.passes} | metrics]
        about = {"history": self.history, "device": self.trainer.device.type}
        with tempfile.TemporaryDirectory() as folder:
            if self.rank == 0:
                self.trainer.save(Path(folder))
                (Path(folder) / HISTORY).write_text(json.dumps(self.history), encoding="utf-8")
            checkpoint = ray.train.Checkpoint.from_directory(folder) if self.rank == 0 else None
            ray.train.report(self.history[-1] | about, checkpoint=checkpoint)

    def _note_progress(self, done: int, of: int) -> None:
        """Write the progress where the driver looks for it: `done` of the epoch's steps `of` are done."""
        epoch, total = len(self.history), self.job.epochs
        best = max((past[NDCG] for past in self.history if NDCG in past), default=None)
        note = f"epoch {epoch + 1} of at most {total}" + (f", best ndcg@10 {best:.4f}" if best is not None else "")
        with atomic_file(self.job.folder / PROGRESS) as temporary:
            progress = {"share": (epoch + done / of) / total, "note": note, "history": self.history}
            temporary.write_text(json.dumps(progress), encoding="utf-8")


def _unwrapped(module: nn.Module) -> nn.Module:
    return module


def _ignore(done: int, of: int) -> None:
    pass


@contextmanager
def _watching(path: Path, update: Update, on_epochs: OnEpochs) -> Iterator[None]:
    """Pass what a worker writes to `path` on to `update` and `on_epochs` while the body runs."""
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.5):
            if path.exists():
                progress: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
                update(progress["share"], progress["note"])
                on_epochs(progress["history"])

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
