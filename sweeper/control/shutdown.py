"""Turns Ctrl-C and SIGTERM into a request to stop, so that running chunks end and everything is saved.

`sweep` holds this while it runs; the controller acts on the request.
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
    """A request to stop, set from a signal handler; running chunks may end before ``deadline_s``."""

    reason: str = ""
    """Name of the signal; empty as long as nobody asked."""
    deadline_s: float = math.inf
    """On the clock of `time.monotonic`."""

    def __bool__(self) -> bool:
        return bool(self.reason)


@contextmanager
def shutdown_on_signals(grace_s: float) -> Iterator[ShutdownRequest]:
    """Turn the first Ctrl-C or SIGTERM into a request to stop; the second stops at once.

    Outside of the main thread Python allows no signal handlers, so the signals stay as they are.

    Args:
        grace_s: Seconds that running chunks have to end.
    """
    request = ShutdownRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    # It may interrupt a write to the terminal or to the log, so it must not write itself; the controller does.
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
