"""Files as a shop exports them: what cannot be read is kept and refused with its text, and what was decided is said."""

import gzip
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from click.testing import CliRunner

from features.data.dataset import load_dataset
from features.data.validate import Report, check
from features.importers import import_dataset
from features.importers.base import ImportReport
from recsys.cli import cli
from recsys.errors import RecsysError, UsageError

ITEMS = "item_id,title\na,Red lamp\nb,Blue chair\nc,Green desk\n"
EVENTS = "user_id,item_id,event_type,timestamp\nu1,a,click,1700000000\nu2,b,click,1700000100\n"


class Imported:
    """What became of files."""

    def __init__(self, tmp_path: Path, files: Mapping[str, str | bytes], fmt: str = "files", **options: Any) -> None:
        """Write `files`, import them and check the result."""
        src, self.out = tmp_path / "src", tmp_path / "out"
        src.mkdir()
        for name, text in files.items():
            (src / name).write_bytes(text.encode() if isinstance(text, str) else text)
        self.report: ImportReport = import_dataset(fmt, src, self.out, **options)
        self.notes = "\n".join(self.report.notes)

    def column(self, table: str, name: str) -> list[Any]:
        """Return a column as it was written."""
        values = pl.read_parquet(self.out / f"{table}.parquet")[name]
        return [str(value)[:19] if isinstance(values.dtype, pl.Datetime) else value for value in values.to_list()]

    @property
    def checked(self) -> Report:
        """What `recsys data check` says."""
        return check(self.out)

    @property
    def warnings(self) -> dict[str, int]:
        """The violated rules and how many rows violate them."""
        return {violation.rule: violation.count for violation in self.checked.violations}


def test_prices_are_read_and_a_date_that_could_be_two_is_refused_with_its_text(tmp_path: Path) -> None:
    """The report says how many were not read, and the check shows what they were."""
    items = 'item_id,title,price,created_at\na,Red,$12.50,24/06/2022\nb,Blue,"1,299.00",June 2022\nc,Green,"12,50",2022-06-24\n'
    shop = Imported(
        tmp_path, {"items.csv": items, "events.csv": EVENTS.replace(",b,", ",c,") + "u1,c,click,1700000000\n"}
    )
    assert shop.column("items", "price") == [12.5, 1299.0, 12.5]
    assert "items: created_at: 2 of 3 cannot be read, for example row 1 ('24/06/2022')" in shop.notes
    (violation,) = shop.checked.violations
    assert (violation.rule, violation.count) == ("unparsable created_at", 2)
    assert violation.examples == ["row 1 ('24/06/2022')", "row 2 ('June 2022')"]
    load_dataset(shop.out, "quarantine")
    assert "24/06/2022" in pl.read_parquet(shop.out / "quarantine" / "items.parquet")["_raw_created_at"].to_list()


@pytest.mark.parametrize(
    ("time", "said", "moment"),
    [("20220624", "numbers are YYYYMMDD", "2022-06-24 00:00:00"), ("202206242120", "numbers are YYYYMMDDhhmm", "2022-06-24 21:20:00"),
     ("1656105611", "numbers are seconds since 1970", "2022-06-24 21:20:11"),
     ("1656105611000", "numbers are milliseconds since 1970", "2022-06-24 21:20:11"), ("2022-06-24 21:20:11 ", "", "2022-06-24 21:20:11")],
)  # fmt: skip
def test_times_are_written_as_datetimes_and_their_unit_is_said(
    time: str, said: str, moment: str, tmp_path: Path
) -> None:
    """So that nobody has to guess it again."""
    shop = Imported(tmp_path, {"items.csv": ITEMS, "events.csv": f"user_id,item_id,time\nu1,a,{time}\nu2,b,{time}\n"})
    assert said in shop.notes
    assert shop.column("events", "timestamp") == [moment] * 2
    assert shop.checked.ok


def test_numbers_that_are_no_times_are_refused_and_an_order_can_be_taken_instead(tmp_path: Path) -> None:
    """The order of the rows is an ordinal, and the report says what that means."""
    events = "user_id,item_id,timestamp\nu1,a,7\nu2,b,3\n"
    shop = Imported(tmp_path, {"items.csv": ITEMS, "events.csv": events})
    assert shop.warnings == {"unparsable timestamp": 2}
    (tmp_path / "again").mkdir()
    ordered = Imported(
        tmp_path / "again",
        {"items.csv": ITEMS, "events.csv": "user_id,item_id\nu1,a\nu2,b\n"},
        options={"no_timestamps": "true"},
    )
    assert ordered.column("events", "timestamp") == [0, 1]
    assert not load_dataset(ordered.out).has_clock
    assert "order of the rows" in ordered.notes


