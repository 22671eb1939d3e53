"""The script for GPUs runs on a CPU, says what it cannot measure, and two workers of it train together."""

import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from recsys.config import EncoderConfig
from tests.worlds import tiny_encoder


@pytest.mark.slow
def test_the_script_for_gpus_prints_what_a_cpu_can_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A row for each way to encode and for each precision of the step, and a line for what is missing."""
    folder = tiny_encoder(tmp_path)
    options = ["--items", "60", "--tokens", "16", "--steps", "1", "--no-compile", "--encoder", folder]
    monkeypatch.setattr(sys, "argv", ["gpu", *options])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    gpu.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "GPU: PyTorch sees none; CPU only"
    rows = {line[:44].strip(): line[44:].split() for line in lines if line.endswith("%")}
    encoding = ["encoding, as the engine does it", "pinned batches, prefetched", "padded batches with a mask"]
    assert list(rows)[:3] == encoding and any(name.startswith("fine-tuning in fp32") for name in rows)
    for items, *_, share in rows.values():
        assert float(items.replace(",", "")) > 0 and float(share.rstrip("%")) > 0
    assert any(line.startswith("search in 60 vectors") and "FAISS sees no GPU" in line for line in lines)
    assert lines[-1].startswith("two GPUs: not measured")


@pytest.mark.slow
def test_two_workers_of_the_script_train_together(tmp_path: Path) -> None:
    """On CPUs, as two GPUs would by another backend."""
    encoder = EncoderConfig(name=tiny_encoder(tmp_path), trainable_layers=1)
    assert gpu.sequences_per_second(encoder, 2, "gloo", 1) > 0


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-40GB", 312e12),
        ("NVIDIA L4", 121e12),
    ],
)
def test_the_peak_of_a_known_gpu_is_that_of_its_data_sheet(
    name: str, peak: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever else is in its name; what is named on the command line comes first."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: name)
    monkeypatch.setattr(gpu, "resolve_precision", lambda precision, device: "bf16")
    assert gpu.Device.of("cuda", None).peak == peak
    assert gpu.Device.of("cuda", 7.0).peak == 7e12
