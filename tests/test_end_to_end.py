"""From raw events to served lists, on a small simulated shop, with nothing replaced."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from rich.console import Console

from features.data.dataset import load_dataset
from features.histories import EARLY, LATE, TEST, VALID, read_log
from features.simulator.shop import simulate
from recsys.errors import RecsysError
from recsys.registry import bundle_folder, mlflow_client
from serving.api.app import create_app
from serving.api.live import ModelHolder
from serving.batch import histories_of, recommend_lists
from serving.loading import load_bundle
from serving.lookup import Lookup
from serving.recommender import RecommendOptions
from serving.store.store import Store
from tests.command_line import run
from tests.conftest import Shop
from tests.worlds import client_of
from training import demo_live, tracking
from training.evaluation.registered import evaluate_model
from training.pipeline import train
from training.ranker import fit_ranker

pytestmark = pytest.mark.slow


def test_the_model_learns_what_text_and_events_tell(inside: Shop) -> None:
    """Above the frozen encoder and popularity by more than the paired interval, below the oracle."""
    report = evaluate_model(inside.dataset, inside.model, "test", slow_baselines=True)
    ours = report.metrics["ndcg@10"]
    fitted = {"popularity", "item-knn", "als", "bm25", "ease", "ease + bm25", "frozen encoder"}
    assert set(report.baselines) == {*fitted, "oracle"}
    for name in ("frozen encoder", "popularity"):
        assert report.differences[name].low > 0.05 * ours.value, report.differences
    assert ours.value < report.baselines["oracle"]["ndcg@10"].value
    union = report.sources["all of them"]
    assert set(report.sources) == {*inside.config.sources.model_dump(), "all of them"}
    assert all(0 <= source.alone <= source.recall <= union.recall for source in report.sources.values())
    assert report.metrics["recall@50"].value <= union.recall


def test_the_demonstration_shows_a_scenario_an_experiment_and_a_burst(
    inside: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The burst leads the trends, every visitor is in an arm, and the promoted category has its share."""
    monkeypatch.setattr(demo_live, "VISITORS", 120)
    printed = io.StringIO()
    demo_live.show_live(inside.dataset, inside.model, Console(width=200, file=printed))
    shown = printed.getvalue()
    assert "user u000001 by the scenario “home”" in shown
    sizes = [int(count) for count in re.findall(r"(?:plain|home): (\d+) users", shown)]
    assert len(sizes) == 2 and sum(sizes) == 120
    after = next(line for line in shown.splitlines() if "│ after" in line)
    assert [cell.strip() for cell in after.split("│")][2] == "1."


def test_what_training_reported_is_what_evaluation_measures(inside: Shop) -> None:
    """The registered model is the one that was evaluated, to the last digit, and MLflow has the figures."""
    assert inside.trained.report is not None
    again = evaluate_model(inside.dataset, inside.model, "test", slow_baselines=False)
    for name, interval in inside.trained.report.metrics.items():
        assert again.metrics[name].value == pytest.approx(interval.value, abs=1e-6), name
    logged = tracking.find_run(inside.trained.run_id).data
    assert logged.metrics["test_ndcg_at_10"] == pytest.approx(again.metrics["ndcg@10"].value)
    assert logged.metrics["test_ndcg_at_10_low"] <= logged.metrics["test_ndcg_at_10"]
    losses = {"choose/loss_frozen_encoder", "choose/loss_fine_tuned_encoder", "refit/loss_frozen_encoder"}
    figures = {"valid_ndcg_at_10", "learning_rate", "gradient_norm", "sequences_per_s"}
    assert losses | {f"choose/{name}" for name in figures} <= set(logged.metrics)
    assert logged.metrics["seconds/fitting_the_ranker"] > 0 and logged.metrics["memory/peak_gib"] > 0.1
    assert logged.metrics["size/events"] > logged.metrics["size/items"] > 0
    assert logged.metrics["seconds/all_stages"] > logged.metrics["seconds/choosing_the_interest_model"]
    assert "system/cpu_utilization_percentage" in logged.metrics
    assert "test_coverage_at_10_low" not in logged.metrics  # nothing was drawn, so there is no interval
    assert int(logged.tags["machine.cores"]) > 0 and logged.params["fit_on"] == "train+valid"
    assert logged.params["interest.epochs"] == "2" and logged.tags["dataset.fingerprint"]


