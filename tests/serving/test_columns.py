"""Items whose values do not fit the catalogue's columns: refused at the door, harmless once they are kept."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from fastapi.testclient import TestClient

from serving.api.app import create_app
from serving.api.schemas import Filters
from serving.columns import items_table
from serving.filters import FilterError, matching
from serving.store.store import Store
from tests.worlds import client_of, holder_of, with_columns

SCHEMA: dict[str, pl.DataType] = {
    "size": pl.String(),
    "grade": pl.Categorical(),
    "weight": pl.Float64(),
    "count": pl.UInt8(),
    "flag": pl.Boolean(),
    "colours": pl.List(pl.String()),
    "day": pl.Date(),
}
SENT: list[Any] = [None, True, 1.5, 3.0, 300.0, 1e300, "x", ["x"], []]
HELD: dict[str, list[Any]] = {
    "size": ["x"],
    "grade": ["x"],
    "weight": [1.5, 3.0, 300.0, 1e300],
    "count": [3],
    "flag": [True],
    "colours": [["x"], []],
    "day": [],
}


@pytest.mark.parametrize("name", list(SCHEMA))
def test_a_column_holds_what_fits_and_nothing_else(name: str) -> None:
    """No value is bent to fit, and none is an exception."""
    column = items_table([{name: value} for value in SENT], SCHEMA)[name]
    assert column.dtype == SCHEMA[name] and column.drop_nulls().to_list() == HELD[name]


@pytest.fixture
def bundle(tiny: Path, tmp_path: Path) -> Path:
    """Return a bundle whose items have a size, a weight, a grade and a flag."""
    row = pl.int_range(pl.len())
    return with_columns(
        tiny,
        tmp_path / "bundle",
        size=pl.format("size {}", row % 2),
        weight=row.cast(pl.Float64),
        grade=pl.format("grade {}", row % 2).cast(pl.Categorical),
        flag=row % 2 == 0,
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return an empty store."""
    return Store(f"sqlite:///{tmp_path}/store.db")


@pytest.fixture
def client(bundle: Path, store: Store) -> TestClient:
    """Return a client of an app on that bundle."""
    return client_of(create_app(holder_of(bundle, store), store), raise_server_exceptions=False)


@pytest.mark.parametrize("attributes", [{"size": 5}, {"size": ["a"]}, {"weight": "heavy"}, {"flag": "yes"}], ids=str)
def test_a_value_of_another_kind_is_refused_and_not_kept(client: TestClient, store: Store, attributes: Any) -> None:
    """By name; the other items of the request are not stored either, those of the next are."""
    good, bad = {"item_id": "good", "title": "red lamp"}, {"item_id": "bad", "title": "x", "attributes": attributes}
    answer = client.put("/v1/items", json={"items": [good, bad]})
    assert answer.status_code == 422 and f"'{next(iter(attributes))}', which holds" in answer.json()["detail"]
    assert not store.item_changes()
    assert client.put("/v1/items", json={"items": [good]}).json() == {"changed": 1, "items": 41}


def test_an_item_that_another_model_took_harms_none(bundle: Path, store: Store) -> None:
    """What this one's columns cannot hold is unknown to it: it starts, and the item is recommendable."""
    store.change_items([("new", {"title": "red lamp", "weight": "heavy", "size": ["a"], "flag": 3, "price": "dear"})])
    client = client_of(create_app(holder_of(bundle, store), store))
    assert client.get("/v1/model").json()["items"] == 41
    answer = client.post("/v1/rank", json={"candidates": ["new"]})
    assert [item["item_id"] for item in answer.json()["items"]] == ["new"]


@pytest.mark.parametrize(
    ("attributes", "count"), [({"grade": "grade 1"}, 20), ({"flag": False}, 20), ({"grade": "?"}, 0)]
)
def test_filters_of_such_columns_leave_what_fits(client: TestClient, attributes: Any, count: int) -> None:
    """A value that no item has leaves none."""
    answer = client.post("/v1/recommend", json={"k": 40, "filters": {"attributes": attributes}})
    assert len(answer.json()["items"]) == count


def test_a_truth_value_is_no_number() -> None:
    """Neither true nor false."""
    for value in (True, False):
        with pytest.raises(FilterError):
            matching(pl.DataFrame({"price": [0.0, 1.0]}), Filters(attributes={"price": value}).conditions(), "")
