"""Run the fits of the interest model under Ray Train; the only module of this package that imports Ray.

In: `InterestData`, the configuration and the folder of a stage. Out: `InterestFit`, with the checkpoint of the kept
epoch. `choose_epochs` stops early and keeps the best epoch; `refit` runs as many epochs as were chosen.

A stage that was killed goes on from its last checkpoint, as does a fit whose worker died; a finished stage returns its saved result.
Arrays travel to the workers in `data.npz` in the stage's folder; on several machines, that and all else that they read goes
through Ray's object store, progress comes back through an actor, and checkpoints are in `compute.storage` until the fit ends.
"""

import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from recsys.atomic import atomic_file
from recsys.cluster import (
    Sent,
    cores_each,
    in_actor,
    interruptible,
    machine_cores,
    opened,
    send,
    start_ray,
    stop_own_ray,
)
from recsys.config import Config
from recsys.errors import RecsysError, first_line
from recsys.models.encoder import TextEncoder, load_encoder, resolve_precision
from recsys.progress import Update, say
from training.encoding import encode_on_ray, worth_ray
from training.interest.data import InterestData
from training.interest.trainer import InterestTrainer, load_trained

if TYPE_CHECKING:
    from ray.train import Result
    from ray.train.torch import TorchTrainer

DATA, PROGRESS, RESULT, HISTORY = "data.npz", "progress.json", "result.json", "history.json"
KEPT = "kept"
"""Folder of the kept weights where checkpoints are in `compute.storage`."""
ENCODER, ENCODER_FROM, START, VECTORS = "encoder", "encoder_from", "start", "vectors"
"""What is sent to the workers beside the data."""

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
    vectors_from: Path | None = None
    """Folder of the catalogue's vectors by the encoder that the fit starts with, where actors encoded it."""
    threads: int = 1
    """CPU cores of each worker."""
    sent: dict[str, Sent] = field(default_factory=dict)
    """What the workers read: the data, checkpoints, and the text encoder if it is a folder."""
    storage: tuple[str, Any] = ("", None)
    """Folder of the checkpoints, and the file system of pyarrow that it is in; None for this machine's."""
    notes: Any = None
    """Actor on the driver's machine that writes the progress; None where there is one machine."""


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
    job = _encoded(job, data, update)
    with _watching(job.folder / PROGRESS, update, on_epochs):
        fit = _run(loop, job, keep)
    with atomic_file(result) as temporary:
        temporary.write_text(json.dumps(asdict(fit)), encoding="utf-8")
    return fit


def _refuse_no_storage(job: _Job) -> None:
    """Raise RecsysError if there are several machines, and no storage is named that all of them reach."""
    machines = machine_cores()
    if len(machines) > 1 and not job.config.compute.storage:
        raise RecsysError(
            f"the cluster of RAY_ADDRESS has {len(machines)} machines; name what all of them reach, such as "
            "--set compute.storage=s3://bucket/folder, or a folder that they share"
        )


def _encoded(job: _Job, data: InterestData, update: Update) -> _Job:
    """Return the job with the catalogue encoded by actors, where it is so large that a stopped run should keep what is done."""
    config = job.config
    if job.encoder_from or not worth_ray(data.tokens, config.compute) or in_actor():
        return job
    start_ray()
    _refuse_no_storage(job)
    gpu, folder = use_gpu(config), job.folder / VECTORS
    encode_on_ray(
        _first_encoder(job, len(data.tokens)),
        data.tokens,
        resolve_precision(config.encoder.precision, torch.device("cuda" if gpu else "cpu")),
        folder=folder,
        compute=config.compute,
        gpu=gpu,
        update=lambda share, note: update(0.0, note),  # the share is that of the epochs
    )
    return replace(job, vectors_from=folder)


def _first_encoder(job: _Job, items: int) -> TextEncoder:
    """Return the text encoder that a fit starts with."""
    if job.start:
        return load_trained(job.start, job.config, torch.zeros(items, dtype=torch.bool)).encoder
    return load_encoder(job.config.encoder)[0]


