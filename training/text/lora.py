"""Low-rank adapters, by which a large encoder is fine-tuned in little memory (Hu et al. 2021, "LoRA").

In: an encoder whose upper layers are to be trained, and a rank. Out: the same with adapters beside their matrices, and afterwards merged into
them.
"""

from typing import Any

from torch import nn

from recsys.errors import RecsysError
from recsys.models.encoder import TextEncoder

SCALE = 2
"""What the adapters' product counts, times the rank."""


def add_adapters(encoder: TextEncoder, rank: int) -> None:
    """Train nothing of the upper layers but adapters of `rank` beside their matrices.

    Raises:
        RecsysError: peft is not installed.
    """
    try:
        from peft import LoraConfig
        from peft.tuners.lora import LoraModel
    except ModuleNotFoundError as error:
        raise RecsysError(
            f'text.lora_rank={rank}: {error}; `pip install "recsys-text[lora]"` brings what is missing, 0 does without'
        ) from error
    below = tuple(f"{index}." for index in range(encoder.split))
    names = [
        name
        for name, module in encoder.layers.named_modules()
        if isinstance(module, nn.Linear) and not name.startswith(below)
    ]
    LoraModel(encoder.layers, LoraConfig(r=rank, lora_alpha=SCALE * rank, target_modules=names), "lora")


def merge_adapters(encoder: TextEncoder) -> None:
    """Add the adapters to their matrices and remove them; an encoder without any stays as it is."""
    modules: list[tuple[str, Any]] = list(encoder.layers.named_modules())
    for name, module in modules:
        if hasattr(module, "get_base_layer"):
            module.merge()
            parent, _, leaf = name.rpartition(".")
            setattr(encoder.layers.get_submodule(parent), leaf, module.get_base_layer())