@pytest.mark.parametrize(
    ("name", "values", "types", "said"),
    [("quantity", ["1", "2", "6"], ["purchase"] * 3, "quantity is 1 to 6: every event is a purchase"),
     ("score", ["1", "0", "1"], ["like", "view", "like"], "score is 0 to 1: above 0 is like, else view"),
     ("rating", ["-1", "1", "1"], ["view", "like", "like"], "rating is -1 to 1"),
     ("rating", ["4,5", "3", "5"], ["like", "view", "like"], "rating is 3 to 5: 4 or more is like, else view"),
     ("stars", ["", "3", "5"], ["view", "view", "like"], "stars is 3 to 5, 1 empty")],
)  # fmt: skip
def test_types_that_are_told_by_values_are_said_with_their_range(
    name: str, values: list[str], types: list[str], said: str, tmp_path: Path
) -> None:
    """Quantities are purchases, thumbs are likes, stars follow `like_from`."""
    rows = "".join(f'u{row},a,1700000000,"{value}"\n' for row, value in enumerate(values))
    shop = Imported(tmp_path, {"items.csv": ITEMS, "events.csv": f"user_id,item_id,timestamp,{name}\n{rows}"})
    assert shop.column("events", "event_type") == types
    assert said in shop.notes


def test_a_rating_that_is_no_number_is_refused(tmp_path: Path) -> None:
    """It is not a low rating."""
    events = "user_id,item_id,timestamp,rating\nu1,a,1700000000,5\nu2,b,1700000100,5 stars\n"
    shop = Imported(tmp_path, {"items.csv": ITEMS, "events.csv": events})
    assert shop.warnings == {"value is not a finite number": 1}
    assert "('5 stars')" in shop.notes


def test_a_position_between_two_and_a_time_that_is_no_time_are_refused_with_their_texts(tmp_path: Path) -> None:
    """Neither is rounded or taken for missing."""
    events = "user_id,item_id,timestamp,position\nu1,a,1700000000,1.5\nu2,b,NULL,2.0\nu1,b,1700000000,\n"
    shop = Imported(tmp_path, {"items.csv": ITEMS, "events.csv": events})
    assert {violation.rule: violation.examples for violation in shop.checked.violations} == {
        "unparsable timestamp": ["row 2 ('NULL')"],
        "position is not a whole number from 1": ["row 1 ('1.5')"],
    }
    assert shop.column("events", "position") == [None, 2, None]


def test_keys_that_come_late_in_json_lines_are_read(tmp_path: Path) -> None:
    """However many lines come before them."""
    lines = [f'{{"item_id": "i{row}", "title": "t {row}"}}' for row in range(10_001)]
    late = '{"item_id": "late", "title": "t", "price": 3.5, "brand": "Acme"}'
    shop = Imported(tmp_path, {"items.jsonl": "\n".join([*lines, late]), "events.csv": EVENTS.replace(",a,", ",i0,").replace(",b,", ",late,")})  # fmt: skip
    assert (shop.column("items", "price")[-1], shop.column("items", "brand")[-1]) == (3.5, "Acme")


@pytest.mark.parametrize(
    ("tags", "read"),
    [('[{"id": 1, "name": "Home"}]', ["Home"]), ('[["Home"], ["Lamps"]]', ["Home", "Lamps"]), ('"War, peace"', ["War", "peace"]),
     ('["War, peace"]', ["War, peace"]), ("[]", []), ('["a", 2]', ["a", "2"])],
)  # fmt: skip
def test_lists_of_json_lines_are_opened(tags: str, read: list[str], tmp_path: Path) -> None:
    """Objects by their name, lists in lists one after the other."""
    items = f'{{"item_id": "a", "title": "Red", "tags": {tags}}}\n{{"item_id": "b", "title": "Blue"}}\n'
    shop = Imported(tmp_path, {"items.jsonl": items, "events.csv": EVENTS})
    assert load_dataset(shop.out).items["tags"].to_list()[0] == read


