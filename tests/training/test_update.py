"""Updates: tables that grow, what is refused, the guard, and one update from beginning to end."""

import json
import tempfile
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.updates import Worker, run_here
from features.data.dataset import load_dataset
from features.histories import EARLY, LATE, TEST, VALID, read_log, split_rule
from recsys.bundle import verify
from recsys.cli.runs import print_runs
from recsys.config import Config, load_config
from recsys.errors import RecsysError
from recsys.metrics import Interval
from recsys.models.id_table import TorchRecIdTable
from recsys.registry import bundle_folder
from serving.loading import load_bundle, rows_of
from tests.command_line import run
from tests.worlds import START, with_config, write_dataset
from training import pipeline, run_list, tracking
from training.evaluation.registered import evaluate_model
from training.interest import ray_fit
from training.interest.sequences import later_and_some
from training.pipeline import _guarded, train
from training.prepared import Prepared
from training.run_info import FULL_FIT, UPDATE, UPDATED_FROM, RunInfo
from training.update import Start, Verdict

WIDTH = 4
LATER = 30 * 86_400
"""Seconds after `START` at which what the bundle `tiny` has not seen begins."""

ids = st.lists(st.integers(0, 30).map(str), unique=True)


@given(ids, ids)
def test_a_grown_table_keeps_every_row_by_its_id_and_new_ones_are_unknown_zeros(old: list[str], new: list[str]) -> None:
    """Whatever the order, and whichever items have gone."""
    before = TorchRecIdTable(torch.rand(len(old)) < 0.7, WIDTH)
    with torch.no_grad():
        for weight in before.table.parameters():
            weight.normal_()
    rows = rows_of(pl.Series(old, dtype=pl.String), pl.Series(new, dtype=pl.String)).copy()
    grown = TorchRecIdTable(torch.ones(len(new), dtype=torch.bool), WIDTH)
    if not old or not new:  # an empty table has a row that no item takes
        assert (rows == -1).all()
        return
    grown.load_state_dict(TorchRecIdTable.regrown(before.state_dict(), torch.from_numpy(rows)))
    vectors = grown(torch.arange(len(new)))
    for row, item in enumerate(new):
        expected = before(torch.tensor([old.index(item)]))[0] if item in old else torch.zeros(WIDTH)
        torch.testing.assert_close(vectors[row], expected)
        assert bool(grown.known[row]) == (item in old and bool(before.known[old.index(item)]))


@given(st.lists(st.integers(0, 20)), st.integers(0, 20), st.floats(0, 3))
def test_an_update_sees_all_that_is_later_and_as_many_others_as_it_asks_for(
    times: list[int], since: int, older: float
) -> None:
    """Each once, in order."""
    rows = later_and_some(np.array(times, np.int64), since, older)
    later = {row for row, time in enumerate(times) if time > since}
    assert later <= set(rows.tolist()) and (np.diff(rows) > 0).all()
    assert len(rows) - len(later) == min(len(times) - len(later), round(older * len(later)))


