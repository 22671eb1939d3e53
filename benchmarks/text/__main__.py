"""What text heads get right, and the page that says so.

In: the folder of texts (`wnut17-*.conll`, `sentences-*.tsv`, `stackfaq.xml`). Out: `docs/text-quality.md`. Each part is kept in
`.recsys/text-quality`, so that one can be measured anew.

    python -m benchmarks.text ../shared/data/texts --only answers
"""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import click

from benchmarks.text import answers, classes, lists, search, tokens
from recsys.atomic import atomic_file
from recsys.config import WORK
from recsys.progress import stage

PAGE = Path("docs/text-quality.md")
KEPT = WORK / "text-quality"
OPENING = """# Text quality

What [text heads](text.md), and a search that learns, get right, beside a simple baseline of the same run. `make benchmark-text` writes this page; every part says when it was measured and by
which command. Choices are made on `valid` alone, figures are of `test`, with 95 % bootstrap intervals. The encoder is the bundled MiniLM (22.7 M parameters) unless a table says otherwise.
"""

Measure = Callable[[Path, int], list[str]]
PARTS: dict[str, tuple[str, str, Measure]] = {
    "entities": ("Entities: WNUT-17", tokens.ABOUT, tokens.wnut_table),
    "attributes": ("Attributes of the simulated shop", tokens.ABOUT_SHOP, lambda data, seeds: tokens.shop_table(seeds)),
    "lists": ("Lists with extracted attributes", lists.ABOUT, lambda data, seeds: lists.table(seeds)),
    "sentiment": (
        "Sentiment, all of train",
        classes.ABOUT,
        lambda data, seeds: classes.full(classes.read_sources(data), seeds),
    ),
    "few": (
        "Sentiment, few texts a class",
        classes.ABOUT_FEW,
        lambda data, seeds: classes.few(classes.read_sources(data)),
    ),
    "zero": (
        "Sentiment, from names alone",
        classes.ABOUT_ZERO,
        lambda data, seeds: classes.zero(classes.read_sources(data)),
    ),
    "opinion": ("Surges of negative texts", classes.ABOUT_SURGES, lambda data, seeds: classes.monitor()),
    "answers": ("Questions and answers: StackFAQ", answers.ABOUT, answers.table),
    "search": ("A search that learns from clicks", search.ABOUT, lambda data, seeds: search.table(seeds)),
}
"""Name -> title, what it is, and what measures it."""


@click.command()
@click.argument("data", type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.option("--only", multiple=True, type=click.Choice(list(PARTS)), help="A part to measure; can be repeated.")
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(1))
def main(data: Path, only: tuple[str, ...], seeds: int) -> None:
    """Measure all parts on the texts in DATA, or some, and write the page."""
    KEPT.mkdir(parents=True, exist_ok=True)
    for name in only or PARTS:
        title, about, measure = PARTS[name]
        with stage(title):
            lines = measure(data, seeds)
        command = f"`python -m benchmarks.text DATA --only {name} --seeds {seeds}`, {datetime.now(UTC):%Y-%m-%d}."
        with atomic_file(KEPT / f"{name}.md") as temporary:
            temporary.write_text("\n".join([f"## {title}", "", about, command, "", *lines]).strip() + "\n", "utf-8")
        write_page()
    click.echo(f"written to {PAGE}")


def write_page() -> None:
    """Write the page of all parts that were measured."""
    parts = [KEPT / f"{name}.md" for name in PARTS]
    texts = [path.read_text("utf-8") for path in parts if path.exists()]
    with atomic_file(PAGE) as temporary:
        temporary.write_text("\n".join([OPENING, *texts]), "utf-8")


if __name__ == "__main__":
    main()
