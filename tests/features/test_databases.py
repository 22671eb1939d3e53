"""Datasets from where shops keep theirs: a database, object storage."""

import os
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
import sqlalchemy as sa

from features.data.validate import check
from features.importers import import_dataset
from recsys.errors import RecsysError

ITEMS = "SELECT sku AS item_id, label AS title, price, tags FROM products"
EVENTS = "SELECT visitorid, sku, action, at AS timestamp FROM clicks ORDER BY at"


@pytest.fixture
def shop(url: str) -> Iterator[str]:
    """Return the address of a database with the tables of a shop."""
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    postgres = engine.name == "postgresql"
    tags, first, none = ("TEXT[]", "'{red,new}'", "'{}'") if postgres else ("TEXT", "'red|new'", "NULL")
    with engine.begin() as database:
        for line in (
            f"CREATE TABLE products (sku TEXT, label TEXT, price NUMERIC, tags {tags})",
            f"CREATE TABLE clicks (visitorid BIGINT, sku TEXT, action TEXT, at {'TIMESTAMPTZ' if postgres else 'TEXT'})",
            f"INSERT INTO products VALUES ('a', 'Red lamp', 19.99, {first}), ('b', 'Blue chair', NULL, {none})",
            "INSERT INTO clicks VALUES (1, 'a', 'click', '2026-01-02 03:04:05+00:00'), "
            "(2, 'b', 'transaction', '2026-01-03 03:04:05+00:00')",
        ):
            database.execute(sa.text(line))
    engine.dispose()
    yield url


def queries(folder: Path, **texts: str) -> Path:
    """Write a query for each table."""
    folder.mkdir()
    for table, text in texts.items():
        (folder / f"{table}.sql").write_text(text)
    return folder


def test_queries_give_a_valid_dataset(shop: str, tmp_path: Path) -> None:
    """Numbers, lists and times are those of the database; events have types of ours."""
    src, out = queries(tmp_path / "queries", items=ITEMS, events=EVENTS), tmp_path / "out"
    report = import_dataset("sql", src, out, options={"url": shop})
    assert (report.items, report.events) == (2, 2) and check(out).ok
    assert "events.sql: visitorid is user_id, sku is item_id, action is event_type" in report.notes
    items, events = pl.read_parquet(out / "items.parquet"), pl.read_parquet(out / "events.parquet")
    assert items["price"].to_list() == [19.99, None] and items["tags"][0].to_list() == ["red", "new"]
    assert events["event_type"].to_list() == ["click", "purchase"] and events["user_id"].to_list() == ["1", "2"]
    assert events["timestamp"].dt.to_string().to_list()[0].startswith("2026-01-02 03:04:05")


def test_every_problem_of_the_queries_is_told_at_once_and_nothing_is_written(shop: str, tmp_path: Path) -> None:
    """A wrong query with the database's reason, a missing column with those that are there."""
    src = queries(tmp_path / "queries", items="SELECT * FROM goods", events="SELECT visitorid, action FROM clicks")
    with pytest.raises(RecsysError) as raised:
        import_dataset("sql", src, tmp_path / "out", options={"url": shop})
    first, items, events = str(raised.value).splitlines()
    assert first == "2 problems:" and "items.sql" in items and "goods" in items
    assert "columns 'item_id', 'timestamp' are missing; it has visitorid, action" in events
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("url", "part"),
    [("", "set DATABASE_URL"), ("no address", "postgresql://"), ("mysql://u@h/d", "mysql cannot be read"),
     ("sqlite:///gone.db", "gone.db: no such file"), ("postgresql://u@127.0.0.1:1/d", "items.sql: .*refused")],
)  # fmt: skip
def test_a_database_that_is_not_there_is_named(
    url: str, part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is written."""
    monkeypatch.delenv("DATABASE_URL", raising=False)
    src = queries(tmp_path / "queries", items=ITEMS, events=EVENTS)
    with pytest.raises(RecsysError, match=part):
        import_dataset("sql", src, tmp_path / "out", options={"url": url})


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Start object storage on loopback, with a bucket that holds an export; return the bucket's address."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    for name, value in {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1",
                        "AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": endpoint}.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket="exports")
    for name, text in {"products.csv": "id,name\na,Red lamp\nb,Blue chair\n",
                       "orders.csv": "visitorid,sku,date\n1,a,2026-01-02\n2,b,2026-01-03\n"}.items():  # fmt: skip
        client.put_object(Bucket="exports", Key=f"shop/{name}", Body=text.encode())
    yield "s3://exports"
    server.stop()


def test_a_folder_in_object_storage_is_imported_like_one_on_disk(bucket: str, tmp_path: Path) -> None:
    """By the names of its files; nothing stays behind on this machine."""
    report = import_dataset("files", f"{bucket}/shop", tmp_path / "out")
    assert (report.items, report.events) == (2, 2) and check(tmp_path / "out").ok
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize(
    ("address", "part"),
    [("s3://exports/none", "s3://exports/none: no such folder"), ("ftp://host/shop", "s3://"), ("nowhere", "no such")],
)
def test_an_address_without_files_is_named(bucket: str, address: str, part: str, tmp_path: Path) -> None:
    """In one line."""
    with pytest.raises(RecsysError, match=part):
        import_dataset("files", address, tmp_path / "out")
