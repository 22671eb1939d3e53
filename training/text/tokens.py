"""From tagged texts to a text head that tells entities: `recsys text train tokens`.

In: `TaggedTexts` to fit and to choose on. Out: a `TextModel`, and what it gets right on others, by seqeval.

Names that a head has to find are mostly new to it. So while it is fitted, entities change places with others of their type, words are hidden, and
some texts lose their capitals or consist of them.

Shapes: B texts, W words, C tags.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from seqeval.metrics import classification_report
from torch import Tensor
from torch.nn import functional as F

from features.texts.tagged import Entity, TaggedTexts, entities, tags_of
from recsys.arrays import Ints
from recsys.config import Config
from recsys.metrics import Interval
from recsys.models.encoder import resolve_precision
from recsys.models.text_heads import TokenHead
from recsys.progress import Update
from recsys.text.bundle import TextModel
from recsys.text.words import word_batch
from serving.text.tokens import KIND, Tagger, allowed, bio
from training.text.crf import crf_loss
from training.text.fit import fit, load_trainable
from training.text.report import Counts, TextReport, resampled

OUTSIDE_STEPS = np.arange(0, 3.1, 0.25)
"""What may be taken from the log-probability of `O`; the best on `valid` is."""
SWAPPED = 0.3
"""Share of entities that change places with others of their type."""
CASELESS = 0.05
"""Share of texts in small letters, and a third as many in capitals."""
TEXT_BANDS = ((1, 9), (10, 19), (20, 39), (40, 10**9))
ENTITY_BANDS = ((1, 1), (2, 2), (3, 10**9))
"""Numbers of words for which figures are given."""


def fit_tokens(train: TaggedTexts, valid: TaggedTexts, config: Config, seed: int, update: Update) -> TextModel:
    """Return a text head fitted on `train`; its epochs, and how readily it finds entities, are chosen on `valid`.

    Raises:
        RecsysError: the encoder cannot be loaded.
    """
    torch.manual_seed(seed)
    encoder, tokenizer = load_trainable(config)
    tags = bio(train.labels)
    network = TokenHead(encoder, len(tags), config.text.dropout)
    loss_of = _loss(network, train, tags, tokenizer, config, np.random.default_rng(seed))

    def model(outside: float = 0.0) -> TextModel:
        head = {name: value for name, value in network.state_dict().items() if not name.startswith("encoder.")}
        about = {"tags": tags, "trained_layers": len(encoder.layers) - encoder.split, "outside": outside}
        return TextModel(KIND, encoder, tokenizer, head, about, config)

    def valid_of() -> float:
        return max(_by_outside(Tagger(model()), valid).values())

    lengths = np.array([len(words) for words in train.words])
    precision = resolve_precision(config.encoder.precision, torch.device("cpu"))
    fit(network, loss_of, valid_of, lengths, config.text, seed=seed, precision=precision, update=update)
    figures = _by_outside(Tagger(model()), valid)
    return model(max(figures, key=lambda outside: figures[outside]))


def _loss(
    network: TokenHead, train: TaggedTexts, tags: list[str], tokenizer: Any, config: Config, rng: np.random.Generator
) -> Callable[[Ints], Tensor]:
    """Return the loss of some texts of `train`: that of a conditional random field, or cross-entropy, in which words of entities weigh `text.entity_weight`."""
    weights = torch.full((len(tags),), config.text.entity_weight)
    weights[0] = 1
    steps, first = map(torch.from_numpy, allowed(tags))
    mentions = _mentions(train)

    def loss_of(rows: Ints) -> Tensor:
        texts = [changed(train.words[row], train.tags[row], mentions, rng) for row in rows]
        batch = word_batch([words for words, _ in texts], tokenizer, config.text.max_tokens)
        hidden = torch.from_numpy(rng.random(batch.ids.shape) < config.text.word_dropout)
        of_words = batch.owner < batch.shapes.shape[1]
        batch = replace(batch, ids=torch.where(hidden & of_words, tokenizer.mask_token_id, batch.ids))
        target = _targets([own for _, own in texts], tags, batch.present.shape[1])
        logits = network(batch).float()
        if config.text.crf:
            logits = torch.where(batch.present.unsqueeze(-1), logits, 0)
            return crf_loss(logits, target, network.transitions + steps, first)
        target = torch.where(batch.present, target, -1)
        return F.cross_entropy(logits.flatten(0, 1), target.flatten(), weight=weights, ignore_index=-1)

    return loss_of


def _targets(texts: Sequence[Sequence[str]], tags: list[str], width: int) -> Tensor:
    """Return the index `[B, W]` of each word's tag; -1 where padded."""
    columns = {tag: index for index, tag in enumerate(tags)}
    target = np.full((len(texts), width), -1, np.int64)
    for row, own in enumerate(texts):
        target[row, : len(own)] = [columns[tag] for tag in own]
    return torch.from_numpy(target)


