"""`recsys evaluate --off-policy`: what a model would have brought at the positions that the API explored.

In: a dataset that `recsys data export` wrote, and one or two models. Out: an `OffPolicyReport`.

Shapes: S explored positions, R lists with such positions, C items of the widest pool.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import logit

from features.data.dataset import Dataset
from features.histories import EventLog
from recsys.arrays import Bools, Floats, Ints
from recsys.errors import RecsysError
from recsys.events import NO_ACTION
from recsys.models.interest import HEADS
from recsys.progress import stage
from serving.batch import histories_of
from serving.recommender import Recommender
from serving.retrieval.retriever import BLOCK
from training.evaluation.off_policy import (
    Explored,
    Terms,
    bootstrap,
    choice,
    effective_size,
    expected_outcomes,
    mean,
    terms,
    weights,
)
from training.evaluation.off_policy_report import LOGGED, OffPolicyReport
from training.evaluation.registered import as_fitted, open_model

MIN_EFFECTIVE = 100
"""Effective sample size below which nothing is estimated."""
MIN_USERS = 20
"""Users with an outcome among what the model would have shown, below which an interval of it means nothing."""
EXPLORE_HINT = "train with --set lists.explore=0.1, serve, send the request_id with every event, and export"
LIST = ("user_id", "request_id")

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Opened:
    """A model that knows nothing of the outcomes, with the events that histories are taken from."""

    recommender: Recommender
    log: EventLog


@dataclass(frozen=True)
class Judged:
    """The explored positions of a dataset, and what models would have shown there."""

    dataset: Dataset
    rows: pl.DataFrame
    """S rows of `explored_positions`."""
    lists: int
    left_out: dict[str, int]
    explored: Explored
    probabilities: dict[str, dict[str, Floats]]
    """`[S, C]` that a model gives to each of `HEADS`, by its name."""
    chosen: dict[str, Values]
    """`[S, C]` with which it would have shown each item of the pool."""


def evaluate_off_policy(folder: Path, model: str, against: str | None, share: float) -> OffPolicyReport:
    """Estimate clicks and purchases per explored position of the dataset in `folder` under `model`, and under `against`.

    A model would have drawn from the best `share` of each pool. Positions that a model may have been fitted on are left out.

    Raises:
        RecsysError: a model or the dataset cannot be read, or too little was explored to tell.
    """
    judged = judge(folder, [model, *([against] if against else [])], share)
    explored, count = judged.explored, len(judged.explored)
    importance = {name: weights(policy, explored) for name, policy in judged.chosen.items()}
    sizes = {name: effective_size(weight) for name, weight in importance.items()}
    _refuse_few(judged.dataset, count, sizes)
    named = {("weight", name, "mean"): mean(weight) for name, weight in importance.items()}
    skipped = {}
    for outcome in HEADS:
        happened = judged.rows[outcome].to_numpy()
        users = min(len(np.unique(explored.users[happened & (weight > 0)])) for weight in importance.values())
        if users < MIN_USERS:
            skipped[outcome] = f"{users} users did so with what a model would have shown, and {MIN_USERS} are needed"
        else:
            named |= _terms(judged, outcome, happened)
    if HEADS[0] in skipped:
        raise RecsysError(
            f"{folder}: too few clicks at {count:,} explored positions: {skipped[HEADS[0]]}; "
            "export again when there are more, or raise --top-share"
        )
    return OffPolicyReport.of(
        bootstrap(named, explored.users),
        dataset=judged.dataset.info.name,
        top_share=share,
        positions=count,
        lists=judged.lists,
        users=int(explored.users.max()),
        pool=float(explored.pool.sum(1).mean()),
        effective_size=sizes,
        skipped=skipped,
        left_out=judged.left_out,
    )


def judge(folder: Path, names: list[str], share: float) -> Judged:
    """Return the explored positions of the dataset in `folder`, and what the models `names` would have shown there.

    Raises:
        RecsysError: a model or the dataset cannot be read, or nothing is left that no model was fitted on.
    """
    models: dict[str, Opened] = {}
    for name in names:
        dataset, models[name] = _opened(folder, name)
    newest = max(opened.recommender.retriever.features.facts.events.newest for opened in models.values())
    rows, left_out = _usable(explored_positions(dataset), dataset, newest)
    lists = rows.unique(LIST, keep="first", maintain_order=True).with_row_index("list")
    own = rows.join(lists.select(*LIST, "list"), on=LIST, maintain_order="left")["list"].to_numpy()  # [S]
    explored, probabilities, chosen = _explored(rows), {}, {}
    for name, opened in models.items():
        with stage(f"ranking {len(lists):,} pools by {name}"):
            scores, by_head = _valued_pools(opened, lists)
        probabilities[name] = {head: values[own] for head, values in by_head.items()}
        chosen[name] = choice(scores[own], explored.pool, share)
    return Judged(dataset, rows, len(lists), left_out, explored, probabilities, chosen)


def _terms(judged: Judged, outcome: str, happened: Bools) -> dict[tuple[str, str, str], Terms]:
    """Return the terms of an outcome by (outcome, policy, estimator)."""
    log_odds = [_log_odds(by_head[outcome]) for by_head in judged.probabilities.values()]
    expected = expected_outcomes(np.stack(log_odds, axis=2), judged.explored, happened)
    named = {(outcome, LOGGED, "mean"): mean(happened)}
    for name, policy in judged.chosen.items():
        for estimator, one in terms(judged.explored, happened, policy, expected).items():
            named[outcome, name, estimator] = one
    return named


def _refuse_few(dataset: Dataset, positions: int, sizes: dict[str, float]) -> None:
    name, least = min(sizes.items(), key=lambda size: size[1])
    if least < MIN_EFFECTIVE:
        raise RecsysError(
            f"{dataset.folder}: what {name} would have shown was hardly drawn: an effective sample size of {least:.0f} from "
            f"{positions:,} explored positions, and {MIN_EFFECTIVE} are needed; export again when there are more, or raise --top-share"
        )


def _log_odds(probabilities: Floats) -> Values:
    return np.asarray(logit(np.clip(probabilities.astype(np.float64), 1e-6, 1 - 1e-6)))


def explored_positions(dataset: Dataset) -> pl.DataFrame:
    """Return a row per explored position: user_id, request_id, item_id, time, position, pool, and whether each of `HEADS` came of it.

    Raises:
        RecsysError: there is none.
    """
    names = dataset.events.collect_schema().names()
    needed = (*LIST, "item_id", "event_type", "timestamp", "position", "propensity")
    if missing := [name for name in needed if name not in names]:
        raise RecsysError(f"{dataset.folder}: events have no {missing[0]}, so no position was explored; {EXPLORE_HINT}")
    pool = pl.col("pool") if "pool" in names else pl.lit(None, pl.List(pl.String)).alias("pool")
    rows = (
        dataset.events.select(*needed, pool)
        .with_columns(time=pl.col("timestamp").min().over(LIST))  # events come after their list
        .filter(pl.col("propensity").is_not_null(), pl.col("request_id").is_not_null())
        .group_by(*LIST, "item_id")
        .agg(
            pl.col("time", "position", "pool").first(),
            click=(~pl.col("event_type").is_in(NO_ACTION)).any(),
            purchase=(pl.col("event_type") == "purchase").any(),
        )
        .sort("time", *LIST, "position")
        .collect()
    )
    if not rows.height:
        raise RecsysError(
            f"{dataset.folder}: no position of its {_lists(dataset):,} lists was explored; {EXPLORE_HINT}"
        )
    return rows


def _lists(dataset: Dataset) -> int:
    return int(
        dataset.events.select(pl.struct(LIST).filter(pl.col("request_id").is_not_null()).n_unique()).collect().item()
    )


def _opened(folder: Path, name: str) -> tuple[Dataset, Opened]:
    dataset, bundle, log = open_model(folder, name)
    recommender = bundle.recommender
    if not recommender.retriever.has_clock:
        raise RecsysError(
            f"{folder}: the times of {name} are no clock, so nobody can tell which lists are later than its fit"
        )
    if dataset.fingerprint == bundle.manifest["dataset_fingerprint"]:
        recommender = as_fitted(bundle, log, dataset)
    return dataset, Opened(recommender, log)


def _usable(rows: pl.DataFrame, dataset: Dataset, newest: int) -> tuple[pl.DataFrame, dict[str, int]]:
    """Return the rows from which something can be told, and how many were left out, by reason.

    Raises:
        RecsysError: none is left.
    """
    until = datetime.fromtimestamp(newest / 1e6, UTC).strftime("%Y-%m-%d %H:%M")
    known = pl.col("pool").list.eval(pl.element().is_in(dataset.items["item_id"].implode())).list.all()
    rules = {
        "explored before pools were logged": pl.col("pool").is_not_null(),
        f"explored until {until}, which a model may have been fitted on": pl.col("time") > newest,
        "drawn from items that the catalogue lacks": known & pl.col("item_id").is_in("pool"),
    }
    left_out = {}
    for reason, rule in rules.items():
        kept = rows.filter(rule)
        if kept.height < rows.height:
            left_out[reason] = rows.height - kept.height
        rows = kept
    if not rows.height:
        reasons = "; ".join(f"{count:,} {reason}" for reason, count in left_out.items())
        raise RecsysError(f"{dataset.folder}: no explored position is left to judge by ({reasons}); export later lists")
    return rows, left_out


def _explored(rows: pl.DataFrame) -> Explored:
    sizes = rows["pool"].list.len().to_numpy()
    drawn = [pool.index(item) for pool, item in rows.select("pool", "item_id").iter_rows()]
    return Explored(
        pool=np.arange(sizes.max()) < sizes[:, None],
        drawn=np.array(drawn, np.int64),
        positions=rows["position"].to_numpy().astype(np.int64),
        users=rows["user_id"].rank("dense").to_numpy().astype(np.int64),
    )


def _valued_pools(opened: Opened, lists: pl.DataFrame) -> tuple[Floats, dict[str, Floats]]:
    """Return a model's values of the pools of `lists` `[R, C]`, and its probabilities by head, from the history up to that moment."""
    recommender, log = opened.recommender, opened.log
    pools = _padded(lists["pool"], recommender.retriever.items["item_id"])
    row_of = {user: row for row, user in enumerate(log.user_ids)}
    users, times = [row_of.get(user, -1) for user in lists["user_id"]], lists["time"].to_numpy()
    values = np.empty((3, *pools.shape), np.float32)
    for start in range(0, len(pools), BLOCK):
        block = slice(start, start + BLOCK)
        ranking = recommender.rank(histories_of(recommender, log, users[block], times[block]), pools[block])
        columns = np.argsort(np.argsort(pools[block], 1), 1)  # of each item among the items in ascending order
        back = np.take_along_axis(np.argsort(ranking.items, 1), columns, 1)  # and in the ranking
        for name, column in enumerate((ranking.score, ranking.p_click, ranking.p_purchase)):
            values[name, block] = np.take_along_axis(column, back, 1)
    return values[0], dict(zip(HEADS, values[1:], strict=True))


def _padded(pools: pl.Series, ids: pl.Series) -> Ints:
    """Return the row in `ids` of each item of each pool, `[R, C]`, -1 padded."""
    catalogue = pl.DataFrame({"item_id": ids, "row": np.arange(len(ids))})
    items = pl.DataFrame({"item_id": pools.explode()}).join(catalogue, on="item_id", how="left", maintain_order="left")
    sizes = pools.list.len().to_numpy()
    padded = np.full((len(pools), int(sizes.max())), -1, np.int64)
    padded[np.arange(padded.shape[1]) < sizes[:, None]] = items["row"].to_numpy()
    return padded
