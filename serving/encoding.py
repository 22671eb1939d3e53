"""From the texts of items to what the models make of them: interest vectors and taste vectors.

In: items, a model and its tokenizer. Out: `EncodedItems`. The catalogue at training, new and changed items in serving and
typed sentences all go this way, so that equal texts have equal vectors.

Shapes: N items of a catalogue, n items, M distinct segments, H width of the text encoder, D of item vectors, A of taste
vectors.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor
from torch.nn import functional

from features.segments import SEGMENT_TOKENS, cut
from features.tokens import item_texts
from recsys.arrays import Floats, Ints
from recsys.config import Config
from recsys.models.encoder import Tokens, tokenize
from recsys.models.interest import InterestModel
from recsys.models.taste import SegmentVectors, TasteModel
from recsys.models.text_vectors import text_vectors

TASTE_BLOCK = 4096
"""Items whose taste vectors are computed at once."""


@dataclass(frozen=True)
class EncodedItems:
    """What the models make of n items."""

    vectors: Floats
    """`[n, D]` unit vectors of the interest model."""
    tastes: Floats
    """`[n, A]` unit taste vectors; `[n, 0]` without a taste model."""

    @classmethod
    def none(cls) -> "EncodedItems":
        """Return what stands for no items."""
        return cls(np.empty((0, 0), np.float32), np.empty((0, 0), np.float32))

    def save(self, path: Path) -> None:
        """Write both arrays to `path` (`.npz`)."""
        np.savez(path, allow_pickle=False, vectors=self.vectors, tastes=self.tastes)

    @classmethod
    def load(cls, path: Path) -> "EncodedItems":
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(arrays["vectors"], arrays["tastes"])


def encode_items(model: InterestModel, tokenizer: Any, items: pl.DataFrame, config: Config, rows: Ints) -> EncodedItems:
    """Return what the models make of `items`, which have the `rows` `[n]` in the catalogue."""
    texts = item_texts(items, tokenizer.sep_token, config.encoder.max_tokens)
    tokens = tokenize(texts, tokenizer, config.encoder.max_tokens)
    whole = text_vectors(model.encoder, tokens, config.encoder.precision)
    return EncodedItems(project(model, whole, rows), encode_tastes(model, tokenizer, items, config, whole))


def encode_tastes(model: InterestModel, tokenizer: Any, items: pl.DataFrame, config: Config, whole: Tensor) -> Floats:
    """Return the taste vectors `[n, A]` of `items` with the text vectors `whole` `[n, H]`."""
    if model.taste is None:
        return np.empty((items.height, 0), np.float32)
    encode = partial(text_vectors, model.encoder, precision=config.encoder.precision)
    texts = segment_vectors(encode, tokenizer, items, whole)
    return taste_vectors(model.taste, texts)


def segment_vectors(
    encode: Callable[[Tokens], Tensor], tokenizer: Any, items: pl.DataFrame, whole: Tensor
) -> SegmentVectors:
    """Return the segments of `items` as vectors, which `encode` makes of texts; `whole` `[N, H]` are those of the whole ones."""
    segments = cut(items)
    vectors = encode(tokenize(segments.texts, tokenizer, SEGMENT_TOKENS))  # [M, H]
    both = functional.normalize(torch.cat([vectors.cpu(), whole.cpu()]), dim=-1).numpy()
    return SegmentVectors(both, segments.rows, segments.kinds, segments.offsets)


@torch.no_grad()
def taste_vectors(taste: TasteModel, texts: SegmentVectors) -> Floats:
    """Return the unit taste vectors `[N, A]` of all items of `texts`, some thousand at a time."""
    starts = range(0, max(1, len(texts.offsets) - 1), TASTE_BLOCK)
    rows = (np.arange(start, min(start + TASTE_BLOCK, len(texts.offsets) - 1)) for start in starts)
    return np.concatenate([taste.item_vectors(texts, part).numpy() for part in rows])


@torch.no_grad()
def project(model: InterestModel, texts: Tensor, rows: Ints) -> Floats:
    """Return the unit vectors `[n, D]` of the `rows` `[n]` of the catalogue from their text vectors `[n, H]`."""
    device = next(model.parameters()).device
    return model.eval().item_vectors(texts.to(device), torch.from_numpy(rows).to(device)).cpu().numpy()
