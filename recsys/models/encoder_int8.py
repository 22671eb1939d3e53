"""The text encoder in 8-bit integers, for CPUs that multiply these natively (AVX-512 VNNI).

In: a `TextEncoder` with its present weights. Out: its mean-pooled vectors `[N, H]`, whose cosine to
those in fp32 is about 0.999.

Weights are quantised once, with one scale per output channel. OpenVINO quantises the input of a layer
as it arrives, with one scale per `GROUP` values of a token. Channels whose inputs are large for any
text would take the bits of all others, so half of their magnitude moves into the weights first
(SmoothQuant, Xiao et al. 2023). Each batch holds texts of one length: without padding, a text has the
same vector alone and among others.

Why this is not left to NNCF: docs/decisions/008-int8-encoder.md.

Shapes: N texts, U of them at a time, T tokens, H hidden width of the encoder, O × I a layer's outputs × inputs.
"""

import hashlib
import importlib.util
import logging
import sys
import warnings
from functools import cache
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, WeakValueDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from recsys.errors import first_line
from recsys.models.encoder import TextEncoder, Tokens

if TYPE_CHECKING:
    import openvino

log = logging.getLogger(__name__)

GROUP = 192
"""Activations of a token that share a scale: fewer are more accurate, more are faster."""

TOKENS_PER_BATCH = 512
"""Tokens per forward pass: few enough that intermediate results stay in the cache of the core."""


