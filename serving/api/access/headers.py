"""How long and how large the headers of a request may be, which is decided before there is a request.

In: the bytes of a connection. Out: the same to uvicorn, or 408 and 431 and the end of the connection.
"""

import asyncio
from typing import Any, ClassVar

from uvicorn.protocols.http.auto import AutoHTTPProtocol

from serving.api.errors import MEDIA_TYPE, problem_json

HEADER_BYTES = 32 << 10
"""The longest headers, the request line with them."""
HEADER_S = 10.0
"""Seconds within which headers must arrive, from the connection or their first byte."""
END = b"\r\n\r\n"

Base: Any = AutoHTTPProtocol


class HeaderLimits(Base):
    """uvicorn's HTTP protocol, which by itself waits for headers without end."""

    header_s: ClassVar[float] = HEADER_S

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Wait for the first headers."""
        super().connection_made(transport)
        self._timer: asyncio.TimerHandle | None = None
        self._await_headers()

    def data_received(self, data: bytes) -> None:
        """Pass the bytes on, unless the headers among them are too long."""
        if self.cycle is None or self.cycle.response_complete:
            if self._timer is None:
                self._await_headers()
            self._received += len(data.partition(END)[0])
            if self._received > HEADER_BYTES:
                self._refuse(431, f"the headers are longer than {HEADER_BYTES} bytes")
                return
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:
            self._stop_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._stop_waiting()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, which uvicorn by itself does in plain text."""
        self._refuse(400, msg)

    def _await_headers(self) -> None:
        self._received = 0
        late = f"the headers did not arrive within {self.header_s:g} s"
        self._timer = self.loop.call_later(self.header_s, self._refuse, 408, late)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, status: int, detail: str) -> None:
        self._stop_waiting()
        body = problem_json(status, detail).encode()
        head = f"HTTP/1.1 {status} \r\ncontent-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\nconnection: close"
        self.transport.write(head.encode() + END + body)
        self.transport.close()
