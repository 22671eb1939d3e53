"""Keep a tiny bundle of this release, with the lists that it gives, so that later releases can show that they read it.

    python -m tests.keep_bundle tests/data/bundle-format-6

In: the folder to write. Out: one bundle for each kind of ranker, and `lists.json` with what they recommend.
"""

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lightgbm
import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer, BertTokenizer

from recsys.bundle import MANIFEST, read_config, seal
from recsys.models.rankers import LightGbmRanker, TorchRecRanker
from serving.loading import load_bundle
from serving.lookup import Lookup
from serving.recommender import RecommendOptions
from tests.worlds import tiny_bundle, words

KINDS = ("torchrec", "lightgbm")
REQUESTS: list[tuple[str | None, list[str] | None]] = [
    ("u0", None),
    ("u7", None),
    ("nobody", None),
    (None, ["i3", "i8"]),
]
LENGTH = 10


def keep(out: Path) -> None:
    """Write the bundles and their lists to the folder `out`."""
    for kind in KINDS:
        with TemporaryDirectory() as folder:
            bundle = tiny_bundle(Path(folder))
            _keep_used_words(bundle / "encoder")
            _change_ranker(bundle, kind)
            config = read_config(bundle)
            encoder = config.encoder.model_copy(update={"name": "tiny"})
            ranker = config.ranker.model_copy(update={"kind": kind})
            about = json.loads((bundle / MANIFEST).read_text(encoding="utf-8"))
            about = {name: about[name] for name in set(about) - {"format", "code_version", "files"}}
            seal(bundle, config.model_copy(update={"encoder": encoder, "ranker": ranker}), about)
            out.mkdir(parents=True, exist_ok=True)
            bundle.rename(out / kind)
    lists = json.dumps({kind: recommended(out / kind) for kind in KINDS}, indent=1)
    (out / "lists.json").write_text(lists + "\n", encoding="utf-8")


def recommended(bundle: Path) -> dict[str, Any]:
    """Return the item ids and scores of the lists that the bundle gives for `REQUESTS`."""
    lookup = Lookup(load_bundle(bundle))
    ranking = lookup.recommender.recommend(lookup.histories(REQUESTS), RecommendOptions(LENGTH))
    return {"items": lookup.item_ids(ranking.items), "scores": np.round(ranking.score, 6).tolist()}


def _keep_used_words(folder: Path) -> None:
    """Cut the encoder's vocabulary down to the words of the items: most of a tiny encoder is its vocabulary."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    used = sorted({*tokenizer.all_special_ids, *np.concatenate(tokenizer([*words(200), "brand 0 1 2"])["input_ids"])})
    vocabulary = {
        token: row for row, token in enumerate(tokenizer.convert_ids_to_tokens([int(token) for token in used]))
    }
    table = model.embeddings.word_embeddings
    table.weight = torch.nn.Parameter(table.weight.detach()[torch.tensor(used)])
    table.padding_idx = vocabulary[tokenizer.pad_token]
    model.config.vocab_size, model.config.pad_token_id = len(used), vocabulary[tokenizer.pad_token]
    model.save_pretrained(folder)
    BertTokenizer(vocab=vocabulary).save_pretrained(folder)


def _change_ranker(bundle: Path, kind: str) -> None:
    """Give the bundle a ranker of `kind` whose scores differ clearly between items."""
    ranker = TorchRecRanker.load(bundle)
    torch.manual_seed(0)
    for parameter in ranker.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    ranker.save(bundle)
    if kind == "lightgbm":
        (bundle / "ranker.safetensors").unlink()
        (bundle / "ranker.json").unlink()
        rng = np.random.default_rng(0)
        inputs = rng.normal(0, 1, (400, len(ranker.features) + len(ranker.sizes)))
        settings = {"num_leaves": 15, "learning_rate": 0.5, "verbosity": -1, "num_threads": 1, "seed": 0}
        labels = inputs @ rng.normal(0, 1, inputs.shape[1])
        trees = [lightgbm.train(settings, lightgbm.Dataset(inputs, labels), 20) for _ in range(2)]
        LightGbmRanker(trees, [(1.0, -1.0), (1.0, -2.0)]).save(bundle)


if __name__ == "__main__":
    keep(Path(sys.argv[1]))