def test_batch_api_and_evaluation_give_the_same_lists(inside: Shop, tmp_path: Path) -> None:
    """For the same user and the same moment."""
    recommend_lists(inside.dataset, inside.model, 10, tmp_path / "lists")
    batch = pl.read_parquet(tmp_path / "lists" / "*.parquet")
    dataset = load_dataset(inside.dataset)
    bundle = load_bundle(bundle_folder(inside.model), dataset.items)
    assert bundle.items_as_of == dataset.items_as_of
    log = read_log(dataset, inside.config)
    now = int(log.times.max()) + 1
    store = Store(f"sqlite:///{tmp_path}/store.db")
    client = client_of(create_app(ModelHolder(inside.model, store), store, clock=lambda: now))
    items = dataset.items["item_id"]
    for row in range(0, len(log.user_ids), 11):
        user = log.user_ids[row]
        evaluated = bundle.recommender.recommend(
            histories_of(bundle.recommender, log, [row], now), RecommendOptions(10)
        )
        listed = [items[item] for item in evaluated.items[0].tolist()]
        assert batch.filter(pl.col("user_id") == user).sort("rank")["item_id"].to_list() == listed
        own = slice(log.offsets[row], log.offsets[row + 1])
        names = ("view", "click", "like", "share", "comment", "cart", "purchase")
        history = [
            {"item_id": items[item], "event_type": names[kind - 1], "timestamp": time}
            for item, kind, time in zip(
                log.items[own].tolist(), log.types[own].tolist(), log.times[own].tolist(), strict=True
            )
        ]
        answer = client.post("/v1/recommend", json={"history": history, "k": 10}).json()
        assert [item["item_id"] for item in answer["items"]] == listed


