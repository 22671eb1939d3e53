"""The text vectors of items, as serving computes them.

In: an encoder and tokenised texts. Out: pooled vectors `[N, H]` in fp32.

With `precision` `auto` a CPU with AVX-512 VNNI encodes in int8; every other encoder runs in the precision that
`resolve_precision` names.

Shapes: N texts, H width of the text encoder.
"""

import torch
from torch import Tensor

from recsys.models.encoder import FrozenPrefix, TextEncoder, Tokens, encode_all, resolve_precision
from recsys.models.encoder_int8 import int8_encoder


@torch.no_grad()
def text_vectors(encoder: TextEncoder, tokens: Tokens, precision: str) -> Tensor:
    """Return the pooled vectors `[N, H]` of `tokens`; `precision` is that of the configuration."""
    if fast := int8_encoder(encoder, precision):
        return fast.encode(tokens)
    resolved = resolve_precision(precision, next(encoder.parameters()).device)
    return encode_all(encoder, FrozenPrefix(encoder, tokens, resolved, limit_bytes=0))
