"""Errors that users see as one line instead of a traceback."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class RecsysError(Exception):
    """A problem that the user can solve.

    The message is one line: where, what is wrong, how often, an example, and after a semicolon a hint. The
    command line prints it and exits with `exit_code`.
    """

    exit_code = 1


class UsageError(RecsysError):
    """Wrong usage of a command (exit code 2)."""

    exit_code = 2


class Problems:
    """Collects problems, so that a user hears of all at once and not of one per run."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Note the error that ends the body, and go on after it."""
        try:
            yield
        except RecsysError as error:
            self._lines.append(str(error))

    def raise_any(self) -> None:
        """Raise RecsysError with what was noted: a line for each problem."""
        if len(self._lines) == 1:
            raise RecsysError(self._lines[0])
        if self._lines:
            raise RecsysError("\n  ".join([f"{len(self._lines)} problems:", *self._lines]))


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or what it is where it has none."""
    return (str(error).splitlines() or [repr(error)])[0]


def suggest(unknown: str, known: list[str]) -> str:
    """Return `; did you mean 'x'?` for the known word nearest to `unknown`, or the whole list."""
    from difflib import get_close_matches

    near = get_close_matches(unknown, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"


def first_problem(error: "ValidationError") -> str:
    """Return the first problem of a pydantic error as `key: message (got value)`."""
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    return f"{where}: {problem['msg']} (got {problem['input']!r})"
