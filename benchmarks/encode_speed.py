"""Speed and accuracy of encoding new items, against sentence-transformers.

In: a dataset folder, or nothing for a simulated shop. Out: a table per length of text.

    .venv/bin/python -m benchmarks.encode_speed [--dataset ../shared/data/amazon-industrial]

All start from the same texts and weights. sentence-transformers runs with its defaults: fp32, 32 texts a
batch. Seconds are processor seconds, the fewest of some rounds in turn, so that other work on the machine
counts little. Cosines are to the vectors of sentence-transformers.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import polars as pl
import torch
from sentence_transformers import SentenceTransformer
from torch.nn import functional as F

from features.data.dataset import load_dataset
from features.simulator.shop import simulate
from features.tokens import item_texts
from recsys.arrays import Floats
from recsys.config import Config
from recsys.models.encoder import load_encoder
from recsys.models.interest import InterestModel
from serving.encoding import encode_items

REFERENCE = "sentence-transformers"
PRECISIONS = ("fp32", "bf16", "auto")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path, help="dataset folder (default: a simulated shop)")
    parser.add_argument("--items", type=int, default=1024, help="items to encode (default 1024)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, of which the fastest counts (default 3)")
    parser.add_argument("--threads", type=int, default=1, help="threads of each encoder (default 1)")
    parser.add_argument("--tokens", type=int, nargs="+", default=[32, 64, 128], help="longest texts, in tokens")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    items = sample_items(options.dataset, options.items)
    print(f"{'tokens':>6}  {'encoder':24}{'items/s':>9}{'ratio':>7}{'mean cosine':>13}{'lowest':>9}")
    for max_tokens in options.tokens:
        encoders = make_encoders(items, max_tokens)
        reference = torch.from_numpy(encoders[REFERENCE]())
        cosines = {
            name: F.cosine_similarity(torch.from_numpy(encode()), reference) for name, encode in encoders.items()
        }
        seconds = fastest(encoders, options.rounds)
        for name, cosine in cosines.items():
            speed, ratio = items.height / seconds[name], seconds[REFERENCE] / seconds[name]
            accuracy = f"{cosine.mean():13.5f}{cosine.min():9.5f}"
            print(f"{max_tokens:6}  {name:24}{speed:9.0f}{ratio:7.2f}{accuracy}", flush=True)


def sample_items(dataset: Path | None, count: int) -> pl.DataFrame:
    """Return `count` random items of `dataset`, or those of a simulated shop."""
    if dataset:
        items = load_dataset(dataset).items
        return items[np.random.default_rng(0).permutation(items.height)[:count]]
    with tempfile.TemporaryDirectory() as folder:
        simulate(Path(folder) / "shop", users=50, items=count)
        return load_dataset(Path(folder) / "shop").items


def make_encoders(items: pl.DataFrame, max_tokens: int) -> dict[str, Callable[[], Floats]]:
    """Return functions that encode `items` `[N]` into vectors `[N, D]`, by name."""
    config = Config.model_validate({"encoder": {"max_tokens": max_tokens}})
    encoder, tokenizer = load_encoder(config.encoder)
    model = InterestModel(encoder, config.interest, None).eval()
    sentences = SentenceTransformer(encoder.model.config._name_or_path, device="cpu")  # type: ignore[union-attr]
    sentences.max_seq_length = max_tokens
    texts = item_texts(items, tokenizer.sep_token, max_tokens)
    rows = np.arange(items.height)

    def ours(precision: str) -> Callable[[], Floats]:
        changed = config.model_copy(update={"encoder": config.encoder.model_copy(update={"precision": precision})})
        return lambda: encode_items(model, tokenizer, items, changed, rows).vectors

    encoders = {f"ours, {precision}": ours(precision) for precision in PRECISIONS}
    return {REFERENCE: lambda: sentences.encode(texts), **encoders}


def fastest(encoders: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the fewest processor seconds that each of `encoders` took, in `rounds` that take turns."""
    seconds = dict.fromkeys(encoders, float("inf"))
    for _ in range(rounds):
        for name, encode in encoders.items():
            start = time.process_time()
            encode()
            seconds[name] = min(seconds[name], time.process_time() - start)
    return seconds


if __name__ == "__main__":
    main()