def test_the_registered_pyfunc_gives_the_same_lists_without_pickle(
    inside: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow's own interface loads it with pickle forbidden."""
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    bundle = load_bundle(bundle_folder(inside.model))
    lookup = Lookup(bundle)
    users = [*bundle.users["user_id"][:3], "nobody"]
    answers = tracking.predict(inside.model, pd.DataFrame({"user_id": users}), k=7)
    ranking = lookup.recommender.recommend(lookup.histories([(user, None) for user in users]), RecommendOptions(7))
    assert answers["items"].to_list() == lookup.item_ids(ranking.items)
    folder = bundle_folder(inside.model).parents[1]
    assert not [path for path in folder.rglob("*") if path.suffix in {".pkl", ".pickle", ".pt", ".bin"}]
    past = lookup.ids[:2]
    sent = tracking.predict(inside.model, pd.DataFrame({"user_id": [None], "history": [past]}), k=5)
    direct = lookup.recommender.recommend(lookup.histories([(None, past)]), RecommendOptions(5))
    assert sent["items"][0] == lookup.item_ids(direct.items)[0]


def test_the_registered_version_knows_the_newest_events(inside: Shop) -> None:
    """In its counts, its candidate sources and its histories, though none of them was fitted or measured with them."""
    bundle = load_bundle(bundle_folder(inside.model))
    log = read_log(load_dataset(inside.dataset), inside.config)
    newest = log.segments == TEST
    assert newest.any() and bundle.manifest["fit_on"] == "train+valid"
    assert bundle.recommender.retriever.features.facts.events.counts.sum() == len(log)
    assert bundle.recommender.retriever.features.facts.events.newest == log.times[newest].max()
    only_new = next(user for user in range(len(log.user_ids)) if newest[log.user_rows == user].all())
    past = Lookup(bundle).past(log.user_ids[only_new])
    assert [event.timestamp for event in past] == log.times[log.user_rows == only_new].tolist()


def test_the_registry_and_the_run_say_what_was_trained_on_what(inside: Shop) -> None:
    """The version has its figures and what differs from the defaults; the run names its dataset with counts."""
    with mlflow_client() as client:
        version = client.get_model_version("recsys", inside.trained.version)
        run = client.get_run(inside.trained.run_id)
    assert inside.trained.report is not None
    figure = f"{inside.trained.report.metrics['ndcg@10'].value:.4f}"
    assert f"ndcg@10 {figure} [" in version.description and "encoder.max_tokens=" in version.description
    assert version.tags["ndcg_at_10"] == figure and version.tags["fit_on"] == "train+valid"
    [used] = run.inputs.dataset_inputs
    counts = json.loads(used.dataset.profile)
    assert used.dataset.name == "simulated-shop" and counts["items"] == 250
    assert counts["first event"] < counts["last event"]


def test_an_unseen_item_is_recommended_from_its_text(inside: Shop, tmp_path: Path) -> None:
    """The twin of a well-liked item enters the lists of those who like such items, without retraining."""
    dataset = load_dataset(inside.dataset)
    log = read_log(dataset, inside.config)
    liked = int(np.bincount(log.items).argmax())
    twin = dataset.items[liked].with_columns(item_id=pl.lit("twin"))
    grown = load_bundle(bundle_folder(inside.model), pl.concat([dataset.items, twin])).recommender
    row = grown.retriever.items["item_id"].to_list().index("twin")
    lists = grown.recommend(
        histories_of(grown, log, list(range(len(log.user_ids))), int(log.times.max()) + 1), RecommendOptions(50)
    )
    assert (lists.items == row).any(1).sum() > 10


def test_every_user_has_a_full_list_of_distinct_items(inside: Shop, tmp_path: Path) -> None:
    """Also those without events."""
    (tmp_path / "users.txt").write_text("u000001\nunknown\n")
    written = recommend_lists(inside.dataset, inside.model, 12, tmp_path / "lists")
    lists = pl.read_parquet(tmp_path / "lists" / "*.parquet")
    assert (written.lists, written.rows) == (1500, 18000) == (lists["user_id"].n_unique(), lists.height)
    assert not lists.select("user_id", "item_id").is_duplicated().any()
    two = recommend_lists(inside.dataset, inside.model, 3, tmp_path / "two", users_file=tmp_path / "users.txt")
    assert (two.rows, two.lists) == (6, 2)


def test_fitted_splits_are_not_measured(inside: Shop) -> None:
    """Who fitted valid cannot be measured on it."""
    with pytest.raises(RecsysError, match=r"--split valid: the model was fitted on it .*--fit-on train to"):
        evaluate_model(inside.dataset, inside.model, "valid", slow_baselines=False)


def test_the_json_report_has_the_documented_form(inside: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    """dataset, split, n, metrics with intervals, segments, baselines; the run of the model keeps the same."""
    _, printed, _ = run(capsys, "evaluate", str(inside.dataset), "--json", "report.json", "--baselines")
    report = json.loads(Path("report.json").read_text())
    name = "evaluation-simulated-shop-test.json"
    assert f"kept with run {inside.trained.run_id} as {name}" in printed
    with mlflow_client() as client:
        assert json.loads(Path(client.download_artifacts(inside.trained.run_id, name)).read_text()) == report
    assert {"dataset", "split", "n", "metrics", "segments", "baselines"} <= set(report)
    assert set(report["metrics"]["ndcg@10"]) == {"value", "low", "high"}
    assert report["baselines"]["popularity"]["ndcg@10"]["value"] > 0
    assert report["segments"]["cold items"]["n"] > 0


def test_a_training_and_an_evaluation_leave_pictures_and_pages(
    inside: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the run, learning curves among them; `--html` writes the same page, and a comparison has one, too."""
    folder, page, both = "evaluation-simulated-shop-test", tmp_path / "report.html", tmp_path / "both.html"
    run(capsys, "evaluate", str(inside.dataset), "--html", str(page))
    run(capsys, "runs", "compare", inside.trained.version, inside.trained.version, "--html", str(both))
    with mlflow_client() as client:
        kept = Path(client.download_artifacts(inside.trained.run_id, ""))
    drawn = {path.stem for path in (kept / folder / "pictures").iterdir()}
    assert drawn >= {"segments", "sources", "popularity", "calibration", "importance", "catalogue", "learning"}
    assert drawn == {path.stem for path in (kept / "pictures").iterdir()}
    assert (kept / folder / "report.html").read_text(encoding="utf-8") == page.read_text(encoding="utf-8")
    assert page.read_text(encoding="utf-8").count("data:image/png") == len(drawn)
    assert "epoch" in json.loads((kept / "epochs.json").read_text())["choose"][0]
    assert "neither better nor worse" in both.read_text(encoding="utf-8")


def test_a_stopped_run_goes_on_where_it_was(tmp_path: Path, inside: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--resume` keeps the finished segments, refuses other options, and ends with a registered model."""
    monkeypatch.chdir(tmp_path)
    simulate(tmp_path / "shop", users=150, items=100, seed=1)
    config = inside.config.model_copy(update={"interest": inside.config.interest.model_copy(update={"epochs": 1})})

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("training.fits.fit_ranker", stopped)
        with pytest.raises(KeyboardInterrupt):
            train(Path("shop"), config, None, 0, "train")
    run_id = next((tmp_path / ".recsys" / "runs").iterdir()).name
    kept = tmp_path / ".recsys" / "runs" / run_id / "choose" / "result.json"
    before = kept.stat().st_mtime_ns
    with pytest.raises(RecsysError, match="seed differ"):
        train(Path("shop"), config, None, 1, "train", resume=run_id)
    seen: list[int] = []

    def watched(*arguments: Any) -> Any:
        seen.append(kept.stat().st_mtime_ns)
        return fit_ranker(*arguments)

    monkeypatch.setattr("training.fits.fit_ranker", watched)
    trained = train(Path("shop"), config, None, 0, "train", resume=run_id)
    assert seen == [before]
    assert (trained.run_id, trained.version) == (run_id, "1")
    assert tracking.find_run(run_id).info.status == "FINISHED"


def test_ctrl_c_stops_a_fit_and_says_how_to_go_on(tmp_path: Path) -> None:
    """What was broken off is no finished stage."""
    simulate(tmp_path / "shop", users=150, items=100, seed=1)
    command = [
        sys.executable,
        "-m",
        "recsys",
        "train",
        "shop",
        "--set",
        "interest.epochs=200",
        "--set",
        "interest.patience=200",
    ]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            command,
            cwd=tmp_path,
            stdout=log,
            stderr=log,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    end = time.monotonic() + 200
    while not list(tmp_path.glob(".recsys/runs/*/choose/progress.json")) and process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    printed = (tmp_path / "log").read_text()
    assert re.search(r"`recsys train shop --resume \w+` continues this run\s+stopped$", printed.rstrip()), printed
    assert not list(tmp_path.glob(".recsys/runs/*/choose/result.json"))


def test_commands_end_with_what_to_do_next(inside: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Lists are written by the command line as by the function."""
    out = tmp_path / "lists"
    code, printed, _ = run(capsys, "recommend", str(inside.dataset), "--k", "3", "--out", str(out))
    assert (code, pl.read_parquet(out / "*.parquet").height) == (0, 4500)
    assert "4,500 rows, lists for 1,500 of 1,500 users" in printed


def test_a_model_that_is_not_registered_is_one_clear_line(
    inside: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1, the name, and what to run; nothing is written."""
    out = tmp_path / "lists"
    for model in ("models:/nope@champion", "models:/recsys/99", "no/folder"):
        code, _, errors = run(capsys, "recommend", str(inside.dataset), "--model", model, "--out", str(out))
        lines = [line for line in errors.splitlines() if line.startswith("error:")]
        assert code == 1 and len(lines) == 1 and model in lines[0]
        assert "Traceback" not in errors
    assert os.listdir(tmp_path) == []


def test_segments_are_apart_in_time(inside: Shop) -> None:
    """The ranker learns from what comes after the first interest model's events, and test comes last."""
    log = read_log(load_dataset(inside.dataset), inside.config)
    newest = [log.times[log.segments == segment].max() for segment in (EARLY, LATE, VALID)]
    oldest = [log.times[log.segments == segment].min() for segment in (LATE, VALID, TEST)]
    assert all(before < after for before, after in zip(newest, oldest, strict=True))