class Int8Encoder:
    """An encoder that multiplies weights and activations as 8-bit integers; safe to share between threads."""

    def __init__(self, encoder: TextEncoder) -> None:
        unpadded = Unpadded(encoder)
        graph = to_graph(unpadded)
        _quantise_weights(graph, _input_peaks(unpadded))
        self.width = encoder.width
        self.compiled = compile_graph(graph, GROUP)

    def encode(self, tokens: Tokens) -> Tensor:
        """Return the pooled vectors `[N, H]` (fp32) of N tokenised texts."""
        pooled = np.empty((len(tokens), self.width), np.float32)
        request = self.compiled.create_infer_request()
        for length in np.unique(tokens.lengths):
            same_length = np.flatnonzero(tokens.lengths == length)
            for rows in np.array_split(same_length, max(1, len(same_length) * length // TOKENS_PER_BATCH)):
                ids, _ = tokens.padded(rows)  # [U, T]
                pooled[rows] = request.infer([ids.numpy()])[0]
        return torch.from_numpy(pooled)


def native(encoder: TextEncoder) -> bool:
    """Return whether int8 is faster for `encoder`: it is on a CPU with AVX-512 VNNI, and OpenVINO is installed."""
    on_cpu = next(encoder.parameters()).device.type == "cpu"
    return on_cpu and torch.cpu._is_vnni_supported() and importlib.util.find_spec("openvino") is not None


def int8_encoder(encoder: TextEncoder, precision: str) -> Int8Encoder | None:
    """Return `encoder` in int8 where `precision` allows it, or None.

    `precision` is `encoder.precision` of the configuration; only `auto` allows int8. None also where
    int8 would not be faster, and where OpenVINO cannot read the model. The int8 encoder is made at
    the first call, kept, and made anew after the weights have changed; encoders with the same weights share it.
    """
    if precision != "auto" or not native(encoder):
        return None
    version = sum(parameter._version for parameter in encoder.parameters())
    cached = _cache.get(encoder)
    if cached is None or cached[0] != version:
        cached = _cache[encoder] = version, _int8_or_none(encoder)
    return cached[1]


_cache: WeakKeyDictionary[TextEncoder, tuple[int, Int8Encoder | None]] = WeakKeyDictionary()
"""The int8 encoder of each encoder, and the version of the weights that it was made from."""
_shared: WeakValueDictionary[bytes, Int8Encoder] = WeakValueDictionary()
"""The int8 encoders in use by a digest of the model: a server that loads a new version of a model often has its encoder already."""


def _digest(encoder: TextEncoder) -> bytes:
    digest = hashlib.sha256(repr(encoder).encode())
    for name, weights in encoder.state_dict().items():
        digest.update(name.encode())
        digest.update(weights.detach().contiguous().flatten().view(torch.uint8).numpy())
    return digest.digest()


def _int8_or_none(encoder: TextEncoder) -> Int8Encoder | None:
    digest = _digest(encoder)
    try:
        return _shared.get(digest) or _shared.setdefault(digest, Int8Encoder(encoder))
    except Exception as error:  # OpenVINO raises many kinds; bf16 or fp32 serves as well
        log.warning("texts are not encoded in int8: %s", first_line(error))
        return None


class Unpadded(nn.Module):
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


@torch.no_grad()
def _input_peaks(encoder: Unpadded) -> dict[str, NDArray[np.float32]]:
    """Return, per linear layer, the largest magnitude `[I]` of each input channel over texts of random tokens."""
    peaks: dict[str, NDArray[np.float32]] = {}

    def watch(name: str, layer: nn.Linear) -> RemovableHandle:
        def keep(_: nn.Module, inputs: tuple[Tensor]) -> None:
            peaks[name] = inputs[0].abs().flatten(0, -2).amax(0).float().numpy()

        return layer.register_forward_pre_hook(keep)

    hooks = [watch(name, layer) for name, layer in encoder.named_modules() if isinstance(layer, nn.Linear)]
    vocabulary = encoder.embeddings.word_embeddings.num_embeddings  # type: ignore[union-attr]
    encoder(torch.randint(vocabulary, (16, 32), generator=torch.Generator().manual_seed(0)))  # type: ignore[arg-type]
    for hook in hooks:
        hook.remove()
    return peaks


def to_graph(encoder: Unpadded) -> "openvino.Model":
    """Return `encoder` as OpenVINO's graph from ids `[U, T]` to vectors `[U, H]`.

    `openvino.convert_model` makes the same graph, but sets the root logger to ERROR meanwhile, and for
    good when it fails: a server would lose its warnings.
    """
    _silence_telemetry()
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    example = (torch.ones(2, 8, dtype=torch.long),)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer warns of shapes that are the same for every text
        traced = torch.jit.trace(encoder, example, check_trace=False)
        decoder = TorchScriptPythonDecoder(traced, example_input=example)
    frontend = FrontEndManager().load_by_framework("pytorch")
    return frontend.convert(frontend.load(decoder))


def compile_graph(graph: "openvino.Model", group: int) -> "openvino.CompiledModel":
    """Return `graph` ready for this CPU; `group` activations share a scale, where weights are int8 and activations are not."""
    return _core().compile_model(
        graph,
        "CPU",
        {
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": str(group),
            "INFERENCE_PRECISION_HINT": "f32",  # in bf16 a text's vector depends on its batch
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,
        },
    )


@cache
def _core() -> "openvino.Core":
    """Return the one core of this process, which is never dropped.

    A core's CPU plugin gives the thread that made it an alternative stack for signals, and frees the stack with the last of
    its models, in whichever thread that happens: the next signal would be a segmentation fault.
    """
    _silence_telemetry()
    import openvino

    return openvino.Core()


def _silence_telemetry() -> None:
    """Hide the package through which OpenVINO reports every import to its makers."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]


def _quantise_weights(graph: "openvino.Model", peaks: dict[str, NDArray[np.float32]]) -> None:
    """Replace the weights `[O, I]` of every layer of `graph` that `peaks` names by 8-bit integers and a scale `[O, 1]`.

    `peaks` are those of `_input_peaks`; inputs are divided by a factor per channel and weights multiplied by it.
    """
    from openvino import opset13 as op

    for product in graph.get_ordered_ops():
        layer = product.get_friendly_name().split("/")[0].removeprefix("__module.")
        if product.get_type_name() != "MatMul" or layer not in peaks:
            continue
        weights = product.input_value(1).get_node().get_data()
        factor = np.sqrt(np.maximum(peaks[layer], 1e-6) / np.maximum(np.abs(weights).max(0), 1e-6))  # [I]
        weights = weights * factor
        scale = np.maximum(np.abs(weights).max(1, keepdims=True), 1e-12) / 127
        integers = op.convert(op.constant(np.round(weights / scale).astype(np.int8)), "f32")
        product.input(0).replace_source_output(op.multiply(product.input_value(0), op.constant(1 / factor)).output(0))
        product.input(1).replace_source_output(op.multiply(integers, op.constant(scale)).output(0))
