"""Entities in texts: WNUT-17 (Derczynski et al. 2017), and the attributes of the simulated shop's items.

In: `wnut17-{train,dev,test}.conll`. Out: lines of tables: ours beside a dictionary of the entities of train.

    python -m benchmarks.text.tokens ../shared/data/texts --seeds 3

Choices are made on dev, figures are entity F1 on test; intervals are over its texts. The shop's head learns from 300 items, whose true attributes
are known, and is measured on the other 1,200.
"""

import tempfile
import time
from collections import Counter
from pathlib import Path

import click
import numpy as np

from features.simulator.shop import label, simulate
from features.texts.tagged import Entity, TaggedTexts, entities, read_tagged, tags_of
from recsys.config import Config
from recsys.text.bundle import TextModel
from serving.text.tokens import Tagger
from training.demo import LABELLED
from training.text.report import TextReport, resampled
from training.text.tokens import counted, fit_tokens, report_of

LONGEST = 6
"""Words of an entity that the dictionary looks for."""

ABOUT = """Entity-level F1 (micro, seqeval) on the given test split, choices on dev. Best of the shared task .419 (Derczynski et al. 2017); BERTweet-base, 135 M parameters made for
tweets, .565 (Nguyen et al. 2020)."""
ABOUT_SHOP = """Attributes found in titles and descriptions of the demonstration's shop: 300 labelled items, the figures of all others."""


def from_dictionary(train: TaggedTexts, texts: TaggedTexts) -> list[list[str]]:
    """Return the tags of `texts` where every entity of `train`, in any letters, is found again; longer ones come first."""
    types: dict[tuple[str, ...], Counter[str]] = {}
    for words, tags in zip(train.words, train.tags, strict=True):
        for kind, start, stop in entities(tags):
            types.setdefault(_key(words[start:stop]), Counter())[kind] += 1
    return [_look_up(words, types) for words in texts.words]


def _key(words: list[str]) -> tuple[str, ...]:
    return tuple(word.lower() for word in words)


def _look_up(words: list[str], types: dict[tuple[str, ...], Counter[str]]) -> list[str]:
    found, at = [], 0
    while at < len(words):
        stops = range(min(len(words), at + LONGEST), at, -1)
        stop = next((stop for stop in stops if _key(words[at:stop]) in types), None)
        if stop is None:
            at += 1
            continue
        found.append(Entity(types[_key(words[at:stop])].most_common(1)[0][0], at, stop))
        at = stop
    return tags_of(found, len(words))


def measured(
    title: str, train: TaggedTexts, valid: TaggedTexts, test: TaggedTexts, config: Config, seeds: int
) -> list[str]:
    """Return the lines of a table: the dictionary, each seed, their mean, and the classes of the first seed."""
    start = time.monotonic()
    models = [fit_tokens(train, valid, config, seed, lambda share, note: None) for seed in range(seeds)]
    seconds = (time.monotonic() - start) / seeds
    found = [Tagger(model).tagged(test.words) for model in models]
    reports = [report_of(own, test) for own in found]
    counts = [counted(own, test) for own in found]
    mean = resampled(lambda rows: float(np.mean([own.of(rows).micro() for own in counts])), len(test))
    plain = report_of(from_dictionary(train, test), test).figures["micro_f1"]
    lines = [f"| {title} | F1 on test |", "|---|---|"]
    lines.append(f"| dictionary of train | {plain.value:.3f} [{plain.low:.3f}, {plain.high:.3f}] |")
    for seed, report in enumerate(reports):
        lines.append(f"| ours, seed {seed} | {report.figures['micro_f1'].value:.3f} |")
    lines.append(f"| ours, mean of {seeds} | {mean.value:.3f} [{mean.low:.3f}, {mean.high:.3f}] |")
    size = _parameters(models[0]) / 1e6
    lines += [
        "",
        f"{len(train):,} texts to fit, {len(test):,} to measure; {size:.0f} M parameters, {seconds:.0f} s a seed.",
        "",
    ]
    return lines + _details(reports[0])


def _details(report: TextReport) -> list[str]:
    lines = ["| type | precision | recall | F1 | number |", "|---|---|---|---|---|"]
    for name, (precision, recall, f1, number) in zip(report.classes, report.scores, strict=True):
        lines.append(f"| {name} | {precision:.3f} | {recall:.3f} | {f1:.3f} | {number:.0f} |")
    lines += ["", "| length | F1 |", "|---|---|"]
    for name, value in report.figures.items():
        if "/" in name:
            lines.append(f"| {name.partition('/')[2]} | {value.value:.3f} [{value.low:.3f}, {value.high:.3f}] |")
    return [*lines, ""]


def _parameters(model: TextModel) -> int:
    return sum(value.numel() for value in model.encoder.parameters()) + sum(
        value.numel() for value in model.head.values()
    )


def wnut_table(data: Path, seeds: int) -> list[str]:
    """Return the lines of the table of WNUT-17."""
    train, dev, test = (read_tagged(data / f"wnut17-{name}.conll") for name in ("train", "dev", "test"))
    return measured("WNUT-17", train, dev, test, Config(), seeds)


def shop_table(seeds: int) -> list[str]:
    """Return the lines of the shop's table."""
    with tempfile.TemporaryDirectory() as work:
        simulate(Path(work) / "shop")
        labelled, others = (read_tagged(path) for path in label(Path(work) / "shop", LABELLED))
    fitted, chosen = labelled.parts((0.8,))
    return measured("attributes of the simulated shop", fitted, chosen, others, Config(), seeds)


@click.command()
@click.argument("data", type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.option("--seeds", default=3, show_default=True)
@click.option("--shop-only", is_flag=True, help="Leave WNUT-17 out.")
def main(data: Path, seeds: int, shop_only: bool) -> None:
    """Print the tables."""
    lines = shop_table(seeds)
    print("\n".join(lines if shop_only else wnut_table(data, seeds) + lines))


if __name__ == "__main__":
    main()
