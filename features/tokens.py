"""Tokenised item texts, kept by the hash of their content.

In: the catalogue, a tokenizer. Out: `Tokens`; a second call with the same texts reads them back.
"""

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recsys.config import EncoderConfig
from recsys.encoder import Tokens, item_texts, tokenize


def item_tokens(items: pl.DataFrame, tokenizer: Any, config: EncoderConfig, cache: Path) -> Tokens:
    """Return the tokens of every item, from `cache` where these very texts were tokenised before."""
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
    temporary = path.with_name(f"{path.stem}.{os.getpid()}.tmp.npz")
    np.savez(temporary, allow_pickle=False, ids=tokens.ids, offsets=tokens.offsets)
    os.replace(temporary, path)
    return tokens
