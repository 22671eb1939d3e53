"""The simulated shop: reproducible, plausible, and with a truth that none can beat."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from features.data.dataset import load_dataset
from features.data.validate import check
from features.simulator.shop import Truth, load_truth, oracle_scores, simulate
from features.simulator.text import ATTRIBUTES
from recsys.errors import RecsysError
from recsys.metrics import ndcg, target_ranks


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a shop of 500 users."""
    folder = tmp_path_factory.mktemp("simulated") / "shop"
    simulate(folder, users=500, items=300, seed=3)
    return folder


@pytest.fixture(scope="module")
def events(shop: Path) -> pl.DataFrame:
    """Return its events."""
    return pl.read_parquet(shop / "events.parquet")


@pytest.fixture(scope="module")
def truth(shop: Path) -> Truth:
    """Return its truth."""
    truth = load_truth(shop)
    assert truth is not None
    return truth


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(tmp_path: Path) -> None:
    """A shop is its seed."""
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        simulate(tmp_path / name, users=40, items=60, seed=seed)
    for file in ("items.parquet", "events.parquet", "users.parquet", "queries.parquet", "dataset.json", "truth.npz"):
        same = [(tmp_path / name / file).read_bytes() for name in "abc"]
        assert same[0] == same[1], file
    assert (tmp_path / "a" / "events.parquet").read_bytes() != (tmp_path / "c" / "events.parquet").read_bytes()


def test_a_simulated_shop_violates_no_rule(shop: Path) -> None:
    """What the engine writes, it accepts."""
    assert check(shop).ok
    assert load_dataset(shop).items.height == 300


def test_clicks_fall_with_position(events: pl.DataFrame) -> None:
    """Users look less often at lower positions."""
    rates = (
        events.filter(pl.col("event_type") != "purchase")
        .group_by("position")
        .agg(rate=(pl.col("event_type") == "click").mean())
        .sort("position")["rate"]
    )
    assert rates.item(0) > 1.5 * rates.item(9)


def test_purchases_are_rarer_than_clicks_and_follow_one(events: pl.DataFrame) -> None:
    """Only what was clicked in a request is bought in it, some of it, and later."""
    keys = ["user_id", "item_id", "request_id"]
    clicks = events.filter(pl.col("event_type") == "click").select(*keys, clicked="timestamp")
    bought = events.filter(pl.col("event_type") == "purchase").join(clicks, on=keys, how="left")
    assert 0 < bought.height < 0.5 * clicks.height
    assert bought["clicked"].null_count() == 0
    assert (bought["timestamp"] > bought["clicked"]).all()


def test_cheaper_items_are_bought_more_often_once_clicked(events: pl.DataFrame, truth: Truth) -> None:
    """The price drives purchases beyond what taste does."""
    level = pl.DataFrame({"item_id": truth.item_ids.tolist(), "level": truth.item_price_level})
    levels = events.join(level, on="item_id").group_by("event_type").agg(pl.col("level").mean())
    mean = dict(levels.iter_rows())
    assert mean["purchase"] < mean["click"]


def test_nothing_happens_before_its_item_or_its_user_exists(shop: Path, events: pl.DataFrame) -> None:
    """New items and users arrive over time and not before."""
    items = pl.read_parquet(shop / "items.parquet").select("item_id", "created_at")
    users = pl.read_parquet(shop / "users.parquet")
    joined = events.join(items, on="item_id").join(users, on="user_id")
    assert joined.height == events.height
    assert (joined["timestamp"] >= joined["created_at"]).all()
    assert (joined["timestamp"] >= joined["signup"]).all()
    assert (
        items.join(events.select(pl.col("timestamp").min()), how="cross")
        .filter(pl.col("created_at") > pl.col("timestamp"))
        .height
        > 30
    )


def test_only_the_text_tells_attributes(shop: Path, truth: Truth) -> None:
    """Attributes, in which tastes are expressed, are no column; descriptions differ with them."""
    items = pl.read_parquet(shop / "items.parquet")
    assert not set(items.columns) & set(ATTRIBUTES)
    assert items["description"].n_unique() > 0.95 * items.height
    assert items["title"].n_unique() > 0.8 * items.height


def test_the_oracle_beats_popularity_and_knowing_the_intent_helps(events: pl.DataFrame, truth: Truth) -> None:
    """The truth's ranking is far above a fixed one, and above the truth without the present intent."""
    clicks = events.filter(pl.col("event_type") == "click").group_by("request_id").first().sort("request_id").tail(400)
    row_of = {name: row for row, name in enumerate(truth.item_ids.tolist())}
    targets = np.array([row_of[name] for name in clicks["item_id"]])
    offsets = np.arange(len(targets) + 1)
    counts = np.bincount(targets, minlength=len(row_of)).astype(np.float32)
    requests = clicks["request_id"].to_list()

    def mean_ndcg(scores: np.ndarray) -> float:
        return float(ndcg(target_ranks(scores, targets, offsets), offsets, 10).mean())

    informed = mean_ndcg(oracle_scores(truth, requests))
    assert informed > mean_ndcg(oracle_scores(truth, requests, know_intent=False))
    assert informed > 2 * mean_ndcg(np.tile(counts, (len(targets), 1)))


def test_an_occupied_folder_and_unknown_requests_are_refused(shop: Path, truth: Truth) -> None:
    """Nothing is overwritten; a wrong request is named."""
    with pytest.raises(RecsysError, match="not an empty folder"):
        simulate(shop, users=40, items=60)
    with pytest.raises(RecsysError, match="'nope'"):
        oracle_scores(truth, ["nope"])
