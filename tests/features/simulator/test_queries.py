"""What is typed into the search of the simulated shop, and what is clicked."""

import re
from pathlib import Path

import polars as pl
import pytest

from features.data.dataset import Dataset, load_dataset
from features.simulator import shop
from features.simulator.queries import OWN_ATTRIBUTES, OWN_CATEGORIES
from features.simulator.shop import load_truth, simulate
from features.simulator.text import ATTRIBUTES, CATEGORY_NAMES, WORDINGS
from recsys.schema import QUERY_COLUMNS


def words_of(text: str) -> set[str]:
    """Return the words of a text as a search takes them apart."""
    return set(re.findall(r"\w\w+", text.lower()))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Return a shop of 500 users."""
    folder = tmp_path_factory.mktemp("simulated") / "shop"
    simulate(folder, users=500, items=300, seed=3)
    return load_dataset(folder)


def test_what_is_clicked_is_all_that_was_typed(dataset: Dataset) -> None:
    """The item is of the category, has the attributes, and is there by then."""
    truth = load_truth(dataset.folder)
    assert truth is not None and dataset.queries is not None and dataset.queries.height > 100
    meanings = {word: ("category", name) for name, own in OWN_CATEGORIES.items() for word in (*own, name)}
    meanings |= {w: ("attribute", name) for name, own in OWN_ATTRIBUTES.items() for w in (*own, *WORDINGS[name][0])}
    rows = {item: row for row, item in enumerate(truth.item_ids.tolist())}
    for query, item_id, time, _ in dataset.queries.iter_rows():
        row, left = rows[item_id], query
        assert truth.item_created[row] <= time
        for words in sorted(meanings, key=len, reverse=True):
            if re.search(rf"(^| ){re.escape(words)}( |$)", left):
                left = left.replace(words, "").strip()
                kind, name = meanings[words]
                if kind == "category":
                    assert CATEGORY_NAMES[truth.item_category[row]] == name, (query, item_id)
                else:
                    assert truth.item_attributes[row, ATTRIBUTES.index(name)] > 0, (query, item_id)
        assert not left, query


def test_the_users_own_words_are_in_no_text_of_the_shop(dataset: Dataset) -> None:
    """Only clicks can tell what they mean; about half of what is typed are such words."""
    items = dataset.items.select(
        pl.concat_str("title", "description", "category", pl.col("tags").list.join(" "), separator=" ")
    )
    known = words_of(" ".join(items.to_series()))
    own = {word for table in (OWN_ATTRIBUTES, OWN_CATEGORIES) for words in table.values() for word in words}
    assert not known & words_of(" ".join(own))
    assert dataset.queries is not None
    typed = dataset.queries["query"].to_list()
    assert 0.5 < sum(bool(words_of(query) & words_of(" ".join(own))) for query in typed) / len(typed) < 0.9


def test_queries_leave_the_other_tables_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are drawn by a generator of their own, so that a seed gives the items and events that it gave before there were queries."""
    simulate(tmp_path / "with", users=40, items=60, seed=5)
    monkeypatch.setattr(shop, "query_table", lambda truth, seed: pl.DataFrame(schema=QUERY_COLUMNS))
    simulate(tmp_path / "without", users=40, items=60, seed=5)
    files = sorted(path.name for path in (tmp_path / "with").iterdir())
    differing = [
        name for name in files if (tmp_path / "with" / name).read_bytes() != (tmp_path / "without" / name).read_bytes()
    ]
    assert differing == ["queries.parquet"]
