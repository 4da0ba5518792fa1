"""Tells broken devices from trials that break every device, and disables devices that fail again and again.

A failure on a device without one good chunk since the last failure counts against the device. What was alone there, a
trial or the opening of a study, is suspected. When it fails alone a second time, on whichever device, the cause is the
trial, and its failures no longer count against any device. So one trial that kills every worker disables no device,
while a device on which different trials fail alone is disabled, and those trials get their retries back.
`worker_recovery` asks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["MAX_FAILURES_IN_A_ROW", "CircuitBreaker", "DeviceDecision", "Suspect"]

MAX_FAILURES_IN_A_ROW = 3
"""After so many a device is disabled."""

Suspect = tuple[str, int]
"""Study and number of a trial that was alone; the number is -1 for the opening of the study."""


@dataclass(frozen=True, slots=True)
class DeviceDecision:
    """What follows from a failure."""

    reason: str = ""
    """Why the device is disabled; empty if it is not."""
    refunded: tuple[Suspect, ...] = ()
    """What failed alone on a device that turned out to be broken."""


class CircuitBreaker:
    """Counts failures by device."""

    def __init__(self) -> None:
        self._failures: dict[int, list[Suspect | None]] = {}
        self._suspected: set[Suspect] = set()
        self.disabled: dict[int, str] = {}
        """Why devices were disabled, by the index of the worker."""

    def record_success(self, index: int, trials: Iterable[Suspect] = ()) -> None:
        """Record a good chunk: the device's count starts again, and the trials in the chunk are not suspected."""
        self._failures.pop(index, None)
        self._suspected.difference_update(trials)

    def record_failure(self, index: int, what: str, suspect: Suspect | None = None) -> DeviceDecision:
        """Record a failure and decide about the device.

        Args:
            index: The worker.
            what: What happened, for people.
            suspect: What was alone on the device; None if nothing or several were.
        """
        if suspect is not None and suspect in self._suspected:
            for failures in self._failures.values():
                failures[:] = [known for known in failures if known != suspect]
            return DeviceDecision()
        if suspect is not None:
            self._suspected.add(suspect)
        failures = self._failures.setdefault(index, [])
        failures.append(suspect)
        if len(failures) < MAX_FAILURES_IN_A_ROW:
            return DeviceDecision()
        reason = f"{what} ({len(failures)} failures in a row that no single trial explains)"
        self.disabled[index] = reason
        return DeviceDecision(reason, tuple(known for known in failures if known is not None))
