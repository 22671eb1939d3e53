"""Adapters: what is fitted, and what of them is in a bundle."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from features.texts.tagged import TaggedTexts
from recsys.config import Config, load_config
from recsys.errors import RecsysError
from recsys.text.bundle import TextModel, load_text_model, save_text_model
from serving.text.tokens import Tagger
from tests.worlds import tiny_encoder
from training.text.fit import load_trainable
from training.text.lora import merge_adapters
from training.text.tokens import fit_tokens

TEXTS = [["a", colour, thing] for colour in ("red", "blue") for thing in ("shoe", "hat", "lamp", "desk")]


def config(tmp_path: Path, *sets: str) -> Config:
    """Return a configuration with a tiny encoder and adapters."""
    name = tiny_encoder(tmp_path / "encoder")
    exact = "encoder.precision=fp32"  # bf16, where the CPU has it, rounds merged and unmerged matrices differently
    return load_config(None, (f"encoder.name={name}", exact, "text.lora_rank=2", "text.trainable_layers=1", *sets))


def test_nothing_but_adapters_of_the_upper_layers_is_fitted(tmp_path: Path) -> None:
    """Far fewer numbers than their matrices have."""
    encoder, _ = load_trainable(config(tmp_path))
    full, _ = load_trainable(config(tmp_path, "text.lora_rank=0"))
    fitted = {name: value for name, value in encoder.named_parameters() if value.requires_grad}
    assert fitted and all("lora_" in name and f"layer.{encoder.split}." in name for name in fitted)
    count, of = (sum(value.numel() for value in each.parameters() if value.requires_grad) for each in (encoder, full))
    assert count < of / 4


def test_merged_adapters_find_the_same_and_the_bundle_knows_nothing_of_them(tmp_path: Path) -> None:
    """So that serving does not need peft."""
    data = TaggedTexts(TEXTS, [["O", "B-colour", "O"]] * len(TEXTS))
    settings = config(tmp_path, "text.epochs=3", "text.batch=4", "text.learning_rate=0.01")
    model = fit_tokens(data, data, settings, 0, lambda share, note: None)
    before = Tagger(model).log_probabilities(TEXTS)
    merge_adapters(model.encoder)
    assert not [name for name in model.encoder.state_dict() if "lora" in name]
    (tmp_path / "bundle").mkdir()
    save_text_model(tmp_path / "bundle", model, {})
    again: TextModel = load_text_model(tmp_path / "bundle", "tokens")
    for one, other in zip(before, Tagger(again).log_probabilities(TEXTS), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
    untrained, _ = load_trainable(
        settings.model_copy(update={"text": settings.text.model_copy(update={"lora_rank": 0})})
    )
    moved = [not torch.equal(value, untrained.state_dict()[name]) for name, value in model.encoder.state_dict().items()]
    assert any(moved)


def test_without_peft_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or to do without."""
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(RecsysError, match=r"text.lora_rank=2: .*recsys-text\[lora\].*0 does without"):
        load_trainable(config(tmp_path))
