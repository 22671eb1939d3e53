"""Files of texts with classes."""

from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.texts.classes import read_classes
from features.texts.split import shuffled_parts
from recsys.errors import RecsysError
from serving.text.tables import WRITERS

ROWS = [("good", "1"), ("bad", "0")] * 5


def test_a_tsv_without_names_has_text_and_label(tmp_path: Path) -> None:
    """As the published sets of sentences are; the first row is a text, too."""
    path = tmp_path / "a.tsv"
    path.write_text("".join(f"{text} {row}\t{label}\n" for row, (text, label) in enumerate(ROWS)))
    read = read_classes(path)
    assert read.texts == [f"{text} {row}" for row, (text, _) in enumerate(ROWS)]
    assert read.labels == [(label,) for _, label in ROWS]
    assert read.classes == ["0", "1"]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_every_format_reads_alike(tmp_path: Path, name: str) -> None:
    """The columns are named."""
    table = pl.DataFrame(ROWS, schema=["text", "label"], orient="row")
    WRITERS[Path(name).suffix](table, tmp_path / name)
    assert read_classes(tmp_path / name).labels == [(label,) for _, label in ROWS]


def test_a_text_may_have_several_labels_or_none(tmp_path: Path) -> None:
    """As lists, or with a bar between them."""
    table = pl.DataFrame({"text": ["a", "b", "c"] * 5, "labels": ["x|y", "y", None] * 5})
    table.write_csv(tmp_path / "a.csv")
    table.with_columns(pl.Series("labels", [["x", "y"], ["y"], []] * 5)).write_ndjson(tmp_path / "a.jsonl")
    for name in ("a.csv", "a.jsonl"):
        read = read_classes(tmp_path / name)
        assert read.multi
        assert read.labels == [("x", "y"), ("y",), ()] * 5


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([*ROWS, ("fine", "")], "1 of 11 rows have no label, for example row 11, 'fine'"),
        ([*ROWS, (" ", "1")], "1 of 11 rows have no text, for example row 11"),
        ([*ROWS, ("odd", "2")], "1 of 3 classes have fewer than 5 texts, for example '2' with 1"),
        ([("good", "1")] * 6, "1 class among 6 texts ('1')"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(tmp_path: Path, rows: list[tuple[str, str]], problem: str) -> None:
    """The line says how many rows, and shows one."""
    pl.DataFrame(rows, schema=["text", "label"], orient="row").write_ndjson(tmp_path / "a.jsonl")
    with pytest.raises(RecsysError) as error:
        read_classes(tmp_path / "a.jsonl")
    assert problem in str(error.value)


@given(st.integers(5, 500), st.integers(0, 5))
def test_every_row_is_in_one_part(count: int, seed: int) -> None:
    """The parts are 6:2:2, and the same whenever they are made."""
    parts = shuffled_parts(count, seed)
    every = [*parts.train, *parts.valid, *parts.test]
    assert sorted(every) == list(range(count))
    assert abs(len(parts.test) - count / 5) <= 1
    assert parts.train.tolist() == shuffled_parts(count, seed).train.tolist()
