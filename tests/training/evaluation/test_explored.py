"""What other models would have brought at the positions that the API explored, from the request to the report."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from recsys.errors import RecsysError
from serving.api.app import create_app
from serving.batch import histories_of
from serving.rerank import propensities
from serving.store.export import export
from serving.store.store import ImpressionList, Store, StoredEvent
from tests.command_line import run
from tests.training.evaluation.test_registered import shop
from tests.worlds import DAY, START, client_of, holder_of, with_config
from training.evaluation.explored import evaluate_off_policy, judge
from training.evaluation.registered import open_model

LATER = START + 40 * DAY
"""After all that the tiny model was fitted on."""
POOL = ["i35", "i36", "i37", "i38"]


def exported(folder: Path, lists: int, *, at: int = LATER, pool: list[str] | None = POOL, clicks: bool = True) -> Path:
    """Return an export of `lists` lists of 40 users, whose second position was drawn from `pool`; every second one was clicked."""
    rng, store = np.random.default_rng(0), Store(f"sqlite:///{folder}/{at}-{lists}.db")
    added, events = [], []
    for number in range(lists):
        request, user, drawn = f"r{at}-{number}", f"u{number % 40}", str(rng.choice(POOL))
        about = (request, user, at + number, "m/1", ["i1", drawn], [2.0, 1.0], [None, 0.05])
        added.append(ImpressionList(*about, pool=pool))
        events.append(StoredEvent(request, user, drawn, "click", at + number + 1, request_id=request))
    store.add_lists(added)
    store.add_events(events[1::2] if clicks else [])
    out = folder / f"out-{at}-{lists}"
    export(shop(folder / f"shop-{at}-{lists}", first_day=0, days=20), store, out)
    store.close()
    return out


def test_what_the_api_explored_is_judged_from_the_log_alone(tiny: Path, tmp_path: Path) -> None:
    """Every explored position counts with its clicks, and its propensity is that of an even draw from its pool."""
    store, now, share, k = Store(f"sqlite:///{tmp_path}/store.db"), LATER, 0.5, 3
    quotas = {"popular": 10, "covisitation": 3, "related": 0, "lexical": 3}
    exploring = with_config(tiny, tmp_path / "exploring", lists={"explore": share}, sources=quotas)
    explored, clicks = 0, []
    with client_of(create_app(holder_of(exploring, store), store, clock=lambda: now, seed=1)) as client:
        for visit in range(100):
            now += 1_000_000
            answer = client.post("/v1/recommend", json={"user_id": f"u{visit % 50}", "k": k}).json()
            drawn = [item["item_id"] for item in answer["items"] if item["explored"]]
            explored += len(drawn)
            about = {"user_id": answer["user_id"], "request_id": answer["request_id"], "event_type": "click"}
            clicks += [{**about, "item_id": item} for item in drawn[:1]]
        client.post("/v1/events", json={"events": clicks})
    export(shop(tmp_path / "shop", first_day=0, days=20), store, tmp_path / "out")
    judged = judge(tmp_path / "out", [str(tiny)], 0.5)
    assert (len(judged.explored), judged.rows["click"].sum(), judged.left_out) == (explored, len(clicks), {})
    drawn_from = pl.read_parquet(tmp_path / "out" / "events.parquet").filter(pl.col("propensity").is_not_null())
    for position, propensity, pool in drawn_from.select("position", "propensity", "pool").iter_rows():
        assert propensity == pytest.approx(propensities(k, len(pool), share)[position - 1])


def test_pools_are_ranked_as_one_list_at_a_time_would_be(tiny: Path, tmp_path: Path) -> None:
    """With the history strictly before the list, that of users without events too."""
    out = exported(tmp_path, 150)
    judged = judge(out, [str(tiny)], 0.25)
    _, bundle, log = open_model(out, str(tiny))
    ids = bundle.recommender.retriever.items["item_id"].to_list()
    for row in (0, 1, 30, 149):
        user, time = judged.rows["user_id"][row], judged.rows["time"][row]
        known = log.user_ids.index(user) if user in log.user_ids else -1
        pool = np.array([[ids.index(item) for item in judged.rows["pool"][row]]])
        best = bundle.recommender.rank(histories_of(bundle.recommender, log, [known], time), pool).items[0, 0]
        assert judged.chosen[str(tiny)][row].tolist() == (pool[0] == best).astype(float).tolist()
        assert judged.rows["pool"][row][int(judged.explored.drawn[row])] == judged.rows["item_id"][row]


def test_positions_that_a_model_may_have_been_fitted_on_are_left_out(tiny: Path, tmp_path: Path) -> None:
    """And counted; where none is later, nothing is estimated."""
    out, early = exported(tmp_path, 900), exported(tmp_path, 300, at=START + 10 * DAY)
    both = [pl.read_parquet(folder / "events.parquet") for folder in (out, early)]
    both[1] = both[1].filter(pl.col("request_id").is_not_null())
    pl.concat(both, how="diagonal_relaxed").write_parquet(out / "events.parquet")
    report = evaluate_off_policy(out, str(tiny), None, 0.25)
    assert report.positions == 900
    ((reason, count),) = report.left_out.items()
    assert "may have been fitted on" in reason and count == 300
    with pytest.raises(RecsysError, match=r"no explored position is left to judge by \(300 explored until 2023-12"):
        evaluate_off_policy(early, str(tiny), None, 0.25)


@pytest.mark.parametrize(
    ("lists", "about", "message"),
    [
        (30, {"pool": None}, "30 explored before pools were logged.*export later lists"),
        (200, {}, "an effective sample size of .* from 200 explored positions, and 100 are needed"),
        (900, {"clicks": False}, "too few clicks at 900 explored positions: 0 users"),
    ],
)
def test_too_little_to_tell_from_is_refused(
    lists: int, about: dict[str, Any], message: str, tiny: Path, tmp_path: Path
) -> None:
    """In one line that says how much is missing."""
    with pytest.raises(RecsysError, match=message) as refused:
        evaluate_off_policy(exported(tmp_path, lists, **about), str(tiny), None, 0.25)
    assert "\n" not in str(refused.value)


def test_the_command_compares_two_models(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model is no better than its copy, and the table has both."""
    copy = with_config(tiny, tmp_path / "copy")
    out, report = exported(tmp_path, 900), tmp_path / "report.json"
    arguments = ("--off-policy", "--model", str(tiny), "--against", str(copy), "--json", str(report))
    code, printed, _ = run(capsys, "evaluate", str(out), *arguments)
    assert code == 0 and "snips" in printed and "effective sample size" in " ".join(printed.split())
    change = json.loads(report.read_text())["changes"]["click"][str(copy)]
    assert [change["value"], change["low"], change["high"]] == pytest.approx([0, 0, 0], abs=1e-9)


def test_a_log_without_exploration_is_refused_with_how_to_explore(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whether the events have no such column, or no value in it."""
    folder = shop(tmp_path / "shop", first_day=0, days=20)
    code, _, error = run(capsys, "evaluate", str(folder), "--off-policy", "--model", str(tiny))
    assert code == 1 and "lists.explore=0.1" in error
    with_lists = exported(tmp_path, 3)
    events = pl.read_parquet(with_lists / "events.parquet").with_columns(propensity=pl.lit(None, pl.Float64))
    events.write_parquet(with_lists / "events.parquet")
    code, _, error = run(capsys, "evaluate", str(with_lists), "--off-policy", "--model", str(tiny))
    assert code == 1 and "no position of its 3 lists was explored" in error and "lists.explore=0.1" in error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--off-policy", "--baselines"], "--baselines does not go with --off-policy"),
        (["--off-policy", "--split", "test"], "--split does not go with --off-policy"),
        (["--against", "m"], "--against needs --off-policy"),
        (["--top-share", "0.5"], "--top-share needs --off-policy"),
    ],
)
def test_options_of_the_other_evaluation_are_refused(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is read."""
    code, _, error = run(capsys, "evaluate", str(tmp_path), *options)
    assert code == 2 and message in error
