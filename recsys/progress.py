"""Show the progress of long commands: a line per stage, with a bar and the time left.

On a terminal the bar moves; elsewhere (logs, CI) each stage prints one line when it ends. Progress goes
to stderr, so that stdout holds only results.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

console = Console(stderr=True, highlight=False)

Update = Callable[[float, str], None]
"""Called with the share that is done, in [0, 1], and a short note."""


@contextmanager
def stage(title: str) -> Iterator[Update]:
    """Show `title` with a bar while the body runs; the body moves the bar by calling the function it receives."""
    start, last_note = time.monotonic(), ""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=1.0, note="")

        def update(done: float, note: str = "") -> None:
            nonlocal last_note
            last_note = note or last_note
            progress.update(task, completed=done, note=last_note)

        yield update
    seconds = time.monotonic() - start
    console.print(f"{title}: {last_note + ', ' if last_note else ''}{seconds:.0f} s", soft_wrap=True)
