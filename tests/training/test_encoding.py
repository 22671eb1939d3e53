"""A catalogue that actors of Ray Data encode: the vectors of one process, and nothing twice after it was stopped."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recsys.arrays import Floats, offsets_of
from recsys.config import ComputeConfig
from recsys.errors import RecsysError
from recsys.models import encoder as encoder_module
from recsys.models.encoder import TextEncoder, Tokens, load_encoder_folder
from recsys.models.text_vectors import text_vectors
from recsys.progress import Update
from tests.machines import two_machines
from tests.worlds import tiny_encoder
from training import encoding
from training.encoding import (
    TOKENS_ALONE,
    TOKENS_AT_RISK,
    WORK,
    catalogue_vectors,
    encode_on_ray,
    parts_of,
    worth_ray,
)
from training.interest.trainer import TEXT_VECTORS

COUNT, PARTS = 2000, 20
DRIVER = """
import sys
from pathlib import Path

from recsys.models.encoder import load_encoder_folder
from tests.training.test_encoding import encoded, killed_half_way, shown, texts
from training import encoding

if __name__ == "__main__":
    encoding.PART_TOKENS = 8192
    update = killed_half_way if sys.argv[3] == "killed" else shown
    encoded(load_encoder_folder(sys.argv[1], 0)[0], texts(), Path(sys.argv[2]), update, workers=2)
"""


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "PART_TOKENS", 8192)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the folder of a tiny encoder."""
    return tiny_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def encoder(folder: str) -> TextEncoder:
    return load_encoder_folder(folder, 0)[0]


@pytest.fixture(scope="module")
def alone(encoder: TextEncoder) -> Floats:
    """Return the vectors that one process makes."""
    vectors: Floats = text_vectors(encoder, texts(), "fp32").numpy()
    return vectors


def texts() -> Tokens:
    """Return texts of 40 to 120 random tokens."""
    rng = np.random.default_rng(0)
    offsets = offsets_of(rng.integers(40, 121, COUNT))
    return Tokens(rng.integers(1000, 20_000, offsets[-1]).astype(np.int32), offsets)


def shown(share: float, note: str) -> None:
    print(note, flush=True)


def killed_half_way(share: float, note: str) -> None:
    if share > 0.5:
        os.kill(os.getpid(), signal.SIGKILL)


def encoded(encoder: TextEncoder, tokens: Tokens, folder: Path, update: Update = shown, workers: int = 1) -> Floats:
    """Encode `tokens` by actors."""
    compute = ComputeConfig(workers=workers, device="cpu")
    return encode_on_ray(encoder, tokens, "fp32", folder=folder, compute=compute, gpu=False, update=update)


def driver(folder: str, out: Path, how: str, env: dict[str, str], cwd: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", DRIVER, folder, str(out), how]
    return subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True)


def kept_parts(out: Path) -> list[int]:
    """Return the parts that are in the folder `out`, after their vectors were replaced by zeros."""
    kept = sorted(path for path in (out / WORK).glob("*.npy") if path.stem.isdigit())
    for path in kept:
        np.save(path, np.zeros_like(np.load(path)))
    return [int(path.stem) for path in kept]


def check_resumed(encoder: TextEncoder, out: Path, kept: list[int], alone: Floats) -> None:
    """What is there stays, which zeros show; all else is encoded as one process does."""
    assert 0 < len(kept) < PARTS
    expected, parts = alone.copy(), parts_of(texts())
    expected[np.concatenate([parts[part] for part in kept])] = 0
    notes: list[str] = []
    np.testing.assert_array_equal(encoded(encoder, texts(), out, lambda share, note: notes.append(note)), expected)
    assert len(notes) == len(parts) - len(kept) and notes[-1] == f"{COUNT:,} of {COUNT:,} texts encoded"
    assert [path.name for path in out.iterdir()] == [TEXT_VECTORS]


