"""Files of questions with answers."""

import json
from pathlib import Path

import polars as pl
import pytest

from features.texts.answers import Threads, read_threads
from recsys.errors import RecsysError

THREADS = Threads(
    [["How do I pay?", "Can I pay by card?"], ["Where are you?"]], [["By card.", "In cash."], ["In Bern."]]
)


def test_lists_are_read_as_they_are(tmp_path: Path) -> None:
    """A row has what belongs together."""
    path = tmp_path / "faq.jsonl"
    rows = zip(THREADS.questions, THREADS.answers, strict=True)
    path.write_text("".join(json.dumps({"questions": own, "answers": answers}) + "\n" for own, answers in rows))
    assert read_threads(path) == THREADS


def test_rows_with_the_same_answer_are_one_thread(tmp_path: Path) -> None:
    """As tables of pairs have it."""
    path = tmp_path / "faq.csv"
    pl.DataFrame({"question": ["a?", "b?", "c?"], "answer": ["yes", "no", "yes"]}).write_csv(path)
    assert read_threads(path) == Threads([["a?", "c?"], ["b?"]], [["yes"], ["no"]])


def test_a_question_is_kept_with_its_answers_if_it_is_asked_in_another_way_too() -> None:
    """Else the question that is asked would be found by itself."""
    base = THREADS.base()
    assert base.texts() == ["How do I pay? By card.", "How do I pay? In cash.", "In Bern."]
    assert base.threads.tolist() == [0, 0, 1]
    questions, threads = THREADS.queries([0, 1])
    assert questions == ["Can I pay by card?", "Where are you?"]
    assert threads.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([{"question": "a?", "answer": ""}], "1 of 1 rows lack a question or an answer, for example row 1"),
        ([{"questions": ["a?"], "answers": ["x"]}, {"questions": [], "answers": ["x"]}], "for example row 2"),
        ([{"questions": "a?", "answers": ["x"]}], "questions is String, not a list of texts"),
        ([{"ask": "a?"}], "no columns questions and answers, nor question and answer, among ask"),
    ],
)
def test_what_is_no_base_is_refused(tmp_path: Path, rows: list[dict[str, object]], problem: str) -> None:
    """The line names the file and shows a row."""
    path = tmp_path / "faq.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(RecsysError) as error:
        read_threads(path)
    assert problem in str(error.value)
