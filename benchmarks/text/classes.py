"""What text heads tell of sentiment, against words with a logistic regression, and how soon a surge of negative texts is found.

In: the folder of `sentences-SOURCE.tsv`. Out: Markdown tables.

    .venv/bin/python -m benchmarks.text.classes ../shared/data/texts [--only full few zero monitor] [--seeds 3]

Each source is shuffled by seed 0 and divided 6:2:2; choices are made on valid, figures are of test. The baseline is TF-IDF of words
and pairs with a logistic regression whose penalty is chosen on valid, in the same run. Intervals are bootstrapped over texts, 95 %.

Shapes: N texts of test, K seeds or draws.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from features.texts.classes import LabelledTexts, read_classes
from features.texts.split import Parts, shuffled_parts
from recsys.arrays import Bools, Ints
from recsys.config import Config
from recsys.metrics import Interval
from recsys.text.bundle import TextModel
from serving.text.classes import Classifier
from serving.text.opinion import Counts, watch_opinion
from training.text.classes import fit_classes
from training.text.few import fit_few
from training.text.report import resampled
from training.text.texts import TrainingTexts
from training.text.zero import head_of_names

SOURCES = ("amazon_cells", "imdb", "yelp")
FEW, DRAWS = (8, 16, 64), 5
WORDS = {"0": "I hate it; it is terrible", "1": "I love it; it is great"}
PENALTIES = np.geomspace(0.01, 100, 13)

ABOUT = """Accuracy on each source of the Sentiment Labelled Sentences (Kotzias et al. 2015), by itself and on the others, against TF-IDF of words and pairs with a logistic
regression."""
ABOUT_FEW = """So many texts a class, drawn from train; mean of five draws, the same for both."""
ABOUT_ZERO = """No label is read: a text has the class whose words are most similar to it."""
ABOUT_SURGES = """Simulated streams of texts with planted surges, at one false alarm a month over all 20 topics; shares of 200 surges each."""


@dataclass(frozen=True)
class Source:
    """Labelled texts of one source."""

    name: str
    data: LabelledTexts
    parts: Parts

    @property
    def labels(self) -> Ints:
        """`[N]` the class of every text."""
        return np.array([self.data.classes.index(label) for (label,) in self.data.labels])

    def texts(self, rows: Ints) -> list[str]:
        """Return some of the texts."""
        return [self.data.texts[row] for row in rows]


def read_sources(folder: Path) -> list[Source]:
    """Return all three sources."""
    read = [(name, read_classes(folder / f"sentences-{name}.tsv")) for name in SOURCES]
    return [Source(name, data, shuffled_parts(len(data.texts))) for name, data in read]


def baseline(train: Source, rows: Ints) -> tuple[TfidfVectorizer, LogisticRegression]:
    """Return the baseline fitted on `rows`, its penalty chosen on valid."""
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True).fit(train.texts(rows))
    fitted, valid = words.transform(train.texts(rows)), words.transform(train.texts(train.parts.valid))
    labels = train.labels
    models = [LogisticRegression(C=float(penalty), max_iter=2000).fit(fitted, labels[rows]) for penalty in PENALTIES]
    return words, max(models, key=lambda model: model.score(valid, labels[train.parts.valid]))


def right_of_baseline(train: Source, rows: Ints, test: Source) -> Bools:
    """Return which texts of test the baseline gets right, `[N]`."""
    words, model = baseline(train, rows)
    found = model.predict(words.transform(test.texts(test.parts.test)))
    return np.asarray(found == test.labels[test.parts.test])


def right_of(model: TextModel, test: Source) -> Bools:
    """Return which texts of test a head gets right, `[N]`."""
    found = Classifier(model).logits(test.texts(test.parts.test)).argmax(1)
    return np.asarray(found == test.labels[test.parts.test])


def mean_of(right: Sequence[Bools]) -> Interval:
    """Return the accuracy, the mean over K of `[K, N]`, with its interval over texts."""
    mean = np.mean(right, axis=0)
    return resampled(lambda rows: float(mean[rows].mean()), len(mean))


def difference(ours: Sequence[Bools], others: Sequence[Bools]) -> Interval:
    """Return how much more of the same texts ours get right, with its interval over texts."""
    gain = np.mean(ours, axis=0) - np.mean(others, axis=0)
    return resampled(lambda rows: float(gain[rows].mean()), len(gain))


def shown(interval: Interval) -> str:
    """Return an interval as text."""
    return f"{interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def full(sources: Sequence[Source], seeds: int) -> list[str]:
    """Return the tables of heads that are fitted on all of train, on each source and tested on each."""
    lines = [
        "| fitted on | tested on | text head | TF-IDF and LR | difference | seconds a fit |",
        "|---|---|---|---|---|---|",
    ]
    for train in sources:
        models, began = [], time.perf_counter()
        for seed in range(seeds):
            models.append(fit_classes(train.data, train.parts, Config(), seed, lambda share, note: None))
        seconds = (time.perf_counter() - began) / seeds
        for test in sources:
            ours = [right_of(model, test) for model in models]
            others = [right_of_baseline(train, train.parts.train, test)]
            cost = f"{seconds:.0f}" if test is train else ""
            figures = " | ".join((shown(mean_of(ours)), shown(mean_of(others)), shown(difference(ours, others))))
            lines.append(f"| {train.name} | {test.name} | {figures} | {cost} |")
            print(lines[-1], flush=True)
    return lines


def drawn(source: Source, count: int, seed: int) -> Ints:
    """Return `count` rows of train of each class."""
    rng, train = np.random.default_rng(seed), source.parts.train
    return np.concatenate(
        [rng.choice(train[source.labels[train] == label], count, replace=False) for label in range(2)]
    )


def few(sources: Sequence[Source]) -> list[str]:
    """Return the table of heads from a few texts a class, the mean of `DRAWS` draws."""
    lines = [
        "| source | texts a class | text head | TF-IDF and LR | difference | seconds a fit |",
        "|---|---|---|---|---|---|",
    ]
    for source in sources:
        texts = TrainingTexts(source.data, Config())
        before = deepcopy(texts.encoder.state_dict())
        for count in FEW:
            ours, others, began = [], [], time.perf_counter()
            for draw in range(DRAWS):
                texts.encoder.load_state_dict(before)
                rows = drawn(source, count, draw)
                head = fit_few(texts, rows, draw)
                logits = (
                    texts.vectors()[source.parts.test] @ head["linear.weight"].numpy().T + head["linear.bias"].numpy()
                )
                ours.append(logits.argmax(1) == source.labels[source.parts.test])
                others.append(right_of_baseline(source, rows, source))
            seconds = (time.perf_counter() - began) / DRAWS
            figures = " | ".join((shown(mean_of(ours)), shown(mean_of(others)), shown(difference(ours, others))))
            lines.append(f"| {source.name} | {count} | {figures} | {seconds:.0f} |")
            print(lines[-1], flush=True)
    return lines


def zero(sources: Sequence[Source]) -> list[str]:
    """Return the table of a head from the names of its classes."""
    model = head_of_names(WORDS, Config())
    lines = ["| source | zero-shot |", "|---|---|"]
    return [*lines, *(f"| {source.name} | {shown(mean_of([right_of(model, source)]))} |" for source in sources)]


def stream(
    rng: np.random.Generator, series: int, days: int, a_day: float, uneven: float, surge: float = 0.0, hours: int = 2
) -> tuple[Counts, Ints]:
    """Return the texts of topics, and the period in which a surge of three days begins in each.

    Between .05 and .3 are negative; weeks and days have their rhythm, and the log odds of days differ by `uneven` (a standard deviation).
    """
    day = 24 // hours
    periods = np.arange(days * day)
    usual = rng.uniform(0.05, 0.3, series)[:, None]
    rhythm = (1 + 0.3 * np.sin(2 * np.pi * periods / day / 7)) * (1 + 0.6 * np.cos(2 * np.pi * periods / day))
    texts = rng.poisson(np.broadcast_to(a_day / day * rhythm, (series, len(periods))))
    odds = np.log(usual / (1 - usual)) + np.repeat(rng.normal(0, uneven, (series, days)), day, axis=1)
    share = 1 / (1 + np.exp(-odds))
    began = rng.integers(len(periods) - 20 * day, len(periods) - 4 * day, series)
    for row, start in enumerate(began):
        share[row, start : start + 3 * day] = np.minimum(0.95, share[row, start : start + 3 * day] + surge)
    names = pl.DataFrame({"by": ["topic"] * series, "name": [str(row) for row in range(series)]})
    return Counts(names, texts, rng.binomial(texts, share), 0, hours), began


def monitor(repeats: int = 10, series: int = 20, seed: int = 0) -> list[str]:
    """Return the table of false alarms a month over all topics together, and of surges that are found within a day."""
    surges = (0.2, 0.3, 0.4)
    names = " | ".join(f"+{surge:.0%}".replace("%", " points found within a day") for surge in surges)
    lines = [
        f"| texts a day and topic | days differ by | false alarms a month | {names} |",
        "|---|---|---|---|---|---|",
    ]
    for a_day in (10, 40, 100, 200):
        for uneven in (0.0, 0.3):
            rng = np.random.default_rng(seed)
            quiet = [watch_opinion(stream(rng, series, 150, a_day, uneven)[0]) for _ in range(repeats)]
            months = sum(watched.sums.shape[1] * watched.counts.hours / 24 for watched in quiet) / 30
            alarms = sum(watched.episodes.height for watched in quiet) / months
            found = [_found(rng, series, a_day, uneven, surge, repeats) for surge in surges]
            lines.append(
                f"| {a_day} | {uneven} | {alarms:.2f} | " + " | ".join(f"{share:.2f}" for share in found) + " |"
            )
            print(lines[-1], flush=True)
    return lines


def _found(rng: np.random.Generator, series: int, a_day: float, uneven: float, surge: float, repeats: int) -> float:
    """Return the share of surges that alarm within a day of their beginning."""
    found = []
    for _ in range(repeats):
        counts, began = stream(rng, series, 90, a_day, uneven, surge)
        alarms, day = watch_opinion(counts).alarms, 24 // counts.hours
        found += [bool(alarms[row, start : start + day].any()) for row, start in enumerate(began)]
    return float(np.mean(found))


def main() -> None:
    """Print what was requested."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", default=["full", "few", "zero", "monitor"])
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    sources = read_sources(options.folder)
    tables: dict[str, tuple[str, Callable[[], list[str]]]] = {
        "full": ("Sentiment, all of train", lambda: full(sources, options.seeds)),
        "few": ("Sentiment, few texts a class", lambda: few(sources)),
        "zero": ("Sentiment, from names alone", lambda: zero(sources)),
        "monitor": ("Surges of negative texts", monitor),
    }
    for name in options.only:
        title, measure = tables[name]
        print(f"\n### {title}\n\n" + "\n".join(measure()), flush=True)


if __name__ == "__main__":
    main()
