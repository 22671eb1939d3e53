"""The texts of a catalogue as vectors: few in this process, many by actors of Ray Data on all machines of the cluster.

In: an encoder, tokenised texts, a folder. Out: pooled vectors `[N, H]`, which the actors also leave in the folder.

A part holds whole batches, those that one process would form, so that a text's vector does not depend on who computes it.
Each part is written as soon as it comes back: what was stopped goes on with those that are missing.

Shapes: N texts, n of them in a part, H width of the text encoder.
"""

import io
import shutil
from collections.abc import Callable
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recsys.arrays import Floats, Ints
from recsys.atomic import atomic_file
from recsys.cluster import Sent, cores_each, in_actor, interruptible, machine_cores, send, start_ray
from recsys.config import ComputeConfig
from recsys.errors import RecsysError, first_line
from recsys.models.encoder import TextEncoder, Tokens
from recsys.models.text_vectors import text_vectors
from recsys.progress import Update
from training.interest.trainer import TEXT_VECTORS, load_text_vectors

PART_TOKENS = 1 << 16
"""Tokens of a part, some 5 seconds of a core: what is lost with an actor, or waited for at the end."""

TOKENS_ALONE = 4 * PART_TOKENS
"""Up to so many tokens, actors would start for longer than they save."""

TOKENS_AT_RISK = 64 * PART_TOKENS
"""Up to so many tokens, one worker encodes in this process, where all would be lost with it."""

WORK = "parts"
"""Folder of what the actors read, and of the parts."""
ENCODER, IDS, OFFSETS = "encoder.pt", "ids.npy", "offsets.npy"


def catalogue_vectors(
    encoder: TextEncoder,
    tokens: Tokens,
    precision: str,
    *,
    folder: Path,
    compute: ComputeConfig,
    gpu: bool,
    update: Update,
) -> Tensor:
    """Return the vectors `[N, H]` of `tokens` by `encoder`, in this process or as `encode_on_ray` does."""
    if not worth_ray(tokens, compute) or in_actor():  # whoever started the actor has divided the cores
        return text_vectors(encoder, tokens, precision)
    on_ray = encode_on_ray(encoder, tokens, precision, folder=folder, compute=compute, gpu=gpu, update=update)
    return torch.from_numpy(on_ray)


def worth_ray(tokens: Tokens, compute: ComputeConfig) -> bool:
    """Return whether `tokens` are so many that actors encode them faster, or that a stopped run has to keep the parts it has."""
    return len(tokens.ids) > (TOKENS_ALONE if compute.workers > 1 else TOKENS_AT_RISK)


def encode_on_ray(
    encoder: TextEncoder,
    tokens: Tokens,
    precision: str,
    *,
    folder: Path,
    compute: ComputeConfig,
    gpu: bool,
    update: Update,
) -> Floats:
    """Return the vectors `[N, H]` of `tokens` by `encoder`, which `compute.workers` actors compute, each on a GPU if `gpu`.

    They are left in `folder`, where a call that was stopped goes on, and one that is repeated finds them.

    Raises:
        RecsysError: an actor failed, or there are fewer cores than workers.
    """
    if not (folder / TEXT_VECTORS).exists():
        work, parts = folder / WORK, parts_of(tokens)
        files = [work / f"{part:05}.npy" for part in range(len(parts))]
        _prepare(encoder, tokens, work)
        todo = {part: rows for part, rows in enumerate(parts) if not files[part].exists()}
        done = len(tokens) - sum(map(len, todo.values()))

        def keep(part: int, vectors: bytes) -> None:
            nonlocal done
            with atomic_file(files[part]) as temporary:
                temporary.write_bytes(vectors)
            done += len(parts[part])
            update(done / len(tokens), f"{done:,} of {len(tokens):,} texts encoded")

        if todo:
            start_ray()  # in this thread, whose end would end Ray
            interruptible(lambda: _encode(todo, work, precision, compute, gpu, keep))
        _join(parts, files, folder / TEXT_VECTORS, encoder.width)
        shutil.rmtree(work)
    return load_text_vectors(folder)