@pytest.mark.slow
def test_what_a_killed_command_has_encoded_is_not_encoded_again(
    folder: str, encoder: TextEncoder, alone: Floats, tmp_path: Path
) -> None:
    """Vectors are exactly those of one process, whose batches the parts hold."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = driver(folder, tmp_path / "out", "killed", env, tmp_path)
    assert done.returncode == -signal.SIGKILL, done.stderr
    check_resumed(encoder, tmp_path / "out", kept_parts(tmp_path / "out"), alone)


@pytest.mark.slow
def test_all_parts_but_one_that_fails_are_kept(encoder: TextEncoder, alone: Floats, tmp_path: Path) -> None:
    """Here of the longest text, which comes last: a token that the encoder does not know."""
    bad = texts()
    bad.ids[bad.offsets[parts_of(bad)[-1][-1]]] = 10**6
    with pytest.raises(RecsysError, match=r"^texts were not encoded, part 19: index out of range .*--resume$"):
        encoded(encoder, bad, tmp_path)
    check_resumed(encoder, tmp_path, kept_parts(tmp_path), alone)


@pytest.mark.slow
def test_two_machines_that_share_no_folder_encode_together(folder: str, alone: Floats, tmp_path: Path) -> None:
    """Encoder and tokens reach both, and the vectors come back, as one process makes them."""
    here = tmp_path / "driver"
    here.mkdir()
    with two_machines(here, {}) as env:
        done = driver(folder, here / "out", "shown", env, here)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(here / "out" / TEXT_VECTORS), alone)


def test_vectors_that_are_there_are_returned(encoder: TextEncoder, tmp_path: Path) -> None:
    """A stage that is run again costs nothing, Ray's start neither."""
    there = np.ones((3, 2), np.float32)
    np.save(tmp_path / TEXT_VECTORS, there)
    np.testing.assert_array_equal(encoded(encoder, texts(), tmp_path), there)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 12), min_size=1, max_size=60), st.integers(1, 60))
def test_parts_hold_the_batches_of_one_process(lengths: list[int], size: int) -> None:
    """Every text once; neighbours of a text are the same, and with them its vector to the last bit."""
    offsets = offsets_of(np.array(lengths))
    tokens = Tokens(np.arange(offsets[-1], dtype=np.int32), offsets)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoder_module, "TOKENS_PER_BATCH", 24)
        patch.setattr(encoding, "PART_TOKENS", size)
        parts = parts_of(tokens)
        of_parts = [
            rows[inside].tolist() for rows in parts for inside in tokens.take(rows).batches(np.arange(len(rows)))
        ]
        assert of_parts == [rows.tolist() for rows in tokens.batches(np.arange(len(tokens)))]
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(lengths)))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 5), min_size=1, max_size=8), st.data())
def test_texts_are_taken_in_the_order_that_is_named(lengths: list[int], data: st.DataObject) -> None:
    """Also twice, and empty ones."""
    offsets = offsets_of(np.array(lengths))
    tokens = Tokens(np.arange(offsets[-1], dtype=np.int32), offsets)
    rows = np.array(data.draw(st.lists(st.integers(0, len(lengths) - 1), max_size=10)), np.int64)
    taken = tokens.take(rows)
    each = [taken.ids[taken.offsets[row] : taken.offsets[row + 1]].tolist() for row in range(len(taken))]
    assert each == [tokens.ids[offsets[row] : offsets[row + 1]].tolist() for row in rows]


@pytest.mark.parametrize(
    ("count", "workers", "on_ray"),
    [
        (TOKENS_ALONE, 2, False),
        (TOKENS_ALONE + 1, 2, True),
        (TOKENS_AT_RISK, 1, False),
        (TOKENS_AT_RISK + 1, 1, True),
    ],
)
def test_actors_encode_what_would_take_one_process_long(count: int, workers: int, on_ray: bool) -> None:
    """With one worker they bring no speed, only parts that are kept."""
    tokens = Tokens(np.zeros(count, np.int32), np.array([0, count]))
    assert worth_ray(tokens, ComputeConfig(workers=workers)) == on_ray


def test_an_actor_of_ray_encodes_by_itself(
    encoder: TextEncoder, alone: Floats, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others may hold the cores that it would wait for: trials of a search are such actors."""
    monkeypatch.setattr(encoding, "in_actor", lambda: True)
    monkeypatch.setattr(encoding, "TOKENS_ALONE", 0)
    options: dict[str, Any] = {"compute": ComputeConfig(workers=2), "gpu": False, "update": shown}
    np.testing.assert_array_equal(catalogue_vectors(encoder, texts(), "fp32", folder=tmp_path, **options), alone)
    assert not list(tmp_path.iterdir())