def _mentions(train: TaggedTexts) -> dict[str, list[list[str]]]:
    """Return the words of every entity by its type."""
    mentions: dict[str, list[list[str]]] = {}
    for words, tags in zip(train.words, train.tags, strict=True):
        for label, start, stop in entities(tags):
            mentions.setdefault(label, []).append(words[start:stop])
    return mentions


def changed(
    words: list[str], tags: list[str], mentions: dict[str, list[list[str]]], rng: np.random.Generator
) -> tuple[list[str], list[str]]:
    """Return a text in which some entities are other ones of their type, and which may be in small letters or capitals."""
    made: list[str] = []
    found, at = [], 0
    for label, start, stop in entities(tags):
        own = words[start:stop]
        if rng.random() < SWAPPED:
            own = mentions[label][int(rng.integers(len(mentions[label])))]
        made += words[at:start]
        found.append(Entity(label, len(made), len(made) + len(own)))
        made += own
        at = stop
    made += words[at:]
    draw = rng.random()
    if draw < CASELESS * 4 / 3:
        made = [word.lower() if draw < CASELESS else word.upper() for word in made]
    return made, tags_of(found, len(made))


def _by_outside(tagger: Tagger, valid: TaggedTexts) -> dict[float, float]:
    """Return the F1 on `valid` by what is taken from the log-probability of `O`."""
    values = tagger.log_probabilities(valid.words)
    return {
        float(outside): counted([tagger.best(own, outside) for own in values], valid).micro()
        for outside in OUTSIDE_STEPS
    }


def counted(found: Sequence[Sequence[str]], truth: TaggedTexts) -> Counts:
    """Return the entities of each text that the tags `found` have rightly, wrongly, or miss, by type."""
    labels = labels_of(found, truth)
    columns = {label: index for index, label in enumerate(labels)}
    right, wrong, missed = np.zeros((3, len(truth), len(labels)), np.int64)
    for row, (own, true) in enumerate(zip(found, truth.tags, strict=True)):
        have, want = set(entities(own)), set(entities(true))
        for part, some in ((right, have & want), (wrong, have - want), (missed, want - have)):
            for entity in some:
                part[row, columns[entity.label]] += 1
    return Counts(right, wrong, missed)


def labels_of(found: Sequence[Sequence[str]], truth: TaggedTexts) -> list[str]:
    """Return the types of entities that are there or found, sorted."""
    return sorted({entity.label for tags in (*found, *truth.tags) for entity in entities(tags)})


def measure_tokens(model: TextModel, test: TaggedTexts) -> TextReport:
    """Return what the model gets right on `test`, by type and by length."""
    return report_of(Tagger(model).tagged(test.words), test)


def report_of(found: Sequence[Sequence[str]], test: TaggedTexts) -> TextReport:
    """Return what the tags `found` get right: the table of seqeval, and F1 with its interval, also by length."""
    counts, labels = counted(found, test), labels_of(found, test)
    by_type = classification_report(test.tags, [list(tags) for tags in found], output_dict=True, zero_division=0)
    scores = np.array(
        [[by_type[label][key] for key in ("precision", "recall", "f1-score", "support")] for label in labels]
    )
    count = len(test)
    figures = {
        "micro_f1": _micro(counts),
        "macro_f1": resampled(lambda rows: counts.of(rows).macro(), count),
    }
    lengths = np.array([len(words) for words in test.words])
    for low, high in TEXT_BANDS:
        within = np.flatnonzero((lengths >= low) & (lengths <= high))
        if len(within):
            figures[f"micro_f1/texts of {_band(low, high)}"] = _micro(counts.of(within))
    for low, high in ENTITY_BANDS:
        own = counted([_of_length(tags, low, high) for tags in found], _entities_of_length(test, low, high))
        if (own.right + own.missed).sum():
            figures[f"micro_f1/entities of {_band(low, high)}"] = _micro(own)
    return TextReport(count, labels, scores, figures)


def _micro(counts: Counts) -> Interval:
    """Return the F1 over all types at once, with its interval over texts."""
    return resampled(lambda rows: counts.of(rows).micro(), len(counts.right))


def _band(low: int, high: int) -> str:
    if low == high:
        return "1 word" if low == 1 else f"{low} words"
    return f"{low} words or more" if high >= 10**9 else f"{low} to {high} words"


def _of_length(tags: Sequence[str], low: int, high: int) -> list[str]:
    """Return `tags` without the entities of fewer words than `low`, or more than `high`."""
    return tags_of([entity for entity in entities(tags) if low <= entity.stop - entity.start <= high], len(tags))


def _entities_of_length(texts: TaggedTexts, low: int, high: int) -> TaggedTexts:
    return TaggedTexts(texts.words, [_of_length(tags, low, high) for tags in texts.tags])
