"""The bundle of a text head: the encoder that was fine-tuned, the head, and what it says of itself.

In and out: a folder (see `recsys.bundle`) and a `TextModel`.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from recsys.bundle import TEXT_HEAD, read_config, seal, verify
from recsys.config import Config
from recsys.errors import RecsysError
from recsys.models.encoder import TextEncoder, load_encoder_folder

HEAD, ENCODER = "head.safetensors", "encoder"


@dataclass(frozen=True)
class TextModel:
    """A text head with its encoder."""

    kind: str
    """What it tells: `classes`, `tokens` or `answers`."""
    encoder: TextEncoder
    tokenizer: Any
    head: dict[str, Tensor]
    """The weights of the head by name."""
    about: dict[str, Any]
    """What else the head needs, such as its labels; JSON."""
    config: Config
    manifest: dict[str, Any] = field(default_factory=dict)


def save_text_model(folder: Path, model: TextModel, about: dict[str, Any]) -> None:
    """Write `model` into the empty `folder` and seal it; `about` is added to the manifest."""
    model.encoder.model.save_pretrained(folder / ENCODER)  # type: ignore[operator]
    model.tokenizer.save_pretrained(folder / ENCODER)
    save_file({name: value.detach().cpu().contiguous() for name, value in model.head.items()}, folder / HEAD)
    (folder / TEXT_HEAD).write_text(
        json.dumps({"kind": model.kind} | model.about, indent=1, ensure_ascii=False), "utf-8"
    )
    seal(folder, model.config, about)


def load_text_model(folder: Path, kind: str | None = None) -> TextModel:
    """Verify and load the text head in `folder`, of `kind` if that is given.

    Raises:
        RecsysError: the bundle is damaged, is no text head, or tells something else.
    """
    manifest = verify(folder, text_head=True)
    about = json.loads((folder / TEXT_HEAD).read_text(encoding="utf-8"))
    if kind and about["kind"] != kind:
        raise RecsysError(
            f"{folder}: this text head tells {about['kind']}, not {kind}; train one with `recsys text train {kind}`"
        )
    encoder, tokenizer = load_encoder_folder(str(folder / ENCODER), trainable_layers=0)
    head = load_file(folder / HEAD)
    return TextModel(about.pop("kind"), encoder.eval(), tokenizer, head, about, read_config(folder), manifest)
