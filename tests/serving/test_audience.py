"""Users for items: the best of all users of a dataset, and of a bundle those whose histories are nearest."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from serving import audience as module
from serving.loading import load_bundle
from serving.lookup import Lookup
from serving.retrieval.sources.base import HISTORY_DECAY
from tests.command_line import run
from tests.worlds import DAY, START

EVENTS = [(f"u{u}", f"i{(3 * u + s * s) % 35}", START + (5 * s + u % 5) * DAY) for u in range(12) for s in range(5)]


@pytest.fixture
def shop(tiny: Path, tmp_path: Path) -> Path:
    """Return the dataset that the tiny bundle knows."""
    folder = tmp_path / "shop"
    folder.mkdir()
    pl.read_parquet(tiny / "items.parquet").write_parquet(folder / "items.parquet")
    users, items, times = zip(*EVENTS, strict=True)
    events = pl.DataFrame(
        {"user_id": users, "item_id": items, "event_type": ["click"] * len(EVENTS), "timestamp": times}
    )
    events.write_parquet(folder / "events.parquet")
    return folder


def test_the_audience_is_the_best_users_of_each_item_whatever_the_blocks(
    shop: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As ranking the item for each user alone says."""
    monkeypatch.setattr(module, "BLOCK_USERS", 5)
    command = ("audience", str(shop), "i7", "i9", "--k", "4", "--model", str(tiny), "--by", "interest")
    code, printed, _ = run(capsys, *command, "--out", str(tmp_path / "a.csv"))
    assert code == 0 and "8 rows, users for 2 items" in printed
    table = pl.read_csv(tmp_path / "a.csv")
    assert table["item_id"].to_list() == ["i7"] * 4 + ["i9"] * 4 and table["rank"].to_list() == [1, 2, 3, 4] * 2
    lookup = Lookup(load_bundle(tiny))
    now = max(time for _, _, time in EVENTS) + 1
    for number, item in ((7, "i7"), (9, "i9")):
        interest = {
            user: float(
                lookup.recommender.rank(lookup.histories([(user, None)], now), np.array([[number]])).interest[0, 0]
            )
            for user in lookup.users
        }
        best = sorted(interest, key=lambda user: -interest[user])[:4]
        rows = table.filter(item_id=item)
        assert rows["user_id"].to_list() == best
        np.testing.assert_allclose(rows["interest"], [interest[user] for user in best], rtol=1e-3)
        met = {user for user, of, _ in EVENTS if of == item}
        assert rows["seen"].to_list() == [user in met for user in best]


def test_who_rejected_an_item_is_not_in_its_audience(
    shop: Path, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = pl.read_parquet(shop / "events.parquet")
    said = pl.DataFrame({"user_id": ["u3"], "item_id": "i7", "event_type": "hide", "timestamp": START + 30 * DAY})
    pl.concat([known, said]).write_parquet(shop / "events.parquet")
    command = ("audience", str(shop), "i7", "i9", "--k", "50", "--model", str(tiny), "--out", str(tmp_path / "a.csv"))
    assert run(capsys, *command)[0] == 0
    table = pl.read_csv(tmp_path / "a.csv")
    users = {f"u{row}" for row in range(12)}
    assert users - set(table.filter(item_id="i7")["user_id"]) == {"u3"}
    assert set(table.filter(item_id="i9")["user_id"]) == users


@pytest.mark.parametrize(
    ("items", "out", "message"),
    [
        (("i7", "i777"), "a.csv", "ITEM: 1 of 2 are no items of the dataset, for example 'i777'"),
        (("i7",), "a.xlsx", "a.xlsx: name a file that ends in .parquet, .csv, .jsonl, for example audience.csv"),
    ],
)
def test_what_cannot_be_answered_is_one_line(
    shop: Path,
    tiny: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    items: tuple[str, ...],
    out: str,
    message: str,
) -> None:
    """And nothing is written."""
    code, _, error = run(capsys, "audience", str(shop), *items, "--model", str(tiny), "--out", str(tmp_path / out))
    assert code == 1 and message in error and not (tmp_path / out).exists()


def test_the_nearest_users_are_those_whose_decayed_history_is_nearest(tiny: Path) -> None:
    """As a plain loop over users says."""
    lookup = Lookup(load_bundle(tiny))
    vectors = lookup.retriever.vectors
    nearness = {}
    for user, items in lookup.bundle.users.select("user_id", "items").iter_rows():
        weights = [HISTORY_DECAY**age for age in range(len(items))][::-1]
        nearness[user] = sum(w * float(vectors[item] @ vectors[7]) for w, item in zip(weights, items, strict=True))
    assert module.nearest_users(lookup, 7, 5) == sorted(nearness, key=lambda user: -nearness[user])[:5]
