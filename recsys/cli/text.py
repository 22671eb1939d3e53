"""`recsys text`: heads upon the text encoder that tell more of texts than what users care for."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from recsys.cli import opinion
from recsys.cli.common import CONFIG, SETS, Commands, File, Folder, in_a_folder, mlflow_names
from recsys.errors import RecsysError, UsageError

if TYPE_CHECKING:
    import polars as pl

    from training.text.run import TrainedHead

ANSWER_WIDTH = 120
"""Characters of an answer that are printed."""

SEED = click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Seed of all random draws.")


@click.group(cls=Commands)
def text() -> None:
    """Fine-tune the text encoder to tell classes of texts, and read texts with it."""


@text.group(cls=Commands)
def train() -> None:
    """Train a text head and register it in MLflow."""


@train.command()
@click.argument("data", type=File, required=False)
@click.option("--name", default="sentiment", show_default=True, help="Name of the registered model.")
@click.option(
    "--zero-shot",
    metavar="LABEL=WORDS,…",
    help="Learn nothing from texts: a text has the class whose words are most similar to it.",
)
@CONFIG
@SETS
@SEED
@mlflow_names
def classes(
    data: Path | None, name: str, zero_shot: str | None, config: Path | None, sets: tuple[str, ...], seed: int
) -> None:
    """Train a head that tells the classes of texts, such as the sentiment of reviews.

    DATA is a file with the columns text and label, or labels where a text can have several: .csv, .tsv, .jsonl or .parquet. Its texts are
    shuffled and divided 6:2:2; epochs, calibration and thresholds are chosen on valid, and the figures are those of test. From few texts, up to
    64 a class, a head is fitted in another way, which needs no valid. With --zero-shot, texts are needed for figures alone.

    \b
    Examples:
      recsys text train classes reviews.tsv
      recsys text train classes topics.jsonl --name topics --set text.class_epochs=10
      recsys text train classes --zero-shot "negative=I hate it; it is terrible,positive=I love it; it is great"
    """
    from features.texts.classes import read_classes
    from recsys.settings import read_settings
    from training.text.classes import fit_head, measure_head
    from training.text.run import train_head
    from training.text.zero import class_words

    if data is None and zero_shot is None:
        raise UsageError("DATA is missing: a file of texts with labels; without any, name the classes by --zero-shot")
    settings, words = read_settings(config, sets), class_words(zero_shot) if zero_shot else None
    labelled = read_classes(data) if data else None
    trained = train_head(
        "classes",
        {
            "data": data.name if data else "none",
            "texts": len(labelled.texts) if labelled else 0,
            "zero_shot": zero_shot or "",
        },
        settings,
        seed,
        name,
        lambda update: fit_head(labelled, words, settings, seed, update),
        (lambda model: measure_head(model, labelled)) if labelled else None,
    )
    show(trained, f"recsys text read models:/{name}@champion TEXTS")


@train.command()
@click.argument("data", type=File)
@click.option("--name", default="answers", show_default=True, help="Name of the registered model.")
@CONFIG
@SETS
@SEED
@mlflow_names
def answers(data: Path, name: str, config: Path | None, sets: tuple[str, ...], seed: int) -> None:
    """Train a head that finds answers to questions, and says where there is no good one.

    DATA is a .jsonl file with a list `questions` and a list `answers` in each row, or a table with the columns question and answer. Its threads
    are shuffled and divided 6:2:2; epochs and the threshold are chosen on valid, and the figures are those of test, among all answers.

    \b
    Examples:
      recsys text train answers faq.jsonl
      recsys text answer models:/answers@champion "How do I return a lamp?"
    """
    from features.texts.answers import read_threads, require_enough
    from features.texts.split import shuffled_parts
    from recsys.settings import read_settings
    from training.text.answers import fit_answers, measure_answers
    from training.text.run import train_head

    settings, threads = read_settings(config, sets), read_threads(data)
    require_enough(data, threads)
    parts = shuffled_parts(len(threads))
    trained = train_head(
        "answers",
        {"data": data.name, "threads": len(threads)},
        settings,
        seed,
        name,
        lambda update: fit_answers(threads, parts, settings, seed, update),
        lambda model: measure_answers(model, threads, parts.test),
    )
    show(trained, f'recsys text answer models:/{name}@champion "QUESTION"')


@text.command()
@click.argument("model")
@click.argument("questions", nargs=-1, required=True)
@click.option("--base", type=File, help="File of questions and answers to search, instead of those of the training.")
@click.option("--k", default=3, show_default=True, type=click.IntRange(1), help="Answers to each question.")
@mlflow_names
def answer(model: str, questions: tuple[str, ...], base: Path | None, k: int) -> None:
    """Find answers to QUESTIONS with MODEL, and say where there is no good one.

    New answers need no training: name a file that has them.

    \b
    Examples:
      recsys text answer models:/answers@champion "How do I return a lamp?"
      recsys text answer models:/answers@champion "How do I return a lamp?" --base faq.jsonl --k 5
    """
    from features.texts.answers import read_threads
    from recsys.registry import bundle_folder
    from recsys.text.bundle import load_text_model
    from serving.text.answers import KIND, Answerer

    own = read_threads(base).base() if base else None
    answerer = Answerer(load_text_model(bundle_folder(model, "MODEL"), KIND))
    answerer = answerer.with_base(own) if own else answerer
    found = answerer.find(questions, k)
    for row, question in enumerate(questions):
        good = found.probability[row] >= answerer.threshold
        click.echo(f"{question}\n  {'' if good else 'no '}good answer (probability {found.probability[row]:.2f})")
        for index, score in zip(found.rows[row], found.scores[row], strict=True):
            click.echo(f"  {score:.3f}  {' '.join(answerer.base.answers[index].split())[:ANSWER_WIDTH]}")


@train.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "--weak",
    metavar="COLUMN,…",
    help="DATA is a dataset: learn from what these columns of its items say, where it stands in the item's text.",
)
@click.option("--valid", type=File, help="File that choices are made on, with --test; else a part of DATA.")
@click.option("--test", type=File, help="File that is measured; else a part of DATA.")
@click.option("--name", default="entities", show_default=True, help="Name of the registered model.")
@CONFIG
@SETS
@SEED
@mlflow_names
def tokens(
    data: Path,
    weak: str | None,
    valid: Path | None,
    test: Path | None,
    name: str,
    config: Path | None,
    sets: tuple[str, ...],
    seed: int,
) -> None:
    """Train a head that tells which words of a text are an entity, such as a name, a brand or a colour.

    DATA is a file of CoNLL columns (a word and its BIO tag in each line, or the four columns of CoNLL-2003), or .jsonl with text and spans, or
    with words and tags. Epochs are chosen on valid; the figures are those of test, by seqeval. DATA is shuffled and divided 6:2:2, or, where
    --test names another file, 8:2.

    \b
    Examples:
      recsys text train tokens train.conll --valid dev.conll --test test.conll
      recsys text train tokens labelled.jsonl --test others.jsonl --name attributes
      recsys text train tokens shop --weak brand,colour --name attributes
    """
    from features.data.dataset import load_dataset
    from features.texts.split import SHARES
    from features.texts.tagged import read_tagged
    from features.texts.weak import weakly_tagged
    from recsys.settings import read_settings
    from training.text.run import train_head
    from training.text.tokens import fit_tokens, measure_tokens

    if valid and not test:
        raise UsageError(
            "--valid goes with --test; name the file that is measured, or leave out both to divide DATA 6:2:2"
        )
    settings = read_settings(config, sets)
    tagged = weakly_tagged(load_dataset(data).items, tuple(weak.split(",")), "--weak") if weak else read_tagged(data)
    if valid and test:
        fitted, chosen, measured = tagged, read_tagged(valid), read_tagged(test)
    elif test:
        (fitted, chosen), measured = tagged.parts((0.8,)), read_tagged(test)
    else:
        fitted, chosen, measured = tagged.parts(SHARES)
    if not fitted.labels:
        raise RecsysError(f"{data}: no entity is among the {len(fitted)} texts that are fitted; label more texts")
    trained = train_head(
        "tokens",
        {"data": data.name, "texts": len(fitted) + len(chosen) + len(measured)},
        settings,
        seed,
        name,
        lambda update: fit_tokens(fitted, chosen, settings, seed, update),
        lambda model: measure_tokens(model, measured),
    )
    show(trained, f"recsys text read models:/{name}@champion TEXTS")


def show(trained: "TrainedHead", then: str) -> None:
    """Print the figures of a head and what it is registered as; `then` is the next command."""
    from recsys.cli.runs import console

    if trained.report:
        console().print(trained.report.table())
    click.echo(f"run {trained.run_id}")
    click.echo(f"registered {trained.model}")
    click.echo(f"next: {then}")


@text.command()
@click.argument("model")
@click.argument("texts", type=File)
@click.option(
    "--out", type=File, callback=in_a_folder, help="File for the table (.parquet, .csv or .jsonl); else it is printed."
)
@mlflow_names
def read(model: str, texts: Path, out: Path | None) -> None:
    """Say what MODEL, a text head, tells of TEXTS: a table with the column text, or a text per line.

    \b
    Examples:
      recsys text read models:/sentiment@champion reviews.csv --out read.parquet
      recsys text read models:/sentiment@champion lines.txt
    """
    import polars as pl

    from features.texts.plain import read_texts
    from recsys.registry import bundle_folder
    from serving.text.loading import load_reader
    from serving.text.tables import require_known_kind, write_table

    if out:
        require_known_kind(out)
    table = read_texts(texts)
    told = load_reader(bundle_folder(model, "MODEL")).table(table["text"].to_list())
    found = pl.concat([table.drop(told.columns, strict=False), told], how="horizontal")
    if out:
        write_table(found, out)
        click.echo(f"{found.height:,} texts written to {out}")
    else:
        print_table(found)


@text.command()
@click.argument("model")
@click.argument("dataset", type=Folder)
@click.option("--out", type=Folder, required=True, help="Dataset folder to write; new or empty.")
@mlflow_names
def extract(model: str, dataset: Path, out: Path) -> None:
    """Write DATASET again with the attributes that MODEL, a head for entities, finds in titles and descriptions.

    For each type of entity the items get a column with what their text says, for filters, and one with its confidence, for the ranker; the file
    attributes.toml beside them names these for the training.

    \b
    Example:
      recsys text extract models:/attributes@champion shop --out shop2
    """
    from recsys.progress import stage
    from recsys.registry import bundle_folder
    from recsys.text.bundle import load_text_model
    from serving.text.attributes import SETTINGS
    from serving.text.attributes import extract as write
    from serving.text.tokens import KIND, Tagger

    tagger = Tagger(load_text_model(bundle_folder(model, "MODEL"), KIND))
    with stage("reading the items' texts"):
        counts = write(tagger, dataset, out)
    for label, count in sorted(counts.items(), key=lambda pair: -pair[1]):
        click.echo(f"{label}: {count:,} items")
    click.echo(f"next: recsys train {out} --config {out / SETTINGS}")


def print_table(table: "pl.DataFrame") -> None:
    """Print the first rows of a table."""
    import polars as pl

    with pl.Config(
        tbl_rows=20,
        tbl_hide_dataframe_shape=True,
        tbl_hide_column_data_types=True,
        fmt_str_lengths=70,
        tbl_width_chars=160,
    ):
        click.echo(table)


@text.command()
@mlflow_names
def models() -> None:
    """List the registered text heads with their figures on test, the newest first.

    \b
    Example:
      recsys text models
    """
    from rich import box
    from rich.table import Table

    from recsys.cli.runs import console
    from training.tracking import text_versions

    versions = text_versions()
    if not versions:
        click.echo("no text head yet; next: recsys text train classes FILE")
        return
    table = Table(box=box.SIMPLE_HEAD, padding=0)
    for title in ("model", "version", "kind", "data", "encoder", "figures on test"):
        table.add_column(title)
    for name, version, params, metrics in versions:
        figures = [
            f"{key.removeprefix('test_')} {value:.3f}"
            for key, value in metrics.items()
            if key.startswith("test_") and not key.endswith(("_low", "_high")) and "/" not in key
        ]
        table.add_row(name, version, params["kind"], params["data"], params["encoder"], ", ".join(figures))
    console().print(table)


text.add_command(opinion.monitor)
text.add_command(opinion.score)
