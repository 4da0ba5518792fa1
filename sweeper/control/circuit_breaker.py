"""Distinguishes broken devices from trials that break every device, and disables devices that fail repeatedly.

Failures of a device are counted until its next good chunk. If a trial, or the opening of a study, was alone on the
device, it is suspected. If it fails alone a second time, on any device, it is the cause, and its failures no longer
count for any device. So a trial that kills every worker disables no device, while a device on which different trials
fail alone is disabled, and those trials get their retries back. `worker_recovery` calls this.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["CircuitBreaker", "DeviceDecision", "Suspect"]

_MAX_FAILURES_IN_A_ROW = 3
"""Number of failures in a row after which a device is disabled."""

Suspect = tuple[str, int]
"""Study and trial number of what was alone on a device; the number is -1 for the opening of the study."""


@dataclass(frozen=True, slots=True)
class DeviceDecision:
    """What to do after a failure."""

    reason: str = ""
    """Why the device is disabled; empty if it is not."""
    refunded: tuple[Suspect, ...] = ()
    """Trials and openings that failed alone on a device that turned out to be broken."""


class CircuitBreaker:
    """Counts failures per device."""

    def __init__(self) -> None:
        self._failures: dict[int, list[Suspect | None]] = {}
        self._suspected: set[Suspect] = set()
        self.disabled: dict[int, str] = {}
        """Why devices were disabled, by worker index."""

    def record_success(self, index: int, trials: Iterable[Suspect] = ()) -> None:
        """Record a good chunk: it resets the count of the device, and its trials are no longer suspected.

        Args:
            index: The worker.
            trials: The trials in the chunk.
        """
        self._failures.pop(index, None)
        self._suspected.difference_update(trials)

    def record_failure(self, index: int, what: str, suspect: Suspect | None = None) -> DeviceDecision:
        """Record a failure and decide about the device.

        Args:
            index: The worker.
            what: What happened, for the message.
            suspect: What was alone on the device; None if it was idle or trained several trials.
        """
        if suspect is not None and suspect in self._suspected:
            for failures in self._failures.values():
                failures[:] = [known for known in failures if known != suspect]
            return DeviceDecision()
        if suspect is not None:
            self._suspected.add(suspect)
        failures = self._failures.setdefault(index, [])
        failures.append(suspect)
        if len(failures) < _MAX_FAILURES_IN_A_ROW:
            return DeviceDecision()
        reason = f"{what} ({len(failures)} failures in a row that no single trial explains)"
        self.disabled[index] = reason
        return DeviceDecision(reason, tuple(known for known in failures if known is not None))
