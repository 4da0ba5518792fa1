"""Turns Ctrl-C and SIGTERM into a wish to stop, so that running chunks end and everything is saved.

`sweep` holds this while it runs; what is done about the wish is the controller's business.
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
    """A wish to stop, set from a signal handler; running chunks may end before ``deadline_s``."""

    reason: str = ""
    deadline_s: float = math.inf
    """On the clock of `time.monotonic`."""

    def __bool__(self) -> bool:
        return bool(self.reason)


@contextmanager
def shutdown_on_signals(patience_s: float) -> Iterator[ShutdownRequest]:
    """Turn the first Ctrl-C or SIGTERM into a wish to stop; the second stops at once.

    Outside of the main thread Python allows no signal handlers, so the signals stay as they are.

    Args:
        patience_s: Seconds that running chunks may take to end.
    """
    drain = ShutdownRequest()
    if threading.current_thread() is not threading.main_thread():
        yield drain
        return

    # It may interrupt a write to the terminal or to the log, so it must not write itself; the controller does.
    def handle(number: int, _frame: FrameType | None) -> None:
        if drain:
            raise KeyboardInterrupt
        drain.reason = signal.Signals(number).name
        drain.deadline_s = time.monotonic() + patience_s

    before = {number: signal.signal(number, handle) for number in _SIGNALS}
    try:
        yield drain
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
