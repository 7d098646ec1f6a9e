"""SIGTERM and SIGINT: the first asks the run to end after the step at hand, the second ends the process at once. No torch."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """`signal` is the number of the first signal, None as long as there was none."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    def receive(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            # safe at any moment: a checkpoint half written counts for nothing, and the lock is the process's own
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self.signal = number
        name = signal.Signals(number).name
        # the handler runs between two instructions of anything, so it must not use a buffered stream that may be locked
        with contextlib.suppress(OSError):
            os.write(2, f"\n{name}: saving after this step; once more ends at once\n".encode())


@contextlib.contextmanager
def listening() -> Iterator[StopRequest]:
    """Take the signals for the time of a run; outside the main thread, where Python permits no handlers, none."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, request.receive) for number in SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
