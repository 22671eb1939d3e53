"""A Chromium without a window, driven over its pipe (the DevTools protocol), so that no driver needs to be installed."""

import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
"""The browser's program, where there is one."""
PATIENCE_S = 60.0
"""Seconds within which the browser has to answer, or a page to become what is expected."""


class Browser:
    """One window of a browser that runs."""

    def __init__(self, commands: int, answers: int) -> None:
        """`commands` and `answers` are the ends of the pipes, as file descriptors."""
        self._commands, self._answers, self._unread, self._sent = commands, answers, b"", 0
        self._session = ""
        self.complaints: list[str] = []
        """Uncaught errors of scripts, and what the browser logs as an error."""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Return the answer to a command of the protocol."""
        self._sent += 1
        message = {"id": self._sent, "method": method, "params": parameters}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._sent:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
            self._note(answer)

    def open(self, address: str, width: int = 1280, height: int = 1000) -> None:
        """Load a page in a window of that size."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.send("Emulation.setDeviceMetricsOverride", **size)
        self.send("Page.navigate", url=address)
        self.until(f"location.href == {json.dumps(address)} && document.readyState == 'complete'")

    def value(self, expression: str) -> Any:
        """Return what an expression of JavaScript is on the page."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def until(self, expression: str) -> None:
        """Wait until an expression is true."""
        deadline = time.monotonic() + PATIENCE_S
        while not self.value(expression):
            assert time.monotonic() < deadline, f"{expression} has not become true"
            time.sleep(0.05)

    def press(self, key: str, code: int) -> None:
        """Press a key of that name and code (`keyCode`)."""
        for kind in ("rawKeyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._unread:
            assert select.select([self._answers], [], [], PATIENCE_S)[0], "the browser does not answer"
            received = os.read(self._answers, 1 << 16)
            assert received, "the browser has ended"
            self._unread += received
        text, _, self._unread = self._unread.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        return message

    def _note(self, event: dict[str, Any]) -> None:
        entry = event.get("params", {}).get("entry", {})
        if event.get("method") == "Runtime.exceptionThrown" or entry.get("level") == "error":
            self.complaints.append(json.dumps(event))


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """Run a browser with a profile of its own while the body runs."""
    assert CHROMIUM
    (command_end, commands), (answers, answer_end) = os.pipe(), os.pipe()
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", f"--user-data-dir={profile}"]
    redirect = (
        f"import os, sys; os.dup2({command_end}, 3); os.dup2({answer_end}, 4); os.execv(sys.argv[1], sys.argv[1:])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", redirect, CHROMIUM, *options],  # which expects its pipes at 3 and 4
        pass_fds=(command_end, answer_end),
        stderr=subprocess.DEVNULL,
    )
    os.close(command_end)
    os.close(answer_end)
    try:
        yield Browser(commands, answers)
    finally:
        process.terminate()
        process.wait()
        os.close(commands)
        os.close(answers)
