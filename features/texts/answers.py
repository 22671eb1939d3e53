"""Questions with their answers, from a file.

In: `.jsonl` or `.parquet` with a list `questions` and a list `answers` in each row, which belong together; or any table with the columns
`question` and `answer`, whose rows with the same answer belong together. Out: `Threads`.

The first question of a thread is kept with its answers; the others are how else it is asked.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from features.data.formats import scan
from recsys.arrays import Ints
from recsys.errors import RecsysError

QUESTIONS, ANSWERS, QUESTION, ANSWER = "questions", "answers", "question", "answer"
LEAST = 10
"""Threads that are needed to fit, to choose and to measure."""


@dataclass(frozen=True)
class Threads:
    """N questions, each asked in several ways, with their answers."""

    questions: list[list[str]]
    answers: list[list[str]]

    def __len__(self) -> int:
        return len(self.questions)

    def base(self) -> "AnswerBase":
        """Return all answers, each with the first question of its thread, where it is asked in another way as well."""
        kept = [own[0] if len(own) > 1 else "" for own in self.questions]
        rows = [(kept[thread], answer, thread) for thread, answers in enumerate(self.answers) for answer in answers]
        questions, answers, threads = zip(*rows, strict=True)
        return AnswerBase(list(questions), list(answers), np.array(threads, np.int64))

    def queries(self, threads: Sequence[int] | Ints) -> tuple[list[str], Ints]:
        """Return in what other ways some threads are asked, and the thread of each `[Q]`."""
        rows = [
            (question, thread)
            for thread in threads
            for question in (self.questions[thread][1:] or self.questions[thread])
        ]
        return [question for question, _ in rows], np.array([thread for _, thread in rows], np.int64)


@dataclass(frozen=True)
class AnswerBase:
    """A answers, each with the question that it is kept with."""

    questions: list[str]
    """Empty where none is known."""
    answers: list[str]
    threads: Ints
    """`[A]` which answers belong to one question."""

    def texts(self) -> list[str]:
        """Return what is encoded of each answer: its question and itself."""
        return [f"{question} {answer}".strip() for question, answer in zip(self.questions, self.answers, strict=True)]


def read_threads(path: Path) -> Threads:
    """Return the questions of a file with their answers.

    Raises:
        RecsysError: the file is missing or has other columns, or a question or an answer is empty.
    """
    if not path.is_file():
        raise RecsysError(f"{path}: no such file; give one with questions and answers")
    table = scan(path).collect()
    if QUESTIONS in table.columns and ANSWERS in table.columns:
        threads = Threads(*(_lists(path, table, name) for name in (QUESTIONS, ANSWERS)))
    elif QUESTION in table.columns and ANSWER in table.columns:
        pairs = table.select(pl.col(QUESTION, ANSWER).cast(pl.String).fill_null(""))
        _refuse_empty(path, pairs.select(pl.all_horizontal(pl.all().str.strip_chars() != ""))[:, 0].to_list())
        own = pairs.group_by(ANSWER, maintain_order=True).agg(pl.col(QUESTION).unique(maintain_order=True))
        threads = Threads(own[QUESTION].to_list(), [[answer] for answer in own[ANSWER].to_list()])
    else:
        raise RecsysError(
            f"{path}: no columns {QUESTIONS} and {ANSWERS}, nor {QUESTION} and {ANSWER}, among {', '.join(table.columns)}; rename them"
        )
    full = zip(threads.questions, threads.answers, strict=True)
    _refuse_empty(path, [bool(own) and bool(answers) and all(map(str.strip, own + answers)) for own, answers in full])
    return threads


def require_enough(path: Path, threads: Threads) -> None:
    """Raise RecsysError where there are too few threads to fit, to choose and to measure."""
    if len(threads) < LEAST:
        raise RecsysError(f"{path}: {len(threads)} questions with answers; {LEAST} are needed to fit and to measure")


def _lists(path: Path, table: pl.DataFrame, name: str) -> list[list[str]]:
    if not isinstance(table.schema[name], pl.List):
        raise RecsysError(f'{path}: {name} is {table.schema[name]}, not a list of texts; write ["…", "…"]')
    lists = table[name].cast(pl.List(pl.String)).fill_null([])
    return [[text or "" for text in texts] for texts in lists.to_list()]


def _refuse_empty(path: Path, full: list[bool]) -> None:
    if not all(full):
        raise RecsysError(
            f"{path}: {full.count(False):,} of {len(full):,} rows lack a question or an answer, for example row {full.index(False) + 1}; "
            "complete or remove them"
        )
