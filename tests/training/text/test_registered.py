"""A text head from a file to MLflow and back: trained by the command, read by the command and by MLflow."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch

from recsys.cli import main
from recsys.errors import RecsysError
from recsys.models.encoder import load_encoder_folder
from recsys.registry import bundle_folder, mlflow_client
from recsys.settings import read_settings
from recsys.text.bundle import load_text_model
from serving.api.app import create_app
from serving.store.store import Store
from serving.text.heads import HeadNames, TextHeads
from tests.command_line import run
from tests.worlds import client_of, holder_of, log_of, tiny_bundle, write_dataset
from training.tracking import text_versions

pytestmark = pytest.mark.slow

GOOD, BAD = ["a fine lamp", "good and fine", "good table"], ["a poor lamp", "bad and poor", "bad table"]
OPTIONS = ("--set", "text.class_epochs=1")


def labelled(count: int) -> pl.DataFrame:
    """Return `count` texts of each of two classes."""
    rows = [
        (f"{text} {row}", label) for row in range(count) for text, label in ((GOOD[row % 3], "1"), (BAD[row % 3], "0"))
    ]
    return pl.DataFrame(rows, schema=["text", "label"], orient="row")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, encoder: str) -> Path:
    """Return a working directory with a head of each kind of labels, trained by the command."""
    folder = tmp_path_factory.mktemp("heads")
    labelled(30).write_csv(folder / "one.csv")
    several = labelled(30).with_columns(
        labels=pl.when(pl.col("text").str.contains("lamp"))
        .then(pl.concat_list("label", pl.lit("lamps")))
        .otherwise(pl.concat_list("label"))
    )
    several.drop("label").write_ndjson(folder / "several.jsonl")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for file, name in (("one.csv", "sentiment"), ("several.jsonl", "topics")):
            patch.setattr(
                sys,
                "argv",
                [
                    "recsys",
                    "text",
                    "train",
                    "classes",
                    file,
                    "--name",
                    name,
                    "--set",
                    f"encoder.name={encoder}",
                    *OPTIONS,
                ],
            )
            with pytest.raises(SystemExit) as ended:
                main()
            assert not ended.value.code
    return folder


@pytest.fixture
def inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return that folder as the working directory."""
    monkeypatch.chdir(folder)
    return folder