def test_words_for_empty_cells_are_warned_of_and_can_be_emptied(tmp_path: Path) -> None:
    """In numbers they are missing; in names they count, until the option empties them."""
    files = {
        "items.csv": "item_id,title,brand,price\na,Red lamp,NULL,\\N\nb,None,None,3\nc,Green,,12\n",
        "events.csv": EVENTS.replace("u2", "nan"),
    }
    shop = Imported(tmp_path, files)
    assert shop.column("items", "price") == [None, 3, 12]
    assert shop.warnings == {
        f"{column} is a word for an empty cell": count for column, count in (("title", 1), ("brand", 2), ("user_id", 1))
    }
    assert shop.checked.ok
    (tmp_path / "again").mkdir()
    emptied = Imported(tmp_path / "again", files, options={"empty_words": "NULL;None;nan"})
    assert emptied.column("items", "brand") == [None, None, None]
    assert emptied.warnings == {"empty title": 1, "empty user_id": 1}


def test_equal_events_are_warned_of_and_can_be_dropped(tmp_path: Path) -> None:
    """Each counts until they are."""
    events = EVENTS + "u1,a,click,1700000000\n" * 2
    shop = Imported(tmp_path, {"items.csv": ITEMS, "events.csv": events})
    assert shop.warnings == {"event equal to an earlier one in every column": 2}
    (tmp_path / "again").mkdir()
    dropped = Imported(tmp_path / "again", {"items.csv": ITEMS, "events.csv": events}, drop_duplicates=True)
    assert dropped.report.events == 2
    assert "left out: 2 of 4" in dropped.notes


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_a_csv_file_may_have_another_separator(mark: str, tmp_path: Path) -> None:
    """It is the one that the first line has most of."""
    shop = Imported(
        tmp_path, {"items.csv": ITEMS.replace(",", mark), "events.csv": EVENTS.replace(",", mark).replace("u1", '"u1"')}
    )
    assert shop.column("events", "user_id") == ["u1", "u2"]


def test_inch_marks_and_quoted_fields_of_a_tsv_file_are_read(tmp_path: Path) -> None:
    """A quotation mark is a character, unless it encloses the field."""
    items = 'item_id\ttitle\na\t3/4" bolt\nb\t"1/2"" bolt"\nc\tRed "lamp\nd\t"Big" and "red"\n'
    shop = Imported(tmp_path, {"items.tsv": items, "events.csv": EVENTS})
    assert shop.column("items", "title") == ['3/4" bolt', '1/2" bolt', 'Red "lamp', '"Big" and "red"']


def test_packed_files_capitals_byte_order_marks_and_folders_are_read(tmp_path: Path) -> None:
    """As they come from other programs."""
    src = tmp_path / "src"
    (src / "events").mkdir(parents=True)
    (src / "PRODUCTS.CSV.GZ").write_bytes(gzip.compress(("\ufeff" + ITEMS).encode()))
    rows = pl.DataFrame({"visitorid": ["u1", "u2"], "sku": ["a", "b"], "date": ["2022-06-24", "2022-06-25"]})
    for part in range(2):
        rows[part : part + 1].write_parquet(src / "events" / f"part-{part}.parquet")
    report = import_dataset("files", src, tmp_path / "out")
    assert (report.items, report.events) == (3, 2)
    assert "events: visitorid is user_id, sku is item_id, date is timestamp" in report.notes


def test_columns_of_numbers_become_numbers_and_codes_stay_text(tmp_path: Path) -> None:
    """So that they can be filtered and be ranking features; a leading zero is a code's."""
    items = "item_id,title,weight,zip,note\na,Red,0.5,01099,1\nb,Blue,,99,x\nc,Green,12,5,2\n"
    shop = Imported(tmp_path, {"items.csv": items, "events.csv": EVENTS})
    assert shop.column("items", "weight") == [0.5, None, 12]
    assert shop.column("items", "zip") == ["01099", "99", "5"]
    assert shop.column("items", "note") == ["1", "x", "2"]


