"""Every importer on small files in the real format, and one suite that all of them pass."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features.data.dataset import load_dataset
from features.importers import IMPORTERS, import_dataset
from recsys.errors import RecsysError, UsageError

NAMES = ["unknown", "Action", "Adventure", "Animation"]


def movielens_100k(src: Path) -> None:
    (src / "u.data").write_text("196\t242\t3\t881250949\n186\t302\t5\t891717742\n196\t302\t4\t881250950\n")
    flags = "|".join("1" if n in (1, 5) else "0" for n in range(19))
    films = f'242|Kolya (1996)|24-Jan-1997||http://x|{flags}\n302|Café "Müller" (1997)|01-Jan-1997||http://y|{flags}\n'
    (src / "u.item").write_bytes(films.encode("latin-1"))
    (src / "u.user").write_text("196|49|M|writer|55105\n186|39|F|executive|00000\n")


def movielens_1m(src: Path) -> None:
    (src / "ratings.dat").write_text("1::1193::5::978300760\n2::661::3::978302109\n")
    (src / "movies.dat").write_bytes(
        "1193::One Flew Over (1975)::Drama\n661::Fée: 2 (1996)::Animation|Musical\n".encode("latin-1")
    )


def movielens_latest(src: Path) -> None:
    (src / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,1,4.5,964982703\n2,3,2.0,964981247\n")
    (src / "movies.csv").write_text(
        'movieId,title,genres\n1,"Story, A (1995)",Comedy|Drama\n3,None,(no genres listed)\n'
    )
    (src / "tags.csv").write_text("userId,movieId,tag,timestamp\n1,1,pixar,1\n2,1,pixar,2\n2,1,fun,3\n")


def mind(src: Path) -> None:
    (src / "behaviors.tsv").write_text(
        "1\tU1\t11/13/2019 8:36:57 AM\tN1 N9\tN2-1 N3-0\n2\tU1\t11/14/2019 8:36:57 PM\tN1 N9\tN1-0 N3-1\n"
        "3\tU2\t11/14/2019 9:00:00 PM\t\tN2-0 N3-1\n"
    )
    rows = ['N1\tsports\tnba\tA "quoted title\tAbstract\thttp://x\t[]\t[]', "N2\tnews\tus\tSecond\t\thttp://y\t[]\t[]",
            "N3\tnews\tworld\tThird\tText\thttp://z\t[]\t[]"]  # fmt: skip
    (src / "news.tsv").write_text("\n".join(rows) + "\n")


def amazon_2018(src: Path) -> None:
    reviews = [{"reviewerID": f"A{n}", "asin": f"B{n % 2}", "overall": 5.0 - n, "unixReviewTime": 1_400_000_000 + n,
                "style": {"Size:": " L"}} for n in range(3)]  # fmt: skip
    meta = [
        {"asin": "B0", "title": "Tape &amp; Glue", "description": ["Very <b>sticky</b>."], "brand": "Acme",
         "category": ["Industrial", "Tape"], "price": "$1,012.99", "feature": ["Red"]},
        {"asin": "B1", "title": "Plain", "description": [], "price": "", "category": []},
    ]  # fmt: skip
    (src / "Industrial_5.json").write_text("\n".join(map(json.dumps, reviews)) + "\n")
    with gzip.open(src / "meta_Industrial.json.gz", "wt") as file:
        file.write("\n".join(map(json.dumps, meta)) + "\n")


def amazon_2023(src: Path) -> None:
    reviews = [{"user_id": f"A{n}", "parent_asin": "B0", "asin": "V1", "rating": 4.0, "timestamp": 1_600_000_000_000 + n,
                "verified_purchase": True} for n in range(2)]  # fmt: skip
    reviews.append(reviews[0] | {"parent_asin": "GONE"})
    meta = {"parent_asin": "B0", "title": "Lamp", "description": ["Bright."], "store": "Lux", "main_category": "Home",
            "categories": ["Home", "Lamps"], "price": 9.5, "features": ["LED"], "details": {"a": 1}}  # fmt: skip
    (src / "Home.jsonl").write_text("\n".join(map(json.dumps, reviews)) + "\n")
    (src / "meta_Home.jsonl").write_text(json.dumps(meta) + "\n")


def recbole(src: Path) -> None:
    (src / "ml.inter").write_text(
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t2\t4\t8.8e8\n3\t2\t1\t880000001\n"
    )
    (src / "ml.item").write_text(
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n2\tGolden Eye\t1995\tAction Thriller\n"
    )
    (src / "ml.user").write_text("user_id:token\tage:token\n1\t24\n3\t30\n")


def files(src: Path) -> None:
    (src / "products.csv").write_text("productId,name,keywords,price\n7,Mug,red|small,3.5\n8,Cup,,\n")
    (src / "interactions.jsonl").write_text(
        '{"visitorid": 1, "product_id": 7, "event": "addtocart", "datetime": "2024-05-01T10:00:00"}\n'
        '{"visitorid": 2, "product_id": 8, "event": "transaction", "datetime": "2024-05-02T10:00:00Z"}\n'
    )


SOURCES: dict[str, tuple[str, Callable[[Path], None], dict[str, str]]] = {
    "ml-100k": ("movielens", movielens_100k, {}),
    "ml-1m": ("movielens", movielens_1m, {}),
    "ml-latest": ("movielens", movielens_latest, {}),
    "mind": ("mind", mind, {}),
    "amazon-2018": ("amazon", amazon_2018, {}),
    "amazon-2023": ("amazon", amazon_2023, {}),
    "recbole": ("recbole", recbole, {}),
    "files": ("files", files, {"user_id": "visitorid"}),
}


def imported(kind: str, tmp_path: Path, **options: str) -> tuple[pl.DataFrame, pl.DataFrame, list[str]]:
    """Import a source and return its items, events (in order of time) and notes."""
    fmt, write, columns = SOURCES[kind]
    src = tmp_path / "src"
    src.mkdir()
    write(src)
    report = import_dataset(fmt, src, tmp_path / "out", columns=columns, options=options)
    dataset = load_dataset(tmp_path / "out")
    assert (report.items, report.events) == (dataset.items.height, dataset.events.collect().height)
    return dataset.items, dataset.events.sort("timestamp", maintain_order=True).collect(), report.notes


@pytest.mark.parametrize("kind", SOURCES)
def test_importer_gives_a_valid_dataset_and_the_same_twice(kind: str, tmp_path: Path) -> None:
    """What is written passes validation, and a second import writes the same bytes."""
    imported(kind, tmp_path)
    fmt, _, columns = SOURCES[kind]
    import_dataset(fmt, tmp_path / "src", tmp_path / "again", columns=columns)
    for path in (tmp_path / "out").iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("kind", SOURCES)
def test_importer_refuses_to_overwrite(kind: str, tmp_path: Path) -> None:
    """A folder with something in it stays as it is."""
    imported(kind, tmp_path)
    fmt, _, columns = SOURCES[kind]
    with pytest.raises(RecsysError, match="not an empty folder"):
        import_dataset(fmt, tmp_path / "src", tmp_path / "out", columns=columns)


@pytest.mark.parametrize("fmt", IMPORTERS)
def test_importer_names_what_it_looked_for_and_leaves_nothing(fmt: str, tmp_path: Path) -> None:
    """A folder without the format's files gives one line, and no output folder."""
    src = tmp_path / "src"
    src.mkdir()
    (src / "readme.md").write_text("nothing here")
    with pytest.raises(RecsysError) as raised:
        import_dataset(fmt, src, tmp_path / "out")
    assert str(src) in str(raised.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["src"]


@pytest.mark.parametrize("fmt", IMPORTERS)
def test_importer_options_survive_a_round_trip_and_refuse_unknown_ones(fmt: str) -> None:
    """Options are what they were after JSON, and a misspelt one is answered with the nearest."""
    importer = IMPORTERS[fmt]
    options = importer.parse_options({"like_from": "3.5"})
    assert importer.options_model.model_validate_json(options.model_dump_json()) == options
    with pytest.raises(RecsysError, match="did you mean 'like_from'"):
        importer.parse_options({"like_form": "3"})


def test_an_unknown_format_is_a_usage_error(tmp_path: Path) -> None:
    """The nearest format is suggested."""
    with pytest.raises(UsageError, match="did you mean 'movielens'"):
        import_dataset("movielen", tmp_path, tmp_path / "out")


def test_movielens_ratings_become_likes_and_views(tmp_path: Path) -> None:
    """A rating of 4 or more is a like, a lower one a view; both keep the stars."""
    items, events, _ = imported("ml-100k", tmp_path)
    assert events["event_type"].to_list() == ["view", "like", "like"]
    assert events["value"].to_list() == [3, 4, 5]
    assert items["title"].to_list()[1] == 'Café "Müller" (1997)'
    assert items["tags"].to_list()[0] == ["Action", "Comedy"]
    assert items["year"].to_list() == [1996, 1997]


def test_movielens_1m_reads_double_colons_and_latin_1(tmp_path: Path) -> None:
    """A single colon in a title separates nothing."""
    items, _, _ = imported("ml-1m", tmp_path)
    assert items["title"].to_list()[1] == "Fée: 2 (1996)"


def test_movielens_latest_joins_free_tags(tmp_path: Path) -> None:
    """Genres come first, then the most used free tags."""
    items, _, _ = imported("ml-latest", tmp_path)
    assert items["tags"].to_list() == [["Comedy", "Drama", "pixar", "fun"], []]


def test_a_rating_rule_can_be_set(tmp_path: Path) -> None:
    """`like_from` and the event types are options."""
    _, events, _ = imported("ml-100k", tmp_path, like_from="5", rating_event="purchase")
    assert sorted(events["event_type"]) == ["purchase", "view", "view"]


def test_mind_histories_come_before_the_first_request_and_unknown_news_are_counted(tmp_path: Path) -> None:
    """The history is taken once per user; what news.tsv lacks is left out and reported."""
    items, events, notes = imported("mind", tmp_path)
    assert items["title"][0] == 'A "quoted title'
    first = events.filter(pl.col("user_id") == "U1")
    assert first["item_id"].to_list()[0] == "N1"
    assert first["event_type"].to_list().count("impression") == 2
    assert events.filter(pl.col("request_id") == "train-2").height == 2
    assert "1 ids in 1 events" in notes[0]
    assert "N9" in notes[0]


def test_mind_with_train_and_dev_brings_its_own_split(tmp_path: Path) -> None:
    """Dev is test, the last day of train is valid."""
    for part in ("MINDsmall_train", "MINDsmall_dev"):
        (tmp_path / "src" / part).mkdir(parents=True)
        mind(tmp_path / "src" / part)
    import_dataset("mind", tmp_path / "src", tmp_path / "out")
    dataset = load_dataset(tmp_path / "out")
    assert dataset.info.split == "column"
    assert set(dataset.events.collect()["split"]) == {"train", "valid", "test"}


def test_amazon_text_is_cleaned_and_prices_are_numbers(tmp_path: Path) -> None:
    """Entities and markup go, lists are joined, a price is read from its text."""
    items, events, _ = imported("amazon-2018", tmp_path)
    row = items.row(0, named=True)
    assert (row["title"], row["description"], row["price"]) == ("Tape & Glue", "Very sticky . Red", 1012.99)
    assert (row["brand"], row["category"], row["tags"]) == ("Acme", "Industrial", ["Tape"])
    assert set(events["event_type"]) == {"purchase"}


def test_amazon_2023_joins_by_parent_and_reports_reviews_without_an_item(tmp_path: Path) -> None:
    """Variants count for their parent; times are milliseconds."""
    _, events, notes = imported("amazon-2023", tmp_path)
    assert events["item_id"].to_list() == ["B0", "B0"]
    assert events["timestamp"][0] == 1_600_000_000_000_000
    assert "1, for example GONE" in notes[0]


def test_amazon_names_the_line_that_is_no_record(tmp_path: Path) -> None:
    """A broken line is named by file and number, and nothing is written."""
    amazon_2023(tmp_path)
    with (tmp_path / "Home.jsonl").open("a") as file:
        file.write("{broken\n")
    with pytest.raises(RecsysError, match=r"Home.jsonl: line 4 is not a record"):
        import_dataset("amazon", tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_recbole_types_and_sequences(tmp_path: Path) -> None:
    """Typed headers lose their types; a token_seq becomes tags; a low rating is a view."""
    items, events, _ = imported("recbole", tmp_path)
    assert items.row(0, named=True)["tags"] == ["Action", "Thriller"]
    assert events["event_type"].to_list() == ["like", "view"]


def test_files_maps_names_types_and_times(tmp_path: Path) -> None:
    """Usual names are known, the others given; event names are translated."""
    items, events, _ = imported("files", tmp_path)
    assert items["tags"].to_list() == [["red", "small"], None]
    assert items["price"].to_list() == [3.5, None]
    assert events["event_type"].to_list() == ["cart", "purchase"]
    assert events["user_id"].to_list() == ["1", "2"]


def test_files_without_a_required_column_suggests_the_option(tmp_path: Path) -> None:
    """The line names file, column, what there is, and --column."""
    files(tmp_path)
    path = tmp_path / "interactions.jsonl"
    path.write_text(path.read_text().replace("visitorid", "who"))
    with pytest.raises(RecsysError, match=r"interactions.jsonl: column 'user_id' is missing.*who.*--column user_id="):
        import_dataset("files", tmp_path, tmp_path / "out")


def test_files_lists_event_types_that_it_does_not_know(tmp_path: Path) -> None:
    """An unknown type is answered with the option that maps it."""
    files(tmp_path)
    text = (tmp_path / "interactions.jsonl").read_text().replace("addtocart", "wishlist")
    (tmp_path / "interactions.jsonl").write_text(text)
    with pytest.raises(RecsysError, match=r"'wishlist'.*event_mapping"):
        import_dataset("files", tmp_path, tmp_path / "out", columns={"user_id": "visitorid"})
    import_dataset(
        "files",
        tmp_path,
        tmp_path / "out",
        columns={"user_id": "visitorid"},
        options={"event_mapping": "wishlist=like"},
    )
    assert "like" in load_dataset(tmp_path / "out").events.collect()["event_type"].to_list()


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=12).filter(
    lambda text: bool(text.strip())
)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(TEXT, min_size=2, max_size=6))
def test_files_reads_csv_jsonl_and_parquet_alike(tmp_path: Path, titles: list[str]) -> None:
    """Any text survives, whatever the format."""
    import shutil

    items = pl.DataFrame({"item_id": [f"i{n}" for n in range(len(titles))], "title": titles})
    events = pl.DataFrame(
        {"user_id": ["a", "b"], "item_id": ["i0", "i1"], "event_type": ["view"] * 2, "timestamp": [1, 2]}
    )
    titles_read = []
    for suffix in ("csv", "jsonl", "parquet"):
        folder = tmp_path / suffix
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "src").mkdir(parents=True)
        for table, frame in (("items", items), ("events", events)):
            write = {"csv": "write_csv", "jsonl": "write_ndjson", "parquet": "write_parquet"}[suffix]
            getattr(frame, write)(folder / "src" / f"{table}.{suffix}")
        import_dataset("files", folder / "src", folder / "out")
        titles_read.append(pl.read_parquet(folder / "out" / "items.parquet")["title"].to_list())
    assert titles_read == [titles] * 3


@pytest.mark.parametrize(
    ("kind", "name"), [("ml-100k", "u.item"), ("ml-1m", "ratings.dat"), ("mind", "news.tsv"), ("recbole", "ml.inter")]
)
def test_a_line_with_more_fields_than_the_format_has_is_named(kind: str, name: str, tmp_path: Path) -> None:
    """What stands in them would be lost."""
    fmt, write, _ = SOURCES[kind]
    write(tmp_path)
    path = next(tmp_path.rglob(name))
    line = path.read_bytes().splitlines()[-1]
    separator = b"::" if name.endswith(".dat") else b"|" if name == "u.item" else b"\t"
    path.write_bytes(path.read_bytes() + line + separator + b"more\n")
    with pytest.raises(RecsysError, match=rf"{name}: 1 lines have more fields than the .* remove separators"):
        import_dataset(fmt, tmp_path, tmp_path / "out")
