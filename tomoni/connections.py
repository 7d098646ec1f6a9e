"""Connections of the servers: one that does not say what it wants is closed, and there is an end to how many there are.

uvicorn waits for a request for as long as the other side likes; a few hundred connections that say a word a minute would
use up the files a process may have open, and with them the database. No torch.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 20.0  # from a connection's beginning, or a request's first byte, to the end of the request's headers
MOST = 500  # connections at once


class Connection(H11Protocol):
    """uvicorn's own, with a clock. What is in the way of h11 is refused by h11: headers over `h11_max_incomplete_event_size`."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._head: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > MOST:
            transport.close()
        else:
            self._head = self.loop.call_later(HEAD_SECONDS, transport.close)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._told()
        elif self._head is None and not self.transport.is_closing():
            self._head = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        self._told()
        super().connection_lost(exc)

    def _told(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None
