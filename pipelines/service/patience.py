"""uvicorn's HTTP protocol with an end to patience: who dribbles a request's head is shown the door.

uvicorn itself bounds the pause after an answer, and neither the first head nor a second one that was begun.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

_TOO_SLOW = (
    b"HTTP/1.1 408 Request Timeout\r\ncontent-type: application/json\r\ncontent-length: 40\r\nconnection: close\r\n\r\n"
    b'{"detail": "the head came too slowly"}\r\n'
)


def protocol(header_s: float) -> type[H11Protocol]:
    """The class that uvicorn is to use. `header_s`: from connection or last answer to the end of the next head."""

    class PatientProtocol(H11Protocol):
        _deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            if self._deadline is not None:
                self._deadline.cancel()

        def _watch(self) -> None:
            if self._is_answering():
                if self._deadline is not None:
                    self._deadline.cancel()
                self._deadline = None
            elif self._deadline is None:
                self._deadline = self.loop.call_later(header_s, self._give_up)

        def _is_answering(self) -> bool:
            return self.cycle is not None and not self.cycle.response_complete

        def _give_up(self) -> None:
            self._deadline = None
            if not self._is_answering() and not self.transport.is_closing():
                self.transport.write(_TOO_SLOW)
                self.transport.close()

    return PatientProtocol