def test_lines_are_read_by_the_registered_champion(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A text per line; empty lines are none."""
    (inside / "lines.txt").write_text("good and fine 2\n\nbad and poor 2\n")
    code, out, _ = run(capsys, "text", "read", "models:/sentiment@champion", "lines.txt", "--out", "read.csv")
    assert code == 0 and "2 texts written" in out
    read = pl.read_csv(inside / "read.csv")
    assert read.columns == ["text", "label", "probability"]
    assert read["label"].to_list() == [1, 0]
    assert read["probability"].to_numpy().min() >= 0.5


@pytest.mark.parametrize("out", ["read.jsonl", "read.parquet"])
def test_several_classes_are_lists_and_other_columns_stay(
    inside: Path, capsys: pytest.CaptureFixture[str], out: str
) -> None:
    """Each text keeps its row."""
    pl.DataFrame({"id": [7, 8], "text": ["a fine lamp 3", "bad table 2"]}).write_parquet(inside / "in.parquet")
    assert run(capsys, "text", "read", "models:/topics/1", "in.parquet", "--out", out)[0] == 0
    read = pl.read_ndjson(inside / out) if out.endswith("jsonl") else pl.read_parquet(inside / out)
    assert read["id"].to_list() == [7, 8]
    assert [sorted(labels) for labels in read["labels"].to_list()] == [["1", "lamps"], ["0"]]
    assert [len(values) for values in read["probabilities"].to_list()] == [2, 1]


def test_the_models_are_listed_with_their_figures(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By name, with what they were fitted on."""
    assert {name for name, *_ in text_versions()} >= {"sentiment", "topics"}
    code, out, _ = run(capsys, "text", "models")
    assert code == 0 and "one.csv" in out and "several.jsonl" in out and "accuracy" in out


def test_mlflow_loads_a_head_and_rows_out_are_rows_in(inside: Path) -> None:
    """By the name under which it is registered."""
    with mlflow_client():
        model = mlflow.pyfunc.load_model("models:/sentiment@champion")
    rows = pd.DataFrame({"text": ["bad and poor 2", "good and fine 2"]}, index=[5, 3])
    read = model.predict(rows)
    assert read.index.tolist() == [5, 3] and read["label"].tolist() == ["0", "1"]


def test_recommenders_are_listed_without_text_heads(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Their experiment and their model are others."""
    for command in ("models", "runs"):
        code, out, _ = run(capsys, command, "list", "--json") if command == "runs" else run(capsys, command, "list")
        assert code == 0 and "sentiment" not in out and "topics" not in out


def test_a_head_of_another_kind_of_model_is_one_line(
    inside: Path, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Either way."""
    (inside / "lines.txt").write_text("good lamp\n")
    code, _, err = run(capsys, "text", "read", str(tiny), "lines.txt")
    assert code == 1 and "a recommender, not a text head; train one" in err and err.count("\n") == 1
    write_dataset(inside / "shop")
    code, _, err = run(capsys, "recommend", "shop", "--model", "models:/sentiment@champion", "--out", "lists")
    assert code == 1 and "a text head, which reads texts" in err and err.count("\n") == 1


def test_events_get_the_opinion_of_their_texts(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Null without a text; the other tables are as they were, and a wrong column is one line."""
    folder = write_dataset(inside / "reviews")
    events = next(folder.glob("events.*"))
    table = pl.read_parquet(events) if events.suffix == ".parquet" else pl.read_csv(events, infer_schema=False)
    texts = (["good and fine 2", "bad and poor 2", None] * table.height)[: table.height]
    events.unlink()
    table.with_columns(pl.Series("comment", texts)).write_csv(folder / "events.csv")
    options = ("text", "score", "models:/sentiment@champion", "reviews", "--out", "scored")
    code, _, err = run(capsys, *options)
    assert code == 1 and "no column 'text'" in err
    code, out, _ = run(capsys, *options, "--column", "comment")
    assert code == 0 and "ranker.opinion=opinion" in out
    scored = pl.read_parquet("scored/events.parquet")
    opinions = scored["opinion"].to_list()
    assert opinions[0] > 0.5 > opinions[1] and opinions[2] is None
    assert scored.drop("opinion").height == table.height
    assert {path.stem for path in Path("scored").iterdir()} == {path.stem for path in folder.iterdir()}


def test_the_api_reads_the_opinion_of_an_events_text(
    inside: Path, tmp_path: Path, encoder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the event says itself stays; a head that tells no positive texts is refused when the server starts."""
    log = log_of([(f"u{step % 12}", f"i{step % 35}", "click", step) for step in range(60)], 40)
    bundle = tiny_bundle(tmp_path, replace(log, opinions=np.full(len(log), 0.5)), {"opinion": "said"})
    store = Store(f"sqlite:///{tmp_path}/store.db")
    sent = [{"text": "good and fine 2"}, {"text": "bad and poor 2", "shop": "b"}, {"text": "good", "said": 0.1}, {}]
    events = [{"user_id": "u", "item_id": "i1", "event_id": str(n), "attributes": own} for n, own in enumerate(sent)]
    heads = TextHeads.load(HeadNames(opinion="models:/sentiment@champion"))
    with client_of(create_app(holder_of(bundle, store), store, heads=heads)) as client:
        assert client.post("/v1/events", json={"events": events}).status_code == 200
    kept: list[Any] = [event.context for event in store.events_of(["u"])]
    store.close()
    assert kept[0]["said"] > 0.5 > kept[1]["said"] and kept[1]["shop"] == "b"
    assert kept[2:] == [{"text": "good", "said": 0.1}, None]
    run(
        capsys,
        "text",
        "train",
        "classes",
        "--name",
        "places",
        "--zero-shot",
        "sea=sea,hill=hill",
        *OPTIONS,
        "--set",
        f"encoder.name={encoder}",
    )
    with pytest.raises(RecsysError, match="the labels are hill, sea"):
        TextHeads.load(HeadNames(opinion="models:/places@champion"))


def test_heads_follow_their_alias_and_stay_while_it_stands_for_none_that_loads(inside: Path) -> None:
    """Nothing is loaded again while it stays where it is."""
    with mlflow_client() as client:
        client.set_registered_model_alias("sentiment", "live", "1")
    heads = TextHeads.load(HeadNames(opinion="models:/sentiment@live"))
    first = heads.classifier
    heads.follow()
    assert heads.classifier is first
    with mlflow_client() as client:
        source = client.get_model_version("sentiment", "1")
        newer = client.create_model_version("sentiment", source.source, source.run_id)
        client.set_registered_model_alias("sentiment", "live", newer.version)
    heads.follow()
    assert heads.classifier is not first and heads.versions.opinion == f"models:/sentiment/{newer.version}"
    second = heads.classifier
    with mlflow_client() as client:
        client.delete_registered_model_alias("sentiment", "live")
    with pytest.raises(RecsysError, match="--opinion models:/sentiment@live"):
        heads.follow()
    assert heads.classifier is second


def test_a_recommender_can_be_trained_on_the_encoder_of_a_head(
    inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is copied into the working folder once; a name that is not registered is one line."""
    named = "encoder.name=models:/sentiment@champion"
    folder, again = (read_settings(None, (named,)).encoder.name for _ in range(2))
    assert folder == again and Path(folder).is_relative_to(inside / ".recsys")
    encoder, _ = load_encoder_folder(folder, 1)
    own = load_text_model(bundle_folder("models:/sentiment/1")).encoder
    for mine, its in zip(encoder.parameters(), own.parameters(), strict=True):
        assert torch.equal(mine, its)
    shop = write_dataset(inside / "goods")
    assert run(capsys, "data", "check", str(shop), "--set", named)[0] == 0
    code, _, err = run(capsys, "data", "check", str(shop), "--set", "encoder.name=models:/nobody@champion")
    assert code == 1 and err.startswith("error: encoder.name models:/nobody@champion") and err.count("\n") == 1


def test_names_alone_make_a_head(inside: Path, encoder: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing was measured then, and nothing is printed of it; without names there must be texts."""
    options = ("--name", "named", "--zero-shot", "bad=bad,good=good", "--set", f"encoder.name={encoder}")
    code, out, _ = run(capsys, "text", "train", "classes", *options)
    assert code == 0 and "registered models:/named/1" in out and "accuracy" not in out
    code, _, err = run(capsys, "text", "train", "classes")
    assert code == 2 and "DATA is missing" in err


@pytest.mark.parametrize("name", ["recsys", "a/b"])
def test_a_head_takes_no_name_of_recommenders(inside: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    """Before anything is fitted: the champion that serves would be replaced."""
    code, _, err = run(capsys, "text", "train", "classes", "one.csv", "--name", name)
    assert code == 1 and f"--name {name}" in err.replace("'", "") and err.count("\n") == 1


def test_the_bundle_says_what_it_was_fitted_on(inside: Path) -> None:
    """Its manifest has the data, its seed and its figures."""
    manifest = json.loads((bundle_folder("models:/sentiment/1") / "manifest.json").read_text())
    assert manifest["data"] == "one.csv" and manifest["texts"] == 60 and manifest["seed"] == 0
    assert "test_accuracy" in manifest["metrics"]