def _run(loop: Callable[[dict[str, _Job]], None], job: _Job, keep: str) -> InterestFit:
    """Run `loop` in the workers; where one of them dies, all go on from the last checkpoint.

    Ray Train's `FailureConfig` is not used: it repeats exceptions of `loop` as well, which would come again each time.
    """
    retries = left = job.config.compute.retries
    while True:
        start_ray()
        equipped = _equipped(job)
        before = _epochs_done(equipped)
        try:
            return _fit_of(interruptible(_trainer(loop, equipped, keep).fit), equipped, keep)
        except Exception as error:
            death, done = _death(error), _epochs_done(equipped)
            stop_own_ray()  # Ray Train may leave a placement group behind, for whose cores the next fit would wait for ever
            left = retries if done > before else left
            if not (death and left):
                last = (str(error).strip().splitlines() or [repr(error)])[-1]
                reason = death or last.removeprefix("recsys.errors.RecsysError: ")
                raise RecsysError(f"training failed in a worker: {reason} (log: {job.folder / RUN})") from error
            left -= 1
            say(f"a worker of the training died ({death}); training goes on from epoch {done + 1}")


def _equipped(job: _Job) -> _Job:
    """Return the job with what depends on the machines of the cluster.

    Raises:
        RecsysError: there are several, and no storage is named that all of them reach, or it is none.
    """
    import ray

    _refuse_no_storage(job)
    compute, machines = job.config.compute, machine_cores()
    folders = {DATA: job.folder / DATA, ENCODER_FROM: job.encoder_from, START: job.start, VECTORS: job.vectors_from}
    if (encoder := Path(job.config.encoder.name)).is_dir():
        folders[ENCODER] = encoder
    notes = None
    if len(machines) > 1:
        here = {ray._raylet.RAY_NODE_ID_KEY: ray.get_runtime_context().get_node_id()}
        notes = ray.remote(num_cpus=0, label_selector=here)(_Notes).remote(job.folder / PROGRESS)
    return replace(
        job,
        threads=cores_each(compute.workers, machines),
        sent={name: send(path) for name, path in folders.items() if path},
        storage=_storage(job),
        notes=notes,
    )


def _storage(job: _Job) -> tuple[str, Any]:
    """Return the folder of the job's checkpoints, and the file system that it is in where one is named."""
    named = job.config.compute.storage
    if not named:
        return str(job.folder), None
    from pyarrow.fs import FileSystem

    try:
        system, folder = FileSystem.from_uri(named if "://" in named else str(Path(named).resolve()))
    except (ValueError, OSError) as error:  # pyarrow's errors are of these
        raise RecsysError(f"compute.storage={named}: {first_line(error)}; name s3://…, gs://… or a folder") from error
    return "/".join([folder.rstrip("/"), *job.folder.parts[-3:]]), system


def _trainer(loop: Callable[[dict[str, _Job]], None], job: _Job, keep: str) -> "TorchTrainer":
    """Return a trainer, which goes on from the last checkpoint in the job's folder where there is one."""
    from ray.train import CheckpointConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    gpu, compute = use_gpu(job.config), job.config.compute
    resources = {"CPU": job.threads} | ({"GPU": 1} if gpu else {})
    return TorchTrainer(
        loop,
        train_loop_config={"job": job},
        scaling_config=ScalingConfig(num_workers=compute.workers, use_gpu=gpu, resources_per_worker=resources),
        run_config=RunConfig(
            name=RUN,
            storage_path=job.storage[0],
            storage_filesystem=job.storage[1],
            checkpoint_config=CheckpointConfig(num_to_keep=2, checkpoint_score_attribute=keep),
        ),
    )


