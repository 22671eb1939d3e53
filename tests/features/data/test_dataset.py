"""Reading and validating datasets: every kind of bad input has its line."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features.data.dataset import load_dataset
from features.data.validate import check
from recsys.errors import RecsysError
from tests.worlds import DATA, write_dataset

EVENTS = "user_id,item_id,event_type,timestamp\n"
QUERIES = "query,item_id,timestamp\n"
GOOD = "u1,i1,click,1700000000\nu2,i2,click,1700000001\n"

BAD: dict[str, tuple[dict[str, Any], list[str]]] = {
    "missing column": ({"items.csv": "item_id,name\ni1,a\n"}, ["items.csv", "'title' is missing", "--column"]),
    "duplicate item": ({"items.csv": "item_id,title\ni1,a\ni1,b\ni2,c\n", "events.csv": EVENTS + GOOD},
                       ["items.csv", "duplicate item_id", "1 row", "'i1'"]),
    "unknown item": ({"events.csv": EVENTS + GOOD + "u1,nowhere,click,1700000002\n"},
                     ["events.csv", "event on unknown item", "1 row", "'nowhere'"]),
    "unknown type": ({"events.csv": EVENTS + GOOD + "u1,i1,hover,1700000002\n"}, ["unknown event_type", "'hover'"]),
    "unparsable time": ({"events.csv": EVENTS + GOOD + "u1,i1,click,yesterday\n"},
                        ["events.csv", "unparsable timestamp", "1 row", "'yesterday'"]),
    "future time": ({"events.csv": EVENTS + GOOD + "u1,i1,click,2190-01-01T00:00:00\n"},
                    ["timestamp in the future", "2190"]),
    "NaN weights": ({"dataset.json": '{"event_weights": {"click": NaN}}'}, ["dataset.json", "event_weights", "click=nan"]),
    "NaN value": ({"events.csv": "user_id,item_id,event_type,timestamp,value\nu1,i1,click,1700000000,NaN\n"
                                 "u2,i2,click,1700000000,1\n"}, ["value is not a finite number", "'NaN'"]),
    "empty title": ({"items.csv": "item_id,title\ni1,  \ni2,c\n", "events.csv": EVENTS + GOOD},
                    ["items.csv", "empty title", "1 row", "'i1'"]),
    "not UTF-8": ({"items.csv": b"item_id,title\ni1,caf\xe9\n"}, ["items.csv", "line 2", "not UTF-8", "0xe9"]),
    "no events": ({"events.csv": EVENTS}, ["events.csv", "empty", "0 rows"]),
    "empty file": ({"events.csv": ""}, ["events.csv", "the file is empty"]),
    "no items table": ({"items.csv": None}, ["items.parquet", "is missing"]),
    "single user": ({"events.csv": EVENTS + "u1,i1,click,1700000000\nu1,i2,click,1700000001\n"},
                    ["events.csv", "a single user", "u1"]),
    "not parquet": ({"items.csv": None, "items.parquet": b"this is no parquet file"}, ["items.parquet", "cannot be read"]),
    "two tables": ({"items.jsonl": '{"item_id": "i1", "title": "a"}\n'}, ["items.csv and items.jsonl"]),
    "unknown key": ({"dataset.json": '{"nmae": "x"}'}, ["dataset.json", "'nmae'", "did you mean 'name'"]),
    "broken JSON": ({"dataset.json": "{"}, ["dataset.json", "not valid JSON"]),
    "unknown split": ({"dataset.json": '{"split": "column"}',
                       "events.csv": "user_id,item_id,event_type,timestamp,split\nu1,i1,click,1700000000,train\nu2,i1,click,1700000001,dev\n"},
                      ["unknown split", "'dev'"]),
    "negative price": ({"items.csv": "item_id,title,price\ni1,a,-3\ni2,b,4\n", "events.csv": EVENTS + GOOD},
                       ["price", "'-3'"]),
    "empty query": ({"queries.csv": QUERIES + "  ,i1,1700000000\nlamp,i1,1700000000\n"},
                    ["queries.csv", "empty query", "1 row", "row 1"]),
    "query on unknown item": ({"queries.csv": QUERIES + "lamp,nowhere,1700000000\n"},
                              ["queries.csv", "query on unknown item", "1 row", "'nowhere'"]),
    "unparsable time of a query": ({"queries.csv": QUERIES + "lamp,i1,yesterday\n"},
                                   ["queries.csv", "unparsable timestamp", "'yesterday'"]),
    "future time of a query": ({"queries.csv": QUERIES + "lamp,i1,2190-01-01T00:00:00\n"},
                               ["queries.csv", "timestamp in the future", "2190"]),
    "queries without times": ({"queries.csv": "query,item_id\nlamp,i1\n"}, ["queries.csv", "'timestamp' is missing"]),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_gets_one_line_that_names_file_rule_count_and_example(kind: str, tmp_path: Path) -> None:
    """The error is one line with all that a person needs to find and correct it."""
    changes, parts = BAD[kind]
    with pytest.raises(RecsysError) as raised:
        load_dataset(write_dataset(tmp_path / "bad", **changes))
    message = str(raised.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_a_missing_folder_suggests_the_import(tmp_path: Path) -> None:
    """A folder that is not there is named with the command that would make it."""
    with pytest.raises(RecsysError, match=r"no such folder.*recsys data import"):
        load_dataset(tmp_path / "nowhere")


def test_a_200_kb_description_is_reported_and_read(tmp_path: Path) -> None:
    """Long descriptions are a warning, no error."""
    long = "item_id,title,description\ni1,a," + "word " * 40_000 + "\ni2,b,short\n"
    folder = write_dataset(tmp_path / "long", **{"items.csv": long, "events.csv": EVENTS + GOOD})
    report = check(folder)
    assert report.ok
    assert [violation.severity for violation in report.violations] == ["warning"]
    assert load_dataset(folder).items.height == 2


def test_every_violated_rule_is_in_the_report(tmp_path: Path) -> None:
    """The report lists all rules with counts and up to three examples."""
    rows = "".join(f"u1,gone{row},click,1700000000\n" for row in range(5)) + "u2,i1,hover,soon\n"
    report = check(write_dataset(tmp_path / "bad", **{"events.csv": EVENTS + GOOD + rows}))
    violated = {violation.rule: violation for violation in report.violations}
    assert set(violated) == {"event on unknown item", "unknown event_type", "unparsable timestamp"}
    assert violated["event on unknown item"].count == 5
    assert len(violated["event on unknown item"].examples) == 3
    assert not report.ok


ROWS = st.lists(
    st.tuples(st.sampled_from(["u1", "u2", "u3", ""]), st.sampled_from(["i1", "i2", "gone"]),
              st.sampled_from(["click", "purchase", "hover"]), st.sampled_from(["1700000000", "never", "-5"])),
    max_size=25,
)  # fmt: skip


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ROWS)
def test_quarantine_keeps_every_row_somewhere(tmp_path: Path, rows: list[tuple[str, ...]]) -> None:
    """Kept and quarantined rows add up; only good ones are kept."""
    folder = write_dataset(
        tmp_path / "mixed", **{"events.csv": EVENTS + GOOD + "".join(",".join(r) + "\n" for r in rows)}
    )
    kept = load_dataset(folder, "quarantine").events.collect()
    quarantined = folder / "quarantine" / "events.parquet"
    rejected = pl.read_parquet(quarantined).height if quarantined.exists() else 0
    good = [r for r in rows if r[0] and r[1] != "gone" and r[2] != "hover" and r[3] == "1700000000"]
    assert kept.height == len(good) + 2
    assert kept.height + rejected == len(rows) + 2


def test_events_of_quarantined_items_go_with_them(tmp_path: Path) -> None:
    """An item without a title takes its events along, with the rule in the file."""
    items = "item_id,title\ni1,a\ni2,\n"
    folder = write_dataset(
        tmp_path / "bad", **{"items.csv": items, "events.csv": EVENTS + GOOD + "u2,i1,view,1700000003\n"}
    )
    dataset = load_dataset(folder, "quarantine")
    assert dataset.items["item_id"].to_list() == ["i1"]
    assert set(dataset.events.collect()["item_id"]) == {"i1"}
    assert pl.read_parquet(folder / "quarantine" / "events.parquet")["rule"].to_list() == ["event on unknown item"]


def test_csv_jsonl_and_parquet_give_the_same_dataset(tmp_path: Path) -> None:
    """The format of a table does not change what is read."""
    csv = load_dataset(write_dataset(tmp_path / "csv"))
    for suffix in ("parquet", "jsonl"):
        folder = tmp_path / suffix
        folder.mkdir()
        for table, frame in (("items", csv.items), ("events", pl.read_csv(tmp_path / "csv" / "events.csv"))):
            present = frame.select(column.name for column in frame if column.null_count() < frame.height)
            write = present.write_parquet if suffix == "parquet" else present.write_ndjson
            write(folder / f"{table}.{suffix}")
        other = load_dataset(folder)
        assert other.items.equals(csv.items)
        assert other.events.collect().equals(csv.events.collect())


@pytest.mark.parametrize(
    "written", ["1700000000", "1700000000000", "1700000000000000", "2023-11-14T22:13:20Z", "2023-11-14 22:13:20",
                "2023-11-15T00:13:20+02:00"]
)  # fmt: skip
def test_every_way_to_write_a_moment_reads_the_same(written: str, tmp_path: Path) -> None:
    """Seconds, milliseconds, microseconds and ISO times with or without zone are one moment."""
    rows = f"u1,i1,click,{written}\nu2,i2,click,{written}\n"
    dataset = load_dataset(write_dataset(tmp_path / "time", **{"events.csv": EVENTS + rows}))
    assert dataset.events.collect()["timestamp"].unique().to_list() == [1_700_000_000_000_000]


def test_one_changed_byte_changes_the_fingerprint(tmp_path: Path) -> None:
    """The fingerprint identifies the very files, as they are when it is first asked for."""
    dataset = load_dataset(write_dataset(tmp_path / "a"))
    first = dataset.fingerprint
    assert load_dataset(write_dataset(tmp_path / "b")).fingerprint == first
    changed = write_dataset(tmp_path / "c", **{"dataset.json": json.dumps({"name": "smalm"})})
    assert load_dataset(changed).fingerprint != first
    write_dataset(tmp_path / "a", **{"dataset.json": json.dumps({"name": "smalm"})})
    assert dataset.fingerprint == first  # hashed once


@pytest.mark.skipif(not (DATA / "amazon-industrial").exists(), reason="the real data are not beside the repository")
def test_real_data_pass_every_rule() -> None:
    """The ordinal, column-split Amazon data are valid as they are."""
    dataset = load_dataset(DATA / "amazon-industrial")
    assert (dataset.items.height, dataset.has_clock, dataset.info.split) == (3686, False, "column")


@pytest.mark.parametrize("wrong", ["x" * 257, '"a\nb"', "a\x07b"])
def test_an_id_that_the_api_would_refuse_is_refused(wrong: str, tmp_path: Path) -> None:
    """Of items and of users; datasets and the API have one rule."""
    for change in ({"items.csv": f"item_id,title\n{wrong},a\ni1,b\ni2,c\n", "events.csv": EVENTS + GOOD},
                   {"events.csv": EVENTS + GOOD + f"{wrong},i1,click,1700000002\n"}):  # fmt: skip
        with pytest.raises(RecsysError, match="of more than 256 characters, or with control characters: 1 row"):
            load_dataset(write_dataset(tmp_path / "bad", **change))


def test_queries_are_read_counted_and_part_of_the_fingerprint(tmp_path: Path) -> None:
    """The table is optional; its times are read like those of events, and its users may be unknown."""
    rows = "query,item_id,timestamp,user_id\nred lamp,i1,1700000000,\nlamp,i2,1700000001,u1\n"
    without = load_dataset(write_dataset(tmp_path / "without"))
    found = load_dataset(write_dataset(tmp_path / "with", **{"queries.csv": rows}))
    assert without.queries is None
    assert found.queries is not None and found.queries.rows() == [
        ("red lamp", "i1", 1_700_000_000_000_000, None),
        ("lamp", "i2", 1_700_000_001_000_000, "u1"),
    ]
    assert found.fingerprint != without.fingerprint
    assert check(tmp_path / "with").counts["queries"] == 2


def test_queries_on_quarantined_items_are_quarantined(tmp_path: Path) -> None:
    """An item that is left out takes its queries along."""
    items = "item_id,title\n" + "".join(f"i{row},{'' if row == 1 else 'lamp'}\n" for row in range(8))
    rows = QUERIES + "lamp,i1,1700000000\nlamp,i2,1700000000\n"
    folder = write_dataset(tmp_path / "shop", **{"items.csv": items, "queries.csv": rows})
    queries = load_dataset(folder, "quarantine").queries
    assert queries is not None and queries["item_id"].to_list() == ["i2"]
    assert pl.read_parquet(folder / "quarantine" / "queries.parquet")["rule"].to_list() == ["query on unknown item"]
