"""Questions and answers: what finds the answers of StackFAQ (Karan, Šnajder 2018).

In: `stackfaq.xml`. Out: lines of a table: BM25, the frozen encoder and ours, on the same questions.

    python -m benchmarks.text.answers ../shared/data/texts --seeds 3

Threads are divided 6:2:2; a query is a rephrased question of a thread of `test`, candidates are all answers, and relevant are those of its
own thread. Intervals are over threads.
"""

import re
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import bm25s
import click
import numpy as np

from features.texts.answers import Threads
from features.texts.split import Parts, shuffled_parts
from recsys.arrays import Floats
from recsys.config import Config
from recsys.metrics import Interval
from recsys.text.bundle import TextModel
from serving.text.answers import BASE, Answerer
from training.text.answers import by_threads, calibrated, figures_of, fit_answers

ABOUT = """A query is a rephrased question of a thread of `test` (threads 6:2:2, seed 0), candidates are all answers, and relevant are those of its own thread
(Karan, Šnajder 2018). A base has answers alone, or each with the question that it is kept with. `unanswerable_found`: questions asked of a base without their own answers that are told there is none, at a threshold that
refuses one in twenty of `valid`; each method has its own. Intervals are over threads."""
ABSENT = "*"
FIGURES = ("p@1", "mrr@10", "map", "false_refusals", "unanswerable_found")
Scores = Callable[[list[str], list[str]], Floats]
"""From answers and questions to scores `[Q, A]`."""


def read_stackfaq(path: Path) -> Threads:
    """Return the threads of StackFAQ: the question, its rephrased forms, and the answers."""
    pairs = ElementTree.parse(path).getroot()

    def texts(pair: ElementTree.Element, tag: str) -> list[str]:
        plain = [re.sub(r"\s+", " ", part.text or "").strip() for part in pair.findall(tag)]
        return [text for text in plain if text not in ("", ABSENT)]

    questions = [texts(pair, "question") + texts(pair, "rephr") for pair in pairs]
    return Threads(questions, [texts(pair, "answer") for pair in pairs])


def bm25_scores(base: list[str], questions: list[str]) -> Floats:
    """Return the scores `[Q, A]` of BM25."""
    index = bm25s.BM25()
    index.index(bm25s.tokenize(base, stopwords="en", show_progress=False), show_progress=False)
    asked = bm25s.tokenize(questions, stopwords="en", show_progress=False, return_ids=False)
    return np.stack([index.get_scores(words) for words in asked])


def untrained(model: TextModel) -> TextModel:
    """Return the model as it was before it learned anything."""
    head = {
        name: value * 0 if name == "residual.weight" else value for name, value in model.head.items() if name != BASE
    }
    return replace(model, head=head | {BASE: model.head[BASE]})


def dense_scores(model: TextModel, base: list[str], questions: list[str]) -> Floats:
    """Return the scores `[Q, A]` of a text head."""
    answerer = Answerer(model)
    return answerer.encode(questions) @ answerer.encode(base).T


def measured(threads: Threads, parts: Parts, base: list[str], scores_of: Scores) -> dict[str, Floats]:
    """Return the figures `[Q]` of the questions of `test`; the threshold is chosen on those of `valid`."""
    own_threads = threads.base().threads
    found = {}
    for name, rows in (("valid", parts.valid), ("test", parts.test)):
        questions, asked = threads.queries(rows)
        found[name] = scores_of(base, questions), own_threads[None] == asked[:, None]
    return figures_of(*found["test"], own_threads, calibrated(*found["valid"], own_threads))


@click.command()
@click.argument("data", type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.option("--seeds", default=3, show_default=True)
def main(data: Path, seeds: int) -> None:
    """Print the table of DATA's `stackfaq.xml`."""
    print("\n".join(table(data, seeds)))


def table(data: Path, seeds: int) -> list[str]:
    """Return the lines of the table, and those of the differences."""
    threads = read_stackfaq(data / "stackfaq.xml")
    parts, base = shuffled_parts(len(threads)), threads.base()
    _, asked = threads.queries(parts.test)
    start = time.monotonic()
    fits = [fit_answers(threads, parts, Config(), seed, lambda share, note: None) for seed in range(seeds)]
    seconds = (time.monotonic() - start) / seeds
    lines = [f"| candidates | by | {' | '.join(FIGURES)} |", "|---|---|" + "---|" * len(FIGURES)]
    for form, texts in (("answers alone", base.answers), ("with their questions", base.texts())):
        words = measured(threads, parts, texts, bm25_scores)
        plain = measured(threads, parts, texts, partial(dense_scores, untrained(fits[0])))
        each = [measured(threads, parts, texts, partial(dense_scores, fit)) for fit in fits]
        ours = {name: np.mean([own[name] for own in each], axis=0) for name in FIGURES}
        for by, values in (("BM25", words), ("frozen encoder", plain), ("ours", ours)):
            lines.append(_row(form, by, by_threads({name: values[name] for name in FIGURES}, asked)))
        for by, values in (("BM25", words), ("frozen encoder", plain)):
            gains = by_threads({name: ours[name] - values[name] for name in FIGURES}, asked)
            lines.append(_row(form, f"ours over {by}", gains))
    return [
        *lines,
        "",
        f"{len(asked)} questions of {len(parts.test)} threads, {len(base.answers)} answers; mean of {seeds} seeds, {seconds:.0f} s each.",
    ]


def _row(form: str, by: str, figures: dict[str, Interval]) -> str:
    cells = (f"{one.value:.3f} [{one.low:.3f}, {one.high:.3f}]" for one in figures.values())
    return f"| {form} | {by} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
