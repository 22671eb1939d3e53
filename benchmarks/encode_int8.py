"""Our int8 encoder against those that NNCF makes, and against fp32.

In: a dataset folder, and the published weights or the fine-tuned ones of a bundle. Out: what each encoder
costs to make, its speed and accuracy per length of text, and the ndcg@10 of its nearest neighbours.

    .venv/bin/python -m benchmarks.encode_int8 ../shared/data/amazon-industrial [--bundle FOLDER]

NNCF is not a dependency. Its rows are left out where it is not installed; this adds it without its
telemetry: `pip install --no-deps nncf==3.4.0 pydot==4.0.1 tabulate==0.10.0`.

Seconds are processor seconds of one thread, the fewest of some rounds in turn, so that other work on the
machine counts little. Cosines and overlaps are to the vectors in fp32.
"""

import argparse
import importlib.util
import logging
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.encode_speed import fastest
from features.data.dataset import Dataset, load_dataset
from features.histories import VALID, read_log
from features.tokens import item_texts
from recsys.config import Config
from recsys.metrics import ndcg, paired_difference, target_ranks
from recsys.models.encoder import (
    FrozenPrefix,
    TextEncoder,
    Tokens,
    encode_all,
    load_encoder,
    load_encoder_folder,
    tokenize,
)
from recsys.models.encoder_int8 import Int8Encoder, Unpadded, compile_graph, to_graph
from training.evaluation.baselines import FrozenEncoder, exclude

CALIBRATION_TEXTS = 300
"""Texts, none of them measured, from which `nncf.quantize` learns the ranges of activations."""

K = 10

Calibration = list[np.ndarray]
Encode = Callable[[Tokens], Tensor]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, help="dataset folder")
    parser.add_argument("--bundle", type=Path, help="folder of a bundle (default: the published weights)")
    parser.add_argument("--items", type=int, default=512, help="items to encode for speed and cosines (default 512)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, of which the fastest counts (default 3)")
    parser.add_argument("--tokens", type=int, nargs="+", default=[32, 64, 128], help="longest texts, in tokens")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # the tracer warns of shapes that are the same for every text
    dataset = load_dataset(options.dataset)
    encoder, tokenizer = load(options.bundle)
    rows = np.random.default_rng(0).permutation(dataset.items.height)
    sample, others = rows[: options.items], rows[options.items :][:CALIBRATION_TEXTS]
    texts = tokens_of(dataset, tokenizer, others, 64)
    calibration = [texts.padded(np.array([row]))[0].numpy() for row in range(len(texts))]
    print_conversions(encoder)
    print_costs(options.bundle, calibration)
    encoders = {name: make(encoder, calibration) for name, make in makers().items()}
    encode: dict[str, Encode] = {"fp32": partial(encode_fp32, encoder)}
    encode |= {name: made.encode for name, made in encoders.items()}
    samples = {length: tokens_of(dataset, tokenizer, sample, length) for length in options.tokens}
    print_speed(encode, samples, options.rounds)
    print_ndcg(encode, dataset, tokenizer)


def makers() -> dict[str, Callable[[TextEncoder, Calibration], Int8Encoder]]:
    """Return what makes each int8 encoder from an encoder and calibration ids, by name."""
    if importlib.util.find_spec("nncf") is None:
        print("nncf is not installed: its rows are left out")
        return {"ours": ours}
    return {"ours": ours, "nncf.compress_weights": nncf_weights, "nncf.quantize": nncf_static}


def ours(encoder: TextEncoder, _: Calibration) -> Int8Encoder:
    """Return the encoder as it serves."""
    return Int8Encoder(encoder)


class Quantised(Int8Encoder):
    """An encoder of a graph that was quantised elsewhere."""

    def __init__(self, graph: Any, width: int, group: int) -> None:
        self.width, self.compiled = width, compile_graph(graph, group)


def nncf_weights(encoder: TextEncoder, _: Calibration) -> Int8Encoder:
    """Return the encoder with weights quantised by NNCF and activations by OpenVINO, 96 of them with one scale."""
    import nncf

    nncf.set_log_level(logging.ERROR)
    graph = nncf.compress_weights(to_graph(Unpadded(encoder)), mode=nncf.CompressWeightsMode.INT8_SYM)
    return Quantised(graph, encoder.width, 96)


def nncf_static(encoder: TextEncoder, calibration: Calibration) -> Int8Encoder:
    """Return the encoder quantised by NNCF: SmoothQuant, and scales of activations that calibration sets for good."""
    import nncf

    nncf.set_log_level(logging.ERROR)
    graph = nncf.quantize(
        to_graph(Unpadded(encoder)),
        nncf.Dataset(calibration),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(calibration),
    )
    return Quantised(graph, encoder.width, 0)


def print_conversions(encoder: TextEncoder) -> None:
    """Print, per way to make OpenVINO's graph, its seconds and how many warnings of another thread get through."""
    import openvino

    example = torch.ones(2, 8, dtype=torch.long)
    conversions: dict[str, Callable[[], object]] = {
        "to_graph": lambda: to_graph(Unpadded(encoder)),
        "openvino.convert_model": lambda: openvino.convert_model(Unpadded(encoder), example_input=example),
    }
    seconds = fastest(conversions, rounds=3)
    print(f"{'conversion':24}{'s':>7}{'warnings arrived':>18}")
    for name, convert in conversions.items():
        arrived, sent = warnings_during(convert)
        print(f"{name:24}{seconds[name]:7.2f}{f'{arrived} of {sent}':>18}", flush=True)


