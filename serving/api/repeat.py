"""Steps that a server repeats in the background while it answers."""

import logging
import threading
from collections.abc import Callable

from recsys.errors import first_line

log = logging.getLogger("recsys.live")


class Repeated:
    """A step that a thread repeats until `stop`; what it raises goes to the log, once as long as it stays the same."""

    def __init__(self, step: Callable[[], object], every_s: float) -> None:
        """Start the thread; the first step begins at once, the others `every_s` seconds after the one before."""
        self._step, self._every_s, self._stopped = step, every_s, threading.Event()
        self._thread = threading.Thread(target=self._repeat, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop after the step in progress."""
        self._stopped.set()
        self._thread.join()

    def _repeat(self) -> None:
        trouble = ""
        while True:
            try:
                self._step()
                trouble = ""
            except Exception as error:  # whatever is wrong with the store or another model, this one goes on serving
                if trouble != (trouble := first_line(error)):  # once, not every half second
                    log.warning("%s", trouble)
            if self._stopped.wait(self._every_s):
                return