def parts_of(tokens: Tokens) -> list[Ints]:
    """Return the rows `[n]` of each part: whole batches of similar length, some `PART_TOKENS` together."""
    batches, lengths = list(tokens.batches(np.arange(len(tokens)))), tokens.lengths
    ends = np.cumsum([lengths[rows].sum() for rows in batches])
    numbered = groupby(zip(ends // PART_TOKENS, batches, strict=True), key=itemgetter(0))
    return [np.concatenate([rows for _, rows in part]) for _, part in numbered]


def _prepare(encoder: TextEncoder, tokens: Tokens, work: Path) -> None:
    """Write what the actors read."""
    work.mkdir(parents=True, exist_ok=True)
    torch.save(encoder, work / ENCODER)
    np.save(work / IDS, tokens.ids)
    np.save(work / OFFSETS, tokens.offsets)


def _encode(
    todo: dict[int, Ints],
    work: Path,
    precision: str,
    compute: ComputeConfig,
    gpu: bool,
    keep: Callable[[int, bytes], None],
) -> None:
    """Pass the vectors of the parts `todo` to `keep`, as a NumPy file each, and raise at the end if any failed."""
    import ray

    ray.data.DataContext.get_current().enable_progress_bars = False
    cores = cores_each(compute.workers, machine_cores())
    sent = send(work, (ENCODER, IDS, OFFSETS))
    rows = [{"part": part, "rows": rows.tobytes()} for part, rows in todo.items()]
    encoded = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        _Encoder,
        batch_size=1,
        fn_constructor_kwargs={"sent": sent, "precision": precision, "cores": cores, "gpu": gpu},
        compute=ray.data.ActorPoolStrategy(size=min(compute.workers, len(rows))),
        num_cpus=cores,
        num_gpus=1 if gpu else None,
    )
    failures = []
    try:
        for row in encoded.iter_rows():
            if row["failure"]:
                failures.append(f"part {row['part']}: {row['failure']}")
            else:
                keep(row["part"], row["vectors"])
    except ray.exceptions.RayError as error:
        failures.append(f"an actor: {first_line(error)}")
    if failures:
        raise RecsysError(f"texts were not encoded, {failures[0]}; the parts that were are kept: --resume")


class _Encoder:
    """Encodes parts on a machine of the cluster: their rows come with a row of Ray Data, vectors go back with one."""

    def __init__(self, sent: Sent, precision: str, cores: int, gpu: bool) -> None:
        torch.set_num_threads(cores)
        self.precision = precision
        with sent.here() as folder:  # a copy stays mapped after it is deleted
            self.tokens = Tokens(np.load(folder / IDS, mmap_mode="r"), np.load(folder / OFFSETS, mmap_mode="r"))
            encoder: TextEncoder = torch.load(folder / ENCODER, weights_only=False)
        self.encoder = encoder.to("cuda" if gpu else "cpu")

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return the vectors of the one part in `batch` as a NumPy file; a failure is returned, so that other parts go on."""
        rows, file, failure = np.frombuffer(batch["rows"][0], np.int64), io.BytesIO(), ""
        try:
            np.save(file, text_vectors(self.encoder, self.tokens.take(rows), self.precision).cpu().numpy())
        except Exception as error:
            failure = first_line(error)
        return {"part": batch["part"], "vectors": [file.getvalue()], "failure": [failure]}


def _join(parts: list[Ints], files: list[Path], out: Path, width: int) -> None:
    """Write the vectors of all parts to `out`, in the order of the texts; a part in memory at a time."""
    with atomic_file(out) as temporary:
        shape = (sum(map(len, parts)), width)
        whole = np.lib.format.open_memmap(temporary, "w+", np.float32, shape)
        for rows, file in zip(parts, files, strict=True):
            whole[rows] = np.load(file, allow_pickle=False)
        whole.flush()