def warnings_during(work: Callable[[], object]) -> tuple[int, int]:
    """Return how many warnings arrive while `work` runs, and how many another thread sends every 10 ms."""
    arrived, done, sent = Counter(), threading.Event(), 0
    logger = logging.getLogger("benchmarks.server")
    logger.addHandler(arrived)
    logger.propagate = False  # the level of the root logger still holds

    def run() -> None:
        work()
        done.set()

    worker = threading.Thread(target=run)
    worker.start()
    while not done.wait(0.01):
        logger.warning("a warning of the server")
        sent += 1
    worker.join()
    logger.removeHandler(arrived)
    return arrived.count, sent


class Counter(logging.Handler):
    """Counts the records that reach it."""

    count = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Count one."""
        self.count += 1


def print_costs(bundle: Path | None, calibration: Calibration) -> None:
    """Print the seconds and the memory that making each encoder takes, each in a process of its own."""
    print(f"\n{'encoder':24}{'s to make':>10}{'MiB':>6}")
    for name in makers():
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            seconds, mib = process.submit(cost, name, bundle, calibration).result()
        print(f"{name:24}{seconds:10.1f}{mib:6.0f}", flush=True)


def cost(name: str, bundle: Path | None, calibration: Calibration) -> tuple[float, float]:
    """Return the processor seconds and the growth of peak memory in MiB, imports included."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    encoder, _ = load(bundle)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from what is resident now
    start, before = time.process_time(), peak_mib()
    makers()[name](encoder, calibration)
    return time.process_time() - start, peak_mib() - before


def peak_mib() -> float:
    """Return the peak resident memory of this process in MiB (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def print_speed(encode: dict[str, Encode], samples: dict[int, Tokens], rounds: int) -> None:
    """Print, per length of text, items/s, cosines, and the share of the 10 nearest neighbours that are those of fp32."""
    print(
        f"\n{'tokens':>6}  {'encoder':24}{'items/s':>9}{'ratio':>7}{'mean cosine':>13}{'lowest':>9}{'overlap@10':>12}"
    )
    for length, tokens in samples.items():
        seconds = fastest({name: partial(run, tokens) for name, run in encode.items()}, rounds)
        reference = encode["fp32"](tokens)
        for name, run in encode.items():
            vectors = run(tokens)
            cosine = F.cosine_similarity(vectors, reference)
            speed = f"{len(tokens) / seconds[name]:9.0f}{seconds['fp32'] / seconds[name]:7.2f}"
            accuracy = f"{cosine.mean():13.5f}{cosine.min():9.5f}{overlap(vectors, reference):12.3f}"
            print(f"{length:6}  {name:24}{speed}{accuracy}", flush=True)


def overlap(vectors: Tensor, reference: Tensor) -> float:
    """Return the mean share of each item's K nearest neighbours in `vectors` `[N, H]` that it has in `reference` too."""
    pairs = zip(neighbours(vectors), neighbours(reference), strict=True)
    return float(np.mean([np.isin(own, true).mean() for own, true in pairs]))


def neighbours(vectors: Tensor) -> np.ndarray:
    """Return the K nearest other items `[N, K]` of each item by cosine."""
    unit = F.normalize(vectors, dim=-1)
    return (unit @ unit.T).fill_diagonal_(-1).topk(K).indices.numpy()


def print_ndcg(encode: dict[str, Encode], dataset: Dataset, tokenizer: Any) -> None:
    """Print ndcg@10 on `valid` of the items most similar to the history, and its difference to fp32."""
    config = Config()
    requests = (log := read_log(dataset, config)).requests(VALID)
    histories = log.histories(requests.users, requests.times, config.interest.max_history).items
    tokens = tokens_of(dataset, tokenizer, np.arange(dataset.items.height), config.encoder.max_tokens)
    gains = {}
    print(f"\n{'encoder':24}{'ndcg@10':>9}   difference to fp32, {len(requests):,} requests")
    for name, run in encode.items():
        unit = F.normalize(run(tokens), dim=-1).numpy()
        scores = exclude(FrozenEncoder(unit).scores(histories), histories)
        gains[name] = ndcg(target_ranks(scores, requests.targets, requests.offsets), requests.offsets, K)
        off = paired_difference(gains[name], gains["fp32"], requests.users)
        print(f"{name:24}{gains[name].mean():9.4f}   {off.value:+.4f} [{off.low:+.4f}, {off.high:+.4f}]", flush=True)


def load(bundle: Path | None) -> tuple[TextEncoder, Any]:
    """Return the encoder and the tokenizer of `bundle`, or the published ones."""
    return load_encoder_folder(str(bundle / "encoder"), 0) if bundle else load_encoder(Config().encoder)


def tokens_of(dataset: Dataset, tokenizer: Any, rows: np.ndarray, max_tokens: int) -> Tokens:
    """Return the tokens of the items `rows`, each text cut to `max_tokens`."""
    return tokenize(item_texts(dataset.items[rows], tokenizer.sep_token, max_tokens), tokenizer, max_tokens)


def encode_fp32(encoder: TextEncoder, tokens: Tokens) -> Tensor:
    """Return the pooled vectors `[N, H]` in fp32."""
    return encode_all(encoder, FrozenPrefix(encoder, tokens, "fp32", limit_bytes=0))


if __name__ == "__main__":
    main()
