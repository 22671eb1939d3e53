"""Show the progress of long commands: a line per stage, with a bar and the time left.

On a terminal the bar moves; elsewhere (logs, CI) each stage prints one line when it ends, and one a minute until then. Progress
goes to stderr, so that stdout holds only results.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

console = Console(stderr=True, highlight=False)

Update = Callable[[float, str], None]
"""Called with the share that is done, in [0, 1], and a short note."""


SILENCE_S = 60.0
"""Seconds without a terminal after which a stage says that it goes on."""


_collecting: list[dict[str, float]] = []


@contextmanager
def timed() -> Iterator[dict[str, float]]:
    """Give the seconds of each stage that the body runs, by its title; the dictionary fills as they end."""
    _collecting.append({})
    try:
        yield _collecting[-1]
    finally:
        _collecting.pop()


def say(line: str) -> None:
    """Print a line on stderr, above the bar where there is one."""
    console.print(line, soft_wrap=True)


@contextmanager
def stage(title: str) -> Iterator[Update]:
    """Show `title` with a bar while the body runs; the body moves the bar by calling the function it receives."""
    start, last_note, share = time.monotonic(), "", 0.0
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )

    def line(done: str) -> None:
        notes = "".join(f"{note}, " for note in (done, last_note) if note)
        say(f"{title}: {notes}{time.monotonic() - start:.0f} s")

    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=1.0, note="")

        def update(done: float, note: str = "") -> None:
            nonlocal last_note, share
            last_note, share = note or last_note, max(done, share)
            progress.update(task, completed=share, note=last_note)

        with _each_minute(lambda: line(f"{share:.0%}")):
            yield update
    for seconds in _collecting:
        seconds[title] = seconds.get(title, 0.0) + time.monotonic() - start
    line("")


@contextmanager
def _each_minute(say: Callable[[], None]) -> Iterator[None]:
    """Call `say` once a minute while the body runs, unless there is a terminal with a bar."""
    over = threading.Event()

    def speak() -> None:
        while not over.wait(SILENCE_S):
            say()

    speaker = threading.Thread(target=speak, daemon=True)
    if not console.is_terminal:
        speaker.start()
    try:
        yield
    finally:
        over.set()
