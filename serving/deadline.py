"""When an answer is to be ready, and what it then lacks.

In: a moment. Out: for each step of making a list, whether it is too late for it. A step that has begun is never stopped.
"""

import math
import time


class Deadline:
    """The moment `at` of `time.monotonic`; a list without one is made with everything."""

    def __init__(self, at: float = math.inf) -> None:
        self.at = at
        self._left_out: dict[str, None] = {}

    def leaves_out(self, step: str) -> bool:
        """Return whether it is too late for `step`, which the list then lacks."""
        late = time.monotonic() >= self.at
        if late:
            self._left_out[step] = None
        return late

    @property
    def left_out(self) -> list[str]:
        """The steps that the list lacks, in the order in which they would have been done."""
        return list(self._left_out)
