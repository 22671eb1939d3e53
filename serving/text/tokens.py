"""What a text head says of the words of texts: which are an entity, of which type.

In: a `TextModel` of kind `tokens`. Out: BIO tags, `Found` entities with confidence, a table.

The tags of a text are its likeliest ones among those that BIO allows (Viterbi 1967), once `outside` is taken from the log-probability of `O`. How likely
one tag follows another is what the head has learned (a linear-chain conditional random field), or 0.

Shapes: B texts, W words, C tags.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import polars as pl
import torch

from features.texts.tagged import BEGINS, CONTINUES, OUTSIDE, entities
from recsys.arrays import Floats, Ints
from recsys.models.encoder import TextEncoder, autocast, resolve_precision
from recsys.models.text_heads import TokenHead
from recsys.text.bundle import TextModel
from recsys.text.words import spelt, word_batch

KIND = "tokens"
IMPOSSIBLE = -1e4
TEXTS_PER_BATCH = 32


@dataclass(frozen=True)
class Found:
    """An entity in a text."""

    label: str
    """Its type."""
    text: str
    """As it stands in the text."""
    start: int
    """Offset of its first character."""
    end: int
    """Offset after its last character."""
    confidence: float
    """Mean probability of its type over its words, all tags of the text considered."""


class Tagger:
    """Tells entities in texts."""

    def __init__(self, model: TextModel) -> None:
        self.model = model
        self.tags: list[str] = model.about["tags"]
        encoder = TextEncoder(model.encoder.model, model.about["trained_layers"])
        self.network = TokenHead(encoder, len(self.tags)).eval()
        self.network.load_state_dict(model.head, strict=False)
        self.outside = np.where(np.array(self.tags) == OUTSIDE, model.about["outside"], 0).astype(np.float32)  # [C]
        steps, self.first = allowed(self.tags)
        self.steps = steps + self.network.transitions.detach().numpy()

    def log_probabilities(self, texts: Sequence[Sequence[str]]) -> list[Floats]:
        """Return the log-probability of each tag of each word, an array `[W, C]` for each of `texts`, which are words.

        A text of more than `text.max_tokens` is read in windows, and a word in the one that shows more of what is around it.
        """
        cuts = [self._windows(words) for words in texts]
        pieces = [words[window] for words, own in zip(texts, cuts, strict=True) for window in own]
        values = iter(self._of_pieces(pieces))
        found = []
        for words, own in zip(texts, cuts, strict=True):
            joints = [(one.stop + other.start) // 2 for one, other in pairwise(own)]
            parts = [
                next(values)[start - window.start : stop - window.start]
                for window, start, stop in zip(own, [0, *joints], [*joints, len(words)], strict=True)
            ]
            found.append(np.concatenate(parts))
        return found

    def _windows(self, words: Sequence[str]) -> list[slice]:
        """Return the parts of a text that are read one by one; most are read whole."""
        tokenizer = self.model.tokenizer
        longest = self.model.config.text.max_tokens - tokenizer.num_special_tokens_to_add()
        if sum(map(len, words)) <= longest:  # no sub-word is shorter than a letter
            return [slice(0, len(words))]
        owners = tokenizer(list(words), is_split_into_words=True, add_special_tokens=False).word_ids()
        return windows(np.bincount(owners, minlength=len(words)), longest)

    @torch.no_grad()
    def _of_pieces(self, texts: Sequence[Sequence[str]]) -> list[Floats]:
        """Return the log-probabilities `[W, C]` of the words of each of `texts`, none of which is too long."""
        device = next(self.network.parameters()).device
        precision = resolve_precision(self.model.config.encoder.precision, device)
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
        found: list[Floats] = [np.empty((0, len(self.tags)), np.float32)] * len(texts)
        for start in range(0, len(order), TEXTS_PER_BATCH):
            rows = [row for row in order[start : start + TEXTS_PER_BATCH] if texts[row]]
            if not rows:
                continue
            batch = word_batch(
                [texts[row] for row in rows], self.model.tokenizer, self.model.config.text.max_tokens
            ).to(device)
            with autocast(device, precision):
                logits = self.network(batch).float()
            logits[~batch.present] = torch.from_numpy(np.where(np.array(self.tags) == OUTSIDE, 0, IMPOSSIBLE)).float()
            values = logits.log_softmax(-1).cpu().numpy()
            for row, own in zip(rows, values, strict=True):
                found[row] = own[: len(texts[row])]
        return found

    def tagged(self, texts: Sequence[Sequence[str]]) -> list[list[str]]:
        """Return the BIO tags of `texts`, which are words."""
        return [self.best(values) for values in self.log_probabilities(texts)]

    def best(self, values: Floats, outside: float | None = None) -> list[str]:
        """Return the likeliest tags of a text by its log-probabilities `[W, C]`, with another `outside` if that is given."""
        less = self.outside if outside is None else np.where(np.array(self.tags) == OUTSIDE, outside, 0)
        return [self.tags[index] for index in best_path(values - less, self.steps, self.first)]

    def found(self, texts: Sequence[str]) -> list[list[Found]]:
        """Return the entities of `texts`, in order."""
        cuts = [spelt(text) for text in texts]
        rows = []
        for text, cut, values in zip(texts, cuts, self.log_probabilities([cut.words for cut in cuts]), strict=True):
            own = []
            # Without what favours entities, so that a rarely right one says so.
            likely = marginals(values, self.steps, self.first)
            for label, start, stop in entities(self.best(values)):
                columns = [index for index, tag in enumerate(self.tags) if tag[2:] == label]
                confidence = float(likely[start:stop, columns].sum(1).mean())
                first, last = cut.starts[start], cut.stops[stop - 1]
                own.append(Found(label, text[first:last], first, last, min(1.0, confidence)))
            rows.append(own)
        return rows

    def table(self, texts: Sequence[str]) -> pl.DataFrame:
        """Return a row per text with lists of its entities: `entities` as they stand there, `labels`, offsets, `probabilities`."""
        rows = self.found(texts)
        kinds = {"text": pl.String, "label": pl.String, "start": pl.Int64, "end": pl.Int64, "confidence": pl.Float64}
        names = ("entities", "labels", "starts", "ends", "probabilities")
        columns = [
            pl.Series(title, [[getattr(one, name) for one in row] for row in rows], pl.List(kind))
            for title, (name, kind) in zip(names, kinds.items(), strict=True)
        ]
        return pl.DataFrame(columns)


def windows(lengths: Sequence[int] | Ints, longest: int) -> list[slice]:
    """Return windows of words, which have `lengths` sub-words, of at most `longest` sub-words each; one begins in the middle of the one before.

    A word that is longer by itself is a window.
    """
    ends = np.cumsum(lengths)
    found, start, before = [], 0, 0
    while True:
        stop = max(start + 1, int(np.searchsorted(ends, before + longest, side="right")))
        found.append(slice(start, stop))
        if stop >= len(lengths):
            return found
        start = max(start + 1, int(np.searchsorted(ends, before + longest // 2, side="right")))
        before = int(ends[start - 1])


def allowed(tags: Sequence[str]) -> tuple[Floats, Floats]:
    """Return what is added for a step from one tag to the next `[C, C]`, and for the first tag `[C]`: `I-TYPE` follows its own type alone."""
    continues = np.array([tag.startswith(CONTINUES) for tag in tags])
    first = np.where(continues, IMPOSSIBLE, 0).astype(np.float32)
    same = np.array([[before != OUTSIDE and before[2:] == tag[2:] for tag in tags] for before in tags])
    return np.where(continues & ~same, IMPOSSIBLE, 0).astype(np.float32), first


def best_path(values: Floats, steps: Floats, first: Floats) -> Ints:
    """Return the tags `[W]` of the highest sum of `values` `[W, C]`, of `steps` `[C, C]` between them and of the `first` one."""
    if not len(values):
        return np.empty(0, np.int64)
    score, origins = values[0] + first, []
    for row in values[1:]:
        reached = score[:, None] + steps
        origins.append(reached.argmax(0))
        score = reached.max(0) + row
    path = [int(score.argmax())]
    for origin in reversed(origins):
        path.append(int(origin[path[-1]]))
    return np.array(path[::-1])


def marginals(values: Floats, steps: Floats, first: Floats) -> Floats:
    """Return the probability of each tag of each word `[W, C]`, over all paths, by the same arguments as `best_path` (forward-backward, Rabiner 1989)."""
    if not len(values):
        return values
    before, after = [values[0] + first], [np.zeros(len(first), np.float32)]
    for row in values[1:]:
        before.append(np.logaddexp.reduce(before[-1][:, None] + steps, 0) + row)
    for row in values[:0:-1]:
        after.append(np.logaddexp.reduce(steps + (row + after[-1]), 1))
    both = np.stack(before) + np.stack(after[::-1])
    found: Floats = np.exp(both - np.logaddexp.reduce(both, 1, keepdims=True))
    return found


def bio(labels: Sequence[str]) -> list[str]:
    """Return the tags of entities of the types `labels`."""
    return [OUTSIDE, *(begin + label for label in labels for begin in (BEGINS, CONTINUES))]
