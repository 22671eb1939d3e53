"""The text vectors of the catalogue after a fit, without encoding it a second time where that can be avoided.

In: a fit and its text encoder. Out: pooled vectors `[N, H]`, from which item vectors follow by a small projection.

A new item is encoded by serving (`recsys.models.text_vectors`), and an old item with the same text must get the same
vector. Training on a CPU computes exactly serving's vectors, unless serving encodes in int8 there: then the catalogue
is encoded once more, in int8. Vectors of a GPU are kept as they are: whoever serves them encodes on another device
anyway, and rounds in its own way. `refit` leaves the encoder as it is, so one call serves both fits.

Shapes: N catalogue, H width of the text encoder.
"""

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from recsys.arrays import Floats
from recsys.models.encoder import TextEncoder
from recsys.models.encoder_int8 import int8_encoder
from training.interest.ray_fit import InterestFit
from training.interest.trainer import load_text_vectors


def catalogue_text_vectors(
    fit: InterestFit, encoder: TextEncoder, precision: str, encode: Callable[[], Tensor]
) -> Floats:
    """Return the text vectors `[N, H]` of the catalogue by the `encoder` of `fit`, as they are served.

    `precision` is that of the configuration, and `encode` encodes the catalogue by `encoder` in it.
    """
    if fit.device == "cpu" and int8_encoder(encoder, precision):
        vectors: Floats = encode().numpy()
        return vectors
    return load_text_vectors(Path(fit.checkpoint))
