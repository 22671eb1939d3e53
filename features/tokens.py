"""Tokenised item texts, cached under the hash of their content.

In: the catalogue, a tokenizer. Out: `Tokens`; a second call with the same texts reads the cache.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recsys.atomic import atomic_file
from recsys.config import EncoderConfig
from recsys.models.encoder import Tokens, tokenize


def item_texts(items: pl.DataFrame, separator: str, max_tokens: int) -> list[str]:
    """Return `title [SEP] tags brand category [SEP] description` of every row of `items`.

    Descriptions are cut to 16 characters per token first; `max_tokens` tokens do not reach further.
    """
    middle = pl.concat_str(pl.col("tags").list.join(" "), "brand", "category", separator=" ", ignore_nulls=True)
    description = pl.col("description").str.slice(0, 16 * max_tokens)
    parts = [pl.col("title"), middle.str.strip_chars(), description.str.strip_chars()]
    kept = [pl.when(part != "").then(part) for part in parts]
    return items.select(pl.concat_str(kept, separator=f" {separator} ", ignore_nulls=True)).to_series().to_list()


def item_tokens(items: pl.DataFrame, tokenizer: Any, config: EncoderConfig, cache: Path) -> Tokens:
    """Return the tokens of every item, from the folder `cache` if the same texts were tokenised before."""
    texts = item_texts(items, tokenizer.sep_token, config.max_tokens)
    digest = hashlib.sha256(f"{config.name}\x1f{config.max_tokens}\x1f{len(tokenizer)}".encode())
    for text in texts:
        digest.update(text.encode() + b"\x1e")
    path = cache / f"{digest.hexdigest()[:32]}.npz"
    if path.exists():
        with np.load(path, allow_pickle=False) as arrays:
            return Tokens(arrays["ids"], arrays["offsets"])
    tokens = tokenize(texts, tokenizer, config.max_tokens)
    cache.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary:
        np.savez(temporary, allow_pickle=False, ids=tokens.ids, offsets=tokens.offsets)
    return tokens
