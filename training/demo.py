"""The demonstration: `make demo`, or `python -m training.demo [FOLDER]`.

In: nothing. Out: a folder with a simulated shop, a registered text head that reads its items' attributes, a trained and registered model, an
evaluation and lists for all users; on stdout the tables, five example users and what to try next.
"""

import os
import shutil
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path

import polars as pl
from rich.console import Console
from rich.table import Table

from features.simulator.shop import label, simulate
from features.texts.items import entity_texts
from features.texts.tagged import read_tagged
from recsys.config import Config, load_config
from recsys.errors import RecsysError
from recsys.progress import stage
from recsys.registry import bundle_folder
from recsys.text.bundle import load_text_model
from serving.batch import recommend_lists
from serving.text.attributes import SETTINGS as ATTRIBUTES
from serving.text.attributes import extract
from serving.text.tokens import KIND, Tagger
from training.demo_live import show_live
from training.evaluation.registered import evaluate_model
from training.evaluation.report import render
from training.pictures.charts import pictures
from training.pictures.page import report_page, write_page
from training.pipeline import train
from training.text.report import TextReport
from training.text.run import train_head
from training.text.tokens import fit_tokens, measure_tokens
from training.tracking import read_epochs

USERS, ITEMS, SEED = 2000, 1500, 7
EXAMPLES = 5
SHOWN = 4
LABELLED = 300
"""Items whose attributes are told to the text head, which finds those of the others in their texts."""
RUN, HEAD = "demo", "attributes"
SETTINGS = ("encoder.max_tokens=48",)
"""What keeps the demonstration under ten minutes on two cores; the rest is as by default."""


def main(folder: Path) -> None:
    """Run every step in `folder`, which is made anew.

    Raises:
        RecsysError: other models than the demonstration's were trained there.
    """
    start, out = time.monotonic(), Console()
    refuse_to_delete_others(folder)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    os.chdir(folder)
    simulated, shop = Path("simulated"), Path("shop")
    with stage("simulating a shop"):
        simulate(simulated, USERS, ITEMS, SEED)
    _read_attributes(simulated, shop, out)
    trained = train(shop, load_config(shop / ATTRIBUTES, SETTINGS), RUN, seed=0, fit_on="train+valid")
    report = evaluate_model(shop, trained.model, "test", slow_baselines=True)
    report.write(Path("evaluation.json"))
    drawn = pictures(report, read_epochs(trained.run_id))
    write_page(report_page(report, drawn, f"version {trained.version}"), Path("evaluation.html"))
    written = recommend_lists(shop, trained.model, 20, Path("lists"))
    render(report, out)
    _show_users(shop, out)
    show_live(shop, trained.model, out)
    out.print(f"\nlists for {written.lists:,} users in {folder / 'lists'}; all in {time.monotonic() - start:.0f} s")
    out.print(f"the report with pictures, for a browser: {folder / 'evaluation.html'}")
    out.print(f"\nnext, in {folder}:")
    for command in (
        "../.venv/bin/recsys serve --attributes models:/attributes@champion",
        "../.venv/bin/recsys runs ui",
        "../.venv/bin/recsys train shop --config shop/attributes.toml --set interest.epochs=8 --name longer",
    ):
        out.print(f"  {command}", highlight=False, soft_wrap=True)


def _read_attributes(simulated: Path, shop: Path, out: Console) -> None:
    """Fit a text head on a few labelled items of the dataset `simulated`, and write it to `shop` with what the head finds in all of them."""
    labelled, others = (read_tagged(path) for path in label(simulated, LABELLED))
    fitted, chosen = labelled.parts((0.8,))
    trained = train_head(
        "tokens",
        {"data": simulated.name, "texts": LABELLED},
        Config(),
        0,
        HEAD,
        lambda update: fit_tokens(fitted, chosen, Config(), 0, update),
        lambda model: measure_tokens(model, others),
    )
    tagger = Tagger(load_text_model(bundle_folder(trained.model), KIND))
    with stage("reading the items' texts"):
        extract(tagger, simulated, shop)
    _show_attributes(tagger, shop, trained.report, out)


def refuse_to_delete_others(folder: Path) -> None:
    """Raise RecsysError where the MLflow store in `folder` holds runs that the demonstration did not make."""
    database = folder / "mlflow.db"
    if not database.exists():
        return
    with closing(sqlite3.connect(database)) as store:
        others = [name for (name,) in store.execute("SELECT name FROM runs WHERE name NOT IN (?, ?)", (RUN, HEAD))]
    if others:
        raise RecsysError(
            f"{folder}: holds {len(others)} runs besides the demonstration's, for example {others[0]!r}, which would be deleted; "
            "move or remove the folder, or name another: python -m training.demo FOLDER"
        )


def _show_attributes(tagger: Tagger, shop: Path, report: TextReport | None, out: Console) -> None:
    """Print how well attributes are found, and those of some items."""
    items = pl.read_parquet(shop / "items.parquet").head(EXAMPLES)
    found = report.figures["micro_f1"] if report else None
    score = f": F1 {found.value:.3f} [{found.low:.3f}, {found.high:.3f}]" if found else ""
    table = Table(
        title=f"attributes found in the texts of items, by a text head that knew those of {LABELLED}{score}",
        show_lines=True,
    )
    for column in ("item", "what its text says"):
        table.add_column(column)
    for title, row in zip(items["title"], tagger.found(entity_texts(items)), strict=True):
        table.add_row(title, "\n".join(f"{one.label}: “{one.text}”" for one in row))
    out.print(table)


def _show_users(shop: Path, out: Console) -> None:
    """Print what some users bought and what they are recommended."""
    items = pl.read_parquet(shop / "items.parquet").select("item_id", "title")
    bought = (
        pl.scan_parquet(shop / "events.parquet")
        .filter(pl.col("event_type") == "purchase")
        .sort("timestamp")
        .collect()
        .join(items, on="item_id", maintain_order="left")
    )
    lists = pl.read_parquet("lists/*.parquet").join(items, on="item_id", maintain_order="left")
    users = bought.group_by("user_id", maintain_order=True).len().filter(pl.col("len") >= 3)["user_id"]
    table = Table(title="five users", show_lines=True)
    for column in ("user", "bought, latest first", "recommended"):
        table.add_column(column)
    for user in users.sort().head(EXAMPLES):
        past = bought.filter(pl.col("user_id") == user)["title"].reverse().head(SHOWN)
        top = lists.filter(pl.col("user_id") == user).sort("rank")["title"].head(SHOWN)
        table.add_row(user, "\n".join(past), "\n".join(top))
    out.print(table)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo").resolve())
    except RecsysError as error:
        sys.exit(f"error: {error}")