@settings(max_examples=15)
@given(st.integers(1, 60), st.integers(1, 60), st.floats(0.05, 0.45), st.floats(0.05, 0.45))
def test_what_was_learned_is_never_held_out_and_the_rest_is_shared_in_time(
    old: int, new: int, valid: float, test: float
) -> None:
    """What came later is `LATE`, valid and test, of which each has at most a third."""
    lines = "".join(f"u{row % 7},i{row % 8},click,{1_700_000_000 + row}\n" for row in range(old + new))
    with tempfile.TemporaryDirectory() as folder:
        path = write_dataset(Path(folder) / "d", **{"events.csv": "user_id,item_id,event_type,timestamp\n" + lines})
        until = datetime.fromtimestamp(1_700_000_000 + old - 1, UTC)
        data = {"valid_share": valid, "test_share": test, "learned_until": until}
        log = read_log(load_dataset(path), Config.model_validate({"data": data}))
    order = np.argsort(log.times)
    segments = log.segments[order]
    assert (segments[:old] == EARLY).all() and (segments[old:] != EARLY).all()
    assert (np.diff(segments) >= 0).all()
    for segment in (VALID, TEST):
        assert (segments == segment).sum() <= -(-new // 3)


def test_without_later_events_everything_is_for_training(tmp_path: Path) -> None:
    """As where a version is evaluated on the data before it."""
    until = {"learned_until": datetime(2030, 1, 1, tzinfo=UTC)}
    log = read_log(load_dataset(write_dataset(tmp_path / "d")), Config.model_validate({"data": until}))
    assert (log.segments == EARLY).all()


def test_the_configuration_is_that_of_the_model_with_what_was_set_on_top() -> None:
    """Keys that nobody names stay as they were, not as by default."""
    base = load_config(None, ("interest.layers=4", "ranker.trees=30"))
    config = load_config(None, ("ranker.trees=50",), base)
    assert (config.interest.layers, config.ranker.trees) == (4, 50)


def test_other_widths_are_refused_with_the_keys_that_differ(tiny: Path) -> None:
    """All of them in one line, with both values and what to do."""
    start = Start.of(str(tiny))
    config = load_config(None, ("interest.layers=3", "taste.width=9", "update.epochs=1"), start.config)
    with pytest.raises(RecsysError) as error:
        start.continued(config)
    assert str(error.value) == (
        f"--from {tiny}: the weights do not fit interest.layers=3 (it has 2), taste.width=9 (it has 8); "
        "leave these keys as in that model, or train without --from"
    )


def test_an_update_learns_from_what_is_newer_than_the_weights(tiny: Path, tmp_path: Path) -> None:
    """Newer than the newest event that they were fitted on; a bundle that does not say it is asked what it knows."""
    start = Start.of(str(tiny))
    newest = int(np.load(tiny / "facts.npz")["event_times"].max())
    assert start.learned_until == newest
    assert start.continued(start.config).data.learned_until == datetime.fromtimestamp(newest / 1e6, UTC)
    said = replace(start, manifest=start.manifest | {"fitted_until": START + 7})
    assert said.learned_until == START + 7
    assert said.moment - datetime.fromtimestamp(START // 1_000_000, UTC) == timedelta(microseconds=7)


def later_shop(tiny: Path, folder: Path, **changes: Any) -> Path:
    """Write a dataset that goes on from the bundle `tiny`: its items and a few more, its events and those of many users later."""
    known = pl.read_parquet(tiny / "items.parquet")
    items = pl.concat([known.select("item_id", "title", "brand", "price"), new_items()])
    before = pl.read_parquet(tiny / "users.parquet").explode("items", "types", "times")
    rows = [
        (f"n{user:02}", f"i{(5 * user + 3 * step) % items.height}", START + 1_000_000 * (LATER + 90 * step + user))
        for user in range(60)
        for step in range(12)
    ]
    events = pl.concat(
        [
            before.select("user_id", item_id="i" + pl.col("items").cast(pl.String), timestamp="times"),
            pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row"),
        ]
    ).with_columns(event_type=pl.lit("click"))
    folder.mkdir()
    tables = {"items": items, "events": events} | changes
    for name, table in tables.items():
        table.write_parquet(folder / f"{name}.parquet")
    (folder / "dataset.json").write_text(json.dumps({"name": "tiny"}))
    return folder


def new_items() -> pl.DataFrame:
    """Return three items that the bundle `tiny` does not know, of a new brand."""
    return pl.DataFrame(
        {
            "item_id": ["i40", "i41", "i42"],
            "title": ["blue lamp", "steel chair", "wooden table"],
            "brand": "brand new",
            "price": [1.0, 2.0, 3.0],
        }
    )


def refusal(start: Start, folder: Path, **data: Any) -> str:
    dataset = load_dataset(folder)
    config = start.continued(Config.model_validate(start.config.model_dump() | {"data": data}))
    with pytest.raises(RecsysError) as error:
        start.refuse_other_data(dataset, read_log(dataset, config), split_rule(dataset, config))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_data_that_do_not_go_on_from_the_models_are_refused(tiny: Path, tmp_path: Path) -> None:
    """Nothing new, no item in common, requests held out that the model has seen, or an order in which nobody can tell."""
    start = Start.of(str(tiny))
    shop = later_shop(tiny, tmp_path / "shop")
    events = pl.read_parquet(shop / "events.parquet")
    old = later_shop(tiny, tmp_path / "old", events=events.filter(pl.col("timestamp") <= start.learned_until))
    assert "no event is later than" in refusal(start, old)
    assert "are split by data.split=leave-last" in refusal(start, shop, split="leave-last")
    others = write_dataset(tmp_path / "others", **{"items.csv": "item_id,title\n" + "".join(
        f"x{row},Title {row}\n" for row in range(8)), "events.csv": "user_id,item_id,event_type,timestamp\nu,x1,click,1750000000\nv,x1,click,1750000000\n"})  # fmt: skip
    assert "none of the model's 40 items, for example i0, is in the dataset" in refusal(start, others)
    split = pl.Series(["valid" if row < 3 else "train" for row in range(events.height)])
    held = later_shop(tiny, tmp_path / "held", events=events.with_columns(split=split))
    (held / "dataset.json").write_text(json.dumps({"split": "column"}))
    assert "3 of 3 events of valid and test are no later than" in refusal(start, held)


def test_missing_old_events_are_noted_and_no_reason_to_stop(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A window of the latest events is a fair dataset."""
    start, shop = Start.of(str(tiny)), later_shop(tiny, tmp_path / "shop")
    events = pl.read_parquet(shop / "events.parquet").filter(pl.col("user_id") != "u0")
    window = later_shop(tiny, tmp_path / "window", events=events)
    for folder in (shop, window):
        dataset, config = load_dataset(folder), start.continued(start.config)
        start.refuse_other_data(dataset, read_log(dataset, config), split_rule(dataset, config))
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert len(notes) == 1 and "window has 55 of the 60 events and 40 of the 40 items" in notes[0]


def test_a_model_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It names the option that was given."""
    code, _, err = run(capsys, "train", str(write_dataset(tmp_path / "d")), "--from", str(tmp_path / "nowhere"))
    assert code == 1 and f"--from {tmp_path / 'nowhere'}: no such folder" in err


def test_a_verdict_is_bad_only_where_the_whole_interval_is_below_zero() -> None:
    """A difference that may be chance keeps the update."""
    good = Verdict(0.1, 0.09, Interval(-0.01, -0.02, 0.001), 50)
    bad = replace(good, difference=Interval(-0.01, -0.02, -0.001))
    assert not good.worse and good.line("m").endswith("-0.0100 [-0.0200, +0.0010]: the update is kept")
    assert bad.worse and bad.line("m").endswith("worse, so everything is fitted from nothing")
    assert bad.metrics()["update/valid_ndcg_at_10_difference_high"] == -0.001


@pytest.mark.parametrize(("high", "outcome"), [(0.001, "kept"), (-0.001, FULL_FIT)])
def test_a_worse_update_gives_way_to_a_fit_from_nothing(
    high: float, outcome: str, tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run says which it was, in a line, a tag and metrics."""
    logged: dict[str, Any] = {}
    monkeypatch.setattr(tracking, "log_metrics", lambda run, metrics: logged.update(metrics))
    monkeypatch.setattr(tracking, "set_tag", lambda run, name, value: logged.update({name: value}))
    verdict = Verdict(0.1, 0.09, Interval(-0.01, -0.02, high), 50)
    monkeypatch.setattr(pipeline, "judge_update", lambda *arguments: verdict)
    nothing: Any = SimpleNamespace()
    prepared = Prepared(nothing, nothing, nothing, None, Config(), 0, Start.of(str(tiny)))
    fitted = _guarded(prepared, "all", "run")
    assert (fitted.start is None) == (outcome == FULL_FIT)
    assert logged[UPDATE] == outcome and logged["update/valid_ndcg_at_10_difference_high"] == high
    assert "ndcg@10 of the interest model on 50 requests of valid 0.1000 → 0.0900" in capsys.readouterr().err


def test_a_run_names_what_it_was_updated_from_unless_it_was_fitted_from_nothing() -> None:
    """The nearest first."""
    about = ("id", "name", 0, "FINISHED")
    tags = {UPDATED_FROM: "models:/recsys/2, models:/recsys/1"}
    assert RunInfo.of(about, {}, tags, {}, (), {}).updated_from == ("models:/recsys/2", "models:/recsys/1")
    assert RunInfo.of(about, {}, tags | {UPDATE: FULL_FIT}, {}, (), {}).updated_from == ()
    assert RunInfo.of(about, {}, {}, {}, (), {}).updated_from == ()


def test_lists_of_runs_have_a_column_of_what_a_version_was_updated_from_where_one_was(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Versions of the registered model by their numbers."""
    first = RunInfo.of(("a" * 32, "name", 0, "FINISHED"), {}, {}, {}, ("1",), {})
    update = replace(first, id="b" * 32, versions=("2",), updated_from=("models:/recsys/1",))
    print_runs([update, first])
    header, _, row, *_ = capsys.readouterr().out.strip().splitlines()
    assert header.split()[:3] == ["run", "version", "from"] and row.split()[:3] == ["bbbbbbbb", "2", "1"]
    print_runs([first])
    assert "from" not in capsys.readouterr().out


@pytest.mark.slow
def test_an_update_is_registered_resumed_and_measured_like_a_training(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its fits start from the model's weights; killed before it registers, it goes on from its stages.

    The fits run in this process: starting Ray would take longer than all the rest.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ray_fit, "_Worker", Worker)
    monkeypatch.setattr(ray_fit, "_run", run_here)
    sets = ("ranker.min_steps=20", "update.epochs=1", "interest.learning_rate=1e-6")
    small = with_config(tiny, tmp_path / "bundle", ranker={"kind": "lightgbm", "trees": 5, "teachers": 1})
    start, shop = Start.of(str(small)), later_shop(tiny, tmp_path / "shop")
    config = load_config(None, sets, start.config)
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "_register", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(shop, config, "update", 0, "train+valid", None, start)
    run_id = tracking.runs()[0].id
    assert f"`recsys train {shop} --from {small} --resume {run_id}` continues" in capsys.readouterr().err
    with pytest.raises(RecsysError, match=r"updated_from.* differ"):
        train(shop, start.continued(config), "update", 0, "train+valid", run_id)
    monkeypatch.setattr(ray_fit, "_run", lambda *arguments: pytest.fail("a finished stage was fitted again"))
    trained = train(shop, config, "update", 0, "train+valid", run_id, start)

    folder = bundle_folder(trained.model)
    manifest, bundle, before = verify(folder), load_bundle(folder), load_bundle(tiny)
    log = read_log(load_dataset(shop), bundle.recommender.retriever.config)
    assert manifest["updated_from"] == [str(small)]
    assert manifest["fitted_until"] == log.times[log.segments != TEST].max()
    assert set(np.unique(log.segments)) == {EARLY, LATE, VALID, TEST}
    model, old = (one.recommender.retriever.model for one in (bundle, before))
    assert model.id_table is not None and old.id_table is not None
    known = model.id_table.get_buffer("known")
    assert known[:40].ge(old.id_table.get_buffer("known")).all() and known[40:].all()
    now, then = model.user_tower.out.weight, old.user_tower.out.weight
    torch.testing.assert_close(now, then, rtol=0, atol=1e-3)  # nearly the old weights, at such a learning rate
    assert run_list.runs(5)[0].updated_from == (str(small),)
    report = evaluate_model(shop, trained.model, "test", False)
    assert trained.report is not None and report.n == trained.report.n
    assert report.metrics["ndcg@10"].value == pytest.approx(trained.report.metrics["ndcg@10"].value, abs=1e-6)
