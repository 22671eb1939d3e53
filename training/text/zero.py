"""A text head from the names of its classes alone: a text has the class whose name is most similar to it.

In: the encoder and what the classes are called. Out: the weights of a head.

Shapes: H width of a vector, C classes.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from recsys.config import Config
from recsys.errors import UsageError
from recsys.models.encoder import FrozenPrefix, encode_all, load_encoder, resolve_precision, tokenize
from recsys.text.bundle import TextModel
from serving.text.classes import KIND

SHARPNESS = 20.0
"""The logit of a similarity of 1; a temperature is chosen beside it where there are labelled texts."""


def class_words(text: str) -> dict[str, str]:
    """Return what each class is called, by its label, from `LABEL=WORDS,…`; a label alone is its own words.

    Raises:
        UsageError: there are fewer than two, one is empty, or two have one label.
    """
    pairs = [part.partition("=") for part in text.split(",")]
    words = {label.strip(): (called if mark else label).strip() for label, mark, called in pairs}
    if len(words) < 2 or len(words) != len(pairs) or not all(label and called for label, called in words.items()):
        raise UsageError(
            f"--zero-shot {text!r}: {len(words)} of {len(pairs)} classes differ or have words; write at least two, for example "
            "'negative=a bad review,positive=a good review'"
        )
    return words


def head_of_names(words: Mapping[str, str], config: Config) -> TextModel:
    """Return the text head of classes that are called `words` by label; its logits are similarities.

    Raises:
        RecsysError: the encoder cannot be loaded.
    """
    encoder, tokenizer = load_encoder(config.encoder.model_copy(update={"trainable_layers": 0}))
    classes = sorted(words)
    tokens = tokenize([words[label] for label in classes], tokenizer, config.text.max_tokens)
    precision = resolve_precision(config.encoder.precision, torch.device("cpu"))
    vectors = encode_all(encoder, FrozenPrefix(encoder, tokens, precision))  # [C, H]
    lengths = vectors.norm(dim=1, keepdim=True)
    head: dict[str, Tensor] = {
        "linear.weight": SHARPNESS * vectors / lengths / lengths.mean(),
        "linear.bias": torch.zeros(len(classes)),
    }
    about = {"classes": classes, "multi": False, "temperature": 1.0, "thresholds": [0.5] * len(classes)}
    return TextModel(KIND, encoder.eval(), tokenizer, head, about, config)
