"""Turns Ctrl-C and SIGTERM into a request to stop, so that running chunks can finish and everything is saved.

`sweeper.sweep.run` installs it for a session; the controller acts on the request.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

__all__ = ["ShutdownRequest", "shutdown_on_signals"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(slots=True)
class ShutdownRequest:
    """A request to stop, set by a signal handler. False before the request."""

    reason: str = ""
    """Name of the signal; empty before the request."""
    deadline_s: float = math.inf
    """Until when running chunks may finish, on the clock of `time.monotonic`."""

    def __bool__(self) -> bool:
        return bool(self.reason)


@contextmanager
def shutdown_on_signals(grace_s: float) -> Iterator[ShutdownRequest]:
    """Turn the first Ctrl-C or SIGTERM into a request to stop; the second one interrupts at once.

    Outside the main thread Python does not allow signal handlers, so there the signals are not handled.

    Args:
        grace_s: Seconds that running chunks have to finish.
    """
    request = ShutdownRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    # The handler may interrupt a write to the terminal or the log, so it must not write; the controller logs instead.
    def handle(number: int, _frame: FrameType | None) -> None:
        if request:
            raise KeyboardInterrupt
        request.reason = signal.Signals(number).name
        request.deadline_s = time.monotonic() + grace_s

    before = {number: signal.signal(number, handle) for number in _SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
