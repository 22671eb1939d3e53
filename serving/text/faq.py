"""What a server answers questions from: a text head, and the base of its training or a file, which is read again when it changes.

In: the name of a text head, and a path. Out: a `Faq`.
"""

import logging
import threading
from pathlib import Path

from features.texts.answers import read_threads
from recsys.errors import RecsysError
from recsys.registry import bundle_folder, resolve
from recsys.text.bundle import load_text_model
from serving.text.answers import KIND, Answerer

log = logging.getLogger("recsys.faq")


class Faq:
    """A text head of kind `answers` with its base."""

    def __init__(self, model: str, base: Path | None = None) -> None:
        """Load `model`, and the answers in the file `base` where one is given.

        Raises:
            RecsysError: there is no such model, it is of another kind, or the file cannot be read.
        """
        self.name = resolve(model, "--answers")
        self.path = base
        self._answerer = Answerer(load_text_model(bundle_folder(self.name, "--answers"), KIND))
        self._lock = threading.Lock()
        self._read: float | None = None
        if base:
            self._answerer = self._answerer.with_base(read_threads(base).base())
            self._read = base.stat().st_mtime

    def answerer(self) -> Answerer:
        """Return what finds answers now; a file that was changed since, and cannot be read, leaves the answers as they were."""
        if self.path and self.path.exists() and self.path.stat().st_mtime != self._read and self._lock.acquire(False):
            try:
                self._read = self.path.stat().st_mtime
                self._answerer = self._answerer.with_base(read_threads(self.path).base())
                log.info("%s: %d answers", self.path, len(self._answerer.base.answers))
            except RecsysError as error:
                log.error("%s; the answers stay as they were", error)
            finally:
                self._lock.release()
        return self._answerer
