"""The text encoder in 8-bit integers, for CPUs that multiply these natively (AVX-512 VNNI).

In: a `TextEncoder` with the weights that it has now. Out: its mean-pooled vectors `[N, H]`, with a
cosine of some 0.999 to those in fp32.

Weights are rounded once, each output channel by its own scale. OpenVINO rounds what enters a layer as
it comes, `GROUP` values of one token by their own scale, so nothing has to be calibrated. Texts are
encoded with others of their very length: without padding a text gets the same vector alone and
among others.

Shapes: N texts, U of them at a time, T tokens, H hidden width of the encoder, O × I a layer's outputs × inputs.
"""

import importlib.util
import logging
import sys
import warnings
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from recsys.models.encoder import TextEncoder, Tokens

if TYPE_CHECKING:
    import openvino

log = logging.getLogger(__name__)

GROUP = 96
"""Activations of a token that share a scale: fewer are more exact, more are faster."""

TOKENS_PER_BATCH = 1024
"""Tokens of one forward pass: few enough that what it computes stays near the core."""


class Int8Encoder:
    """An encoder whose large matrix products are of 8-bit integers; threads may share it."""

    def __init__(self, encoder: TextEncoder) -> None:
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # it would report every import
        import openvino

        model = _converted(encoder)
        _round_weights(model)
        self.width = encoder.width
        self.compiled = openvino.Core().compile_model(
            model,
            "CPU",
            {
                "DYNAMIC_QUANTIZATION_GROUP_SIZE": str(GROUP),
                "INFERENCE_PRECISION_HINT": "bf16" if torch.cpu._is_avx512_bf16_supported() else "f32",
                "INFERENCE_NUM_THREADS": torch.get_num_threads(),
                "NUM_STREAMS": 1,
                "ENABLE_CPU_PINNING": False,
            },
        )

    def encode(self, tokens: Tokens) -> Tensor:
        """Return the pooled vectors `[N, H]` (fp32) of N tokenised texts."""
        pooled = np.empty((len(tokens), self.width), np.float32)
        request = self.compiled.create_infer_request()
        for length in np.unique(tokens.lengths):
            alike = np.flatnonzero(tokens.lengths == length)
            for rows in np.array_split(alike, max(1, len(alike) * length // TOKENS_PER_BATCH)):
                ids, _ = tokens.padded(rows)  # [U, T]
                pooled[rows] = request.infer([ids.numpy()])[0]
        return torch.from_numpy(pooled)


def native(encoder: TextEncoder) -> bool:
    """Whether 8-bit integers are faster for `encoder` where it is now: on a CPU with AVX-512 VNNI, with OpenVINO."""
    on_cpu = next(encoder.parameters()).device.type == "cpu"
    return on_cpu and torch.cpu._is_vnni_supported() and importlib.util.find_spec("openvino") is not None


def int8_encoder(encoder: TextEncoder) -> Int8Encoder | None:
    """Return `encoder` in 8-bit integers, made at the first call and anew when its weights have changed.

    None where that would not be faster, and where OpenVINO cannot read the model.
    """
    if not native(encoder):
        return None
    version = sum(parameter._version for parameter in encoder.parameters())
    known = _made.get(encoder)
    if known is None or known[0] != version:
        known = _made[encoder] = version, _made_or_none(encoder)
    return known[1]


_made: WeakKeyDictionary[TextEncoder, tuple[int, Int8Encoder | None]] = WeakKeyDictionary()
"""What was made of each encoder, and the version of its weights at that time."""


def _made_or_none(encoder: TextEncoder) -> Int8Encoder | None:
    try:
        return Int8Encoder(encoder)
    except Exception as error:  # of many kinds; the encoder as it is serves as well
        log.warning("texts are not encoded in int8: %s", (str(error).splitlines() or [repr(error)])[0])
        return None


class _Unpadded(nn.Module):
    """The encoder for texts of one length, which need no mask."""

    def __init__(self, encoder: TextEncoder) -> None:
        super().__init__()
        self.embeddings, self.layers = encoder.model.embeddings, encoder.layers

    def forward(self, ids: Tensor) -> Tensor:
        """Return the pooled vectors `[U, H]` of ids `[U, T]`."""
        hidden: Tensor = self.embeddings(input_ids=ids)  # type: ignore[operator]
        for layer in self.layers:
            hidden = layer(hidden)  # [U, T, H]
        return hidden.mean(1)


def _converted(encoder: TextEncoder) -> "openvino.Model":
    """Return `encoder` as OpenVINO's graph from ids `[U, T]` to vectors `[U, H]`."""
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    example = (torch.ones(2, 8, dtype=torch.long),)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer's, on shapes that are the same for every text
        traced = torch.jit.trace(_Unpadded(encoder), example, check_trace=False)
        decoder = TorchScriptPythonDecoder(traced, example_input=example)
    frontend = FrontEndManager().load_by_framework("pytorch")
    return frontend.convert(frontend.load(decoder))


def _round_weights(model: "openvino.Model") -> None:
    """Replace the weights `[O, I]` of every layer of `model` by 8-bit integers and a scale `[O, 1]`."""
    from openvino import opset13 as op

    for product in model.get_ordered_ops():
        weights = product.input_value(1).get_node() if product.get_type_name() == "MatMul" else None
        if weights is None or weights.get_type_name() != "Constant":
            continue
        values = weights.get_data()
        scale = np.maximum(np.abs(values).max(1, keepdims=True), 1e-12) / 127
        rounded = op.convert(op.constant(np.round(values / scale).astype(np.int8)), "f32")
        product.input(1).replace_source_output(op.multiply(rounded, op.constant(scale)).output(0))