def _fit_of(outcome: "Result", job: _Job, keep: str) -> InterestFit:
    """Return the fit with the highest value of the metric `keep` among what the workers reported, its weights on this machine."""
    from ray.train import Checkpoint

    assert outcome.metrics and outcome.best_checkpoints
    checkpoint, metrics = max(outcome.best_checkpoints, key=lambda pair: pair[1][keep])
    folder, system = job.storage
    if system:
        checkpoint = Checkpoint(checkpoint.to_directory(str(job.folder / KEPT)))
        system.delete_dir(folder)
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
        folder, system = job.storage
        metrics = Result.from_path(f"{folder}/{RUN}", storage_filesystem=system).metrics
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

        torch.set_num_threads(job.threads)
        context = ray.train.get_context()
        self.job, self.history = job, Epochs()
        self.passes = 0  # over the sequences that the present weights have seen
        self.rank, world_size = context.get_world_rank(), context.get_world_size()
        # Workers draw and encode different items, so that their buffers may differ until the epoch ends.
        parallel = partial(prepare_model, parallel_strategy_kwargs={"broadcast_buffers": False})
        with _received(job) as paths:
            self.trainer = InterestTrainer(
                InterestData.load(paths[DATA]),
                _with_encoder(job.config, paths.get(ENCODER)),
                device=get_device(),
                seed=job.seed,
                rank=self.rank,
                world_size=world_size,
                wrap=parallel if world_size > 1 else _unwrapped,
                encoder_from=paths.get(ENCODER_FROM),
                start=paths.get(START),
                vectors_from=paths.get(VECTORS),
            )
        if checkpoint := ray.train.get_checkpoint():
            with opened(checkpoint) as folder:
                self.trainer.restore(folder)
                self.history = json.loads((folder / HISTORY).read_text(encoding="utf-8"))
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
        """Train and validate the next epoch."""
        figures, tuning = self.fit_epoch(), float(self.trainer.tuning)
        self.report(figures | {NDCG: self.agreed(self.trainer.evaluate()), TUNED: tuning})

    def agreed(self, metric: float) -> float:
        """Return the first worker's `metric`: where one took another for the best epoch, the others would wait for it."""
        from ray.train.collective import broadcast_from_rank_zero

        return float(broadcast_from_rank_zero(metric))

    def tune_from_best(self) -> None:
        """Go back to the best epoch and fine-tune the text encoder from there."""
        self.passes = self.restore_best()
        self.trainer.start_tuning()

    def restore_best(self) -> int:
        """Take the weights of the best epoch, whose checkpoint is always kept; return after how many passes it was."""
        import ray.train

        best = max(ray.train.get_all_reported_checkpoints(), key=lambda reported: reported.metrics[NDCG])
        with opened(best.checkpoint) as folder:
            self.trainer.restore(folder)
        return int(best.metrics["epoch"])

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
            self.trainer.save(Path(folder))
            if self.rank == 0:
                (Path(folder) / HISTORY).write_text(json.dumps(self.history), encoding="utf-8")
            checkpoint = ray.train.Checkpoint.from_directory(folder) if self.rank == 0 else None
            ray.train.report(self.history[-1] | about, checkpoint=checkpoint)

    def _note_progress(self, done: int, of: int) -> None:
        """Write the progress where the driver looks for it: `done` of the epoch's steps `of` are done."""
        epoch, total = len(self.history), self.job.epochs
        best = max((past[NDCG] for past in self.history if NDCG in past), default=None)
        note = f"epoch {epoch + 1} of at most {total}" + (f", best ndcg@10 {best:.4f}" if best is not None else "")
        progress = {"share": (epoch + done / of) / total, "note": note, "history": self.history}
        if self.job.notes:
            self.job.notes.write.remote(progress)
        else:
            _Notes(self.job.folder / PROGRESS).write(progress)


class _Notes:
    """Writes the progress where the driver looks for it; an actor on its machine where workers may be on others."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, progress: dict[str, Any]) -> None:
        """Replace what is there."""
        with atomic_file(self.path) as temporary:
            temporary.write_text(json.dumps(progress), encoding="utf-8")


@contextmanager
def _received(job: _Job) -> Iterator[dict[str, Path]]:
    """Give the body the paths, on this machine, of what was sent to the workers."""
    with ExitStack() as stack:
        yield {name: stack.enter_context(sent.here()) for name, sent in job.sent.items()}


def _with_encoder(config: Config, folder: Path | None) -> Config:
    """Return the configuration with the text encoder in `folder`, if one was sent."""
    if folder is None:
        return config
    return config.model_copy(update={"encoder": config.encoder.model_copy(update={"name": str(folder)})})


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