WRONG: dict[str, tuple[dict[str, str | bytes], list[str]]] = {
    "empty": ({"items.tsv": ITEMS.replace(",", "\t"), "events.tsv": ""}, ["events.tsv", "the file is empty"]),
    "long row": ({"items.csv": ITEMS + "d,Brown,extra,more\n", "events.csv": EVENTS},
                 ["items.csv", "line 5 has 4 fields, the first line 2", "d,Brown,extra,more", "quotation marks"]),
    "long row of TSV": ({"items.tsv": "item_id\ttitle\na\tRed\tlamp\n", "events.csv": EVENTS}, ["items.tsv", "line 2 has 3 fields", "tabs"]),
    "NaN in JSON": ({"items.jsonl": '{"item_id": "a", "title": "A"}\n{"item_id": "b", "title": NaN}\n', "events.csv": EVENTS},
                    ["items.jsonl", "line 2", "NaN is no value of JSON, write null"]),
    "no object": ({"items.jsonl": '{"item_id": "a", "title": "A"}\n[1]\n', "events.csv": EVENTS}, ["items.jsonl", "line 2 is no JSON object"]),
    "UTF-16": ({"items.csv": ITEMS.encode("utf-16"), "events.csv": EVENTS}, ["items.csv", "the file is UTF-16", "iconv -f utf-16"]),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_a_file_that_cannot_be_read_is_named_with_the_line_and_nothing_is_written(kind: str, tmp_path: Path) -> None:
    """In our words, with a way out."""
    files, parts = WRONG[kind]
    with pytest.raises(RecsysError) as raised:
        Imported(tmp_path, files)
    for part in parts:
        assert part in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_a_column_that_no_file_has_is_refused(tmp_path: Path) -> None:
    """The nearest name is suggested; a format with columns of its own takes none."""
    items = "item_id,title,price_eur\na,Red lamp,5\nb,Blue,6\n"
    with pytest.raises(RecsysError, match=r"--column price=price_euro: no table has .*did you mean 'price_eur'"):
        Imported(tmp_path, {"items.csv": items, "events.csv": EVENTS}, columns={"price": "price_euro"})
    with pytest.raises(UsageError, match="the columns of movielens are known"):
        import_dataset("movielens", tmp_path / "src", tmp_path / "out", columns={"price": "price_eur"})


def test_a_column_can_be_named_for_one_table_alone(tmp_path: Path) -> None:
    """Where both tables have a column of that name."""
    files = {
        "items.csv": "item_id,name,sku\na,Red,1\nb,Blue,2\n",
        "events.csv": "user_id,sku,timestamp\nu1,a,1700000000\nu2,b,1700000100\n",
    }
    shop = Imported(tmp_path, files, columns={"events.item_id": "sku"})
    assert shop.column("events", "item_id") == ["a", "b"]
    assert shop.column("items", "item_id") == ["a", "b"]


def test_a_column_that_is_given_twice_is_refused(tmp_path: Path) -> None:
    """The second one does not win in silence."""
    options = ["data", "import", "files", str(tmp_path), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(cli, [*options, "--column", "price=a", "--column", "price=b"])
    assert "price is given twice, before as a" in result.output + str(result.exception)


def test_movielens_1m_in_utf_8_is_read_as_such(tmp_path: Path) -> None:
    """Latin-1 is the encoding of the files that are no UTF-8."""
    films = "1::Léon (1994)::Crime\n2::Das große Fressen — 大餐 (1973)::Drama\n"
    shop = Imported(
        tmp_path, {"movies.dat": films, "ratings.dat": "1::1::5::978300760\n2::2::3::978302109\n"}, "movielens"
    )
    assert shop.column("items", "title") == ["Léon (1994)", "Das große Fressen — 大餐 (1973)"]


def test_amazon_prices_are_read_by_the_same_rules_and_what_is_none_is_counted(tmp_path: Path) -> None:
    """A style sheet is no price."""
    prices = ['"12,99 €"', '"from $1,299.00"', '"$5.00 - $9.00"', '".a { margin: 12px }"', "7.5", '"7,49"', "null"]
    meta = "".join(f'{{"parent_asin": "{n}", "title": "T{n}", "price": {price}, "categories": [["Home", "Lamps"]]}}\n' for n, price in enumerate(prices))  # fmt: skip
    reviews = "".join(f'{{"user_id": "U{n}", "parent_asin": "{n}", "rating": 5, "timestamp": "158861585507{n}"}}\n' for n in range(2))  # fmt: skip
    shop = Imported(tmp_path, {"meta_X.jsonl": meta, "X.jsonl": reviews}, "amazon")
    assert shop.column("items", "price") == [12.99, 1299, 5, None, 7.5, 7.49, None]
    assert shop.column("items", "category") == ["Home"] * 7
    assert "prices that are no number, left empty: 1 of 6, for example 3 ('.a { margin: 12px }')" in shop.notes


@pytest.mark.parametrize(("mark", "quoted"), [("\t", False), ("::", False), (";", True), ("|", True)])
def test_dat_files_are_read_by_the_separator_of_their_first_line(mark: str, quoted: bool, tmp_path: Path) -> None:
    """Inch marks stay where fields are not quoted."""
    size = '"1/2"" bolt, red"' if quoted else '1/2" bolt, red'
    items = f"id{mark}name\na{mark}{size}\nb{mark}Blue chair\n"
    shop = Imported(tmp_path, {"books.dat": items, "ratings.dat": EVENTS.replace(",", mark)})
    assert shop.column("items", "title") == ['1/2" bolt, red', "Blue chair"] and shop.checked.ok


def test_a_first_line_of_values_is_said_to_be_one(tmp_path: Path) -> None:
    """As in MovieLens 1M, whose files name no column."""
    files = {"items.csv": ITEMS, "ratings.dat": "1::1193::5::978300760\n1::661::3::978302109\n"}
    with pytest.raises(RecsysError, match=r"ratings\.dat: columns .* are missing; .*its first line must name"):
        Imported(tmp_path, files)


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    """A wrong option, a missing column, an unknown event type: a line each, and nothing is written."""
    files = {"items.csv": "item_id,label\na,Red\n", "events.csv": EVENTS.replace("click", "wished")}
    with pytest.raises(RecsysError) as raised:
        Imported(tmp_path, files, columns={"items.price": "cost"})
    lines = str(raised.value).splitlines()
    assert lines[0] == "3 problems:" and len(lines) == 4
    assert "--column items.price=cost" in lines[1] and "'title' is missing" in lines[2] and "'wished'" in lines[3]
    assert not (tmp_path / "out").exists()


def test_a_missing_file_does_not_hide_what_is_wrong_in_the_others(tmp_path: Path) -> None:
    """Both are told."""
    with pytest.raises(RecsysError, match=r"2 problems:\n.*no events file.*\n.*'title' is missing"):
        Imported(tmp_path, {"items.csv": "item_id\na\n"})


def test_what_is_no_row_or_violates_a_rule_goes_to_the_quarantine_where_asked(tmp_path: Path) -> None:
    """Counted by rule, with its text, and nothing is lost: the rest is a valid dataset."""
    items = "item_id,title,price\na,Red lamp,5\nb,Blue chair,cheap\nc,Green,desk,9\n"
    events = (
        EVENTS.replace("u1,a", "u3,a").replace("1700000100", "soon") + "u1,a,click,1700000000\nu1,x,click,1700000000\n"
    )
    events += "u4,a,dreamt,1700000000\n"
    files = {"items.csv": items, "events.csv": events, "users.jsonl": '{"user_id": "u1"}\n{"user_id": }\n[1]\n'}
    shop = Imported(tmp_path, files, quarantine=True)
    assert shop.checked.ok and (shop.report.items, shop.report.events, shop.report.users) == (1, 2, 1)
    kept = tmp_path / "out" / "quarantine"
    assert (kept / "items.csv.txt").read_text() == "c,Green,desk,9\n"
    assert (kept / "users.jsonl.txt").read_text() == '{"user_id": }\n[1]\n'
    rejected = pl.read_parquet(kept / "events.parquet")
    assert set(rejected["rule"]) == {"event on unknown item", "unknown event_type"} and rejected.height == 3
    assert pl.read_parquet(kept / "items.parquet")["_raw_price"].to_list() == ["cheap"]
    for part in ("items.csv: 1 lines are no rows", "items: 1 of 2 rows left out", "event on unknown item 2"):
        assert part in shop.notes
    assert not [name for name in pl.read_parquet_schema(shop.out / "items.parquet") if name.startswith("_raw")]


def test_nothing_to_leave_out_leaves_no_quarantine(tmp_path: Path) -> None:
    """And the same dataset."""
    shop = Imported(tmp_path, {"items.csv": ITEMS, "events.tsv": EVENTS.replace(",", "\t")}, quarantine=True)
    assert shop.checked.ok and not (shop.out / "quarantine").exists()


def test_the_import_shows_the_first_rows_of_each_table(tmp_path: Path) -> None:
    """So that a wrong column is seen."""
    src = tmp_path / "src"
    src.mkdir()
    (src / "items.csv").write_text(ITEMS)
    (src / "events.csv").write_text(EVENTS)
    arguments = ["data", "import", "files", str(src), "--out", str(tmp_path / "out")]
    printed = CliRunner().invoke(cli, arguments).output
    assert "Red lamp" in printed and "2023-11-14 22:13" in printed


@pytest.mark.parametrize(
    ("written", "read"),
    [(["true", "False", ""], [True, False, None]), (["1", "0", "NULL"], [True, False, None]),
     (["yes", "N", "y"], [True, False, True]), (["1.0", "0.0", "t"], [True, False, True])],
)  # fmt: skip
def test_whether_an_item_is_available_is_read_from_the_usual_words(
    written: list[str], read: list[bool | None], tmp_path: Path
) -> None:
    """An empty cell says nothing."""
    lines = ITEMS.splitlines()
    items = "\n".join(
        [f"{lines[0]},is_available", *(f"{line},{word}" for line, word in zip(lines[1:], written, strict=True))]
    )
    shop = Imported(tmp_path, {"items.csv": items, "events.csv": EVENTS})
    assert shop.column("items", "available") == read and shop.checked.ok


def test_another_word_for_available_is_refused_with_its_text(tmp_path: Path) -> None:
    """And not taken for one of the two."""
    items = ITEMS.replace("title\n", "title,available\n").replace("lamp\n", "lamp,soon\n")
    (violation,) = Imported(tmp_path, {"items.csv": items, "events.csv": EVENTS}).checked.violations
    assert violation.rule == "available is neither true nor false" and "soon" in violation.examples[0]


def test_a_quarantine_that_leaves_nothing_to_learn_from_is_an_error_that_names_the_dataset(tmp_path: Path) -> None:
    """And not the folder that it is written to before it is complete; nothing is left behind."""
    events = EVENTS + "u2,b,click,1700000100,9\n"
    with pytest.raises(RecsysError, match=f"^{tmp_path / 'out'}/events.parquet: a single user"):
        Imported(
            tmp_path, {"items.csv": ITEMS, "events.csv": events.replace("u2,b,click,1700000100\n", "")}, quarantine=True
        )
    assert not (tmp_path / "out").exists()


def test_when_an_item_is_available_is_read_like_every_time(tmp_path: Path) -> None:
    """An empty cell is no limit; an end that is no time, or not after the start, is refused with its text."""
    lines = [
        "available_from,available_until",
        "2022-06-24,2999-12-31",
        ",2022-06-25",
        ",",
        "2022-06-24,soon",
        "2022-06-24,2022-06-23",
    ]
    heads = ["item_id,title", *(f"{name},Item {name}" for name in "abcde")]
    items = "\n".join(f"{head},{line}" for head, line in zip(heads, lines, strict=True))
    shop = Imported(tmp_path, {"items.csv": items, "events.csv": EVENTS})
    found = {violation.rule: violation.examples[0] for violation in shop.checked.violations}
    assert "soon" in found["unparsable available_until"]
    assert "2022-06-23" in found["available_until is not after available_from"]
    until, start = (shop.column("items", name)[:3] for name in ("available_until", "available_from"))
    assert until == ["2999-12-31 00:00:00", "2022-06-25 00:00:00", "None"]
    assert start == ["2022-06-24 00:00:00", "None", "None"]


def test_queries_are_imported_under_their_usual_names_and_left_out_without_times(tmp_path: Path) -> None:
    """The table is optional. Rows that are ordered by themselves have no moment between those of events."""
    files = {"items.csv": ITEMS, "events.csv": EVENTS, "searches.csv": "search_term,sku,time\nlamp,a,1700000050\n"}
    (tmp_path / "timed").mkdir()
    (tmp_path / "ordered").mkdir()
    timed = Imported(tmp_path / "timed", files)
    assert timed.column("queries", "query") == ["lamp"] and timed.column("queries", "item_id") == ["a"]
    assert timed.checked.ok and timed.checked.counts["queries"] == 1
    ordered = Imported(tmp_path / "ordered", files, options={"no_timestamps": "true"})
    assert not (ordered.out / "queries.parquet").exists()
    assert "queries: left out" in ordered.notes
