"""Turns Ctrl-C, SIGTERM and SIGHUP into a request to stop, so that running chunks can finish and everything is saved.

`sweeper.sweep.run` installs it for a session; the controller acts on the request.
"""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

__all__ = ["ShutdownRequest", "shutdown_on_signals"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_OUTPUTS = (1, 2)
"""Descriptors of standard output and standard error."""


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
    """Turn the first Ctrl-C, SIGTERM or SIGHUP into a request to stop; a second Ctrl-C or SIGTERM interrupts at once.

    SIGHUP says that the terminal is closed. From then on, what would be printed there is dropped, since writing to it
    would fail. It often comes twice, from the kernel and from the shell, so a second one changes nothing; and it stays
    ignored under nohup. Outside the main thread Python does not allow signal handlers, so there the signals are not
    handled.

    Args:
        grace_s: Seconds that running chunks have to finish.
    """
    request, terminals = ShutdownRequest(), [number for number in _OUTPUTS if os.isatty(number)]
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    # The handler may interrupt a write to the terminal or the log, so it must not write; the controller logs instead.
    def handle(number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            _silence(terminals)
            if request:
                return
        elif request:
            raise KeyboardInterrupt
        request.reason = signal.Signals(number).name
        request.deadline_s = time.monotonic() + grace_s

    handled = [each for each in _SIGNALS if each != signal.SIGHUP or signal.getsignal(each) != signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in handled}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _silence(descriptors: Sequence[int]) -> None:
    """Drop what is written to these descriptors from now on."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    for descriptor in descriptors:
        os.dup2(nothing, descriptor)
    os.close(nothing)
