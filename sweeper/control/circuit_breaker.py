"""Tells broken devices from poisonous trials, and takes devices out that fail again and again. Asked by `controller`.

A failure without one good chunk since the last is a strike against the device. What failed alone there, a trial or the
opening of a study, is accused; when it fails alone a second time, wherever that is, the fault is its own, and its
strikes are struck out. So one trial that kills every worker it meets takes no device along, while a device on which
different trials fail alone is taken out, and what those trials were charged is given back.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["MAX_FAILURES_IN_A_ROW", "CircuitBreaker", "DeviceDecision", "Suspect"]

MAX_FAILURES_IN_A_ROW = 3
"""Failures in a row after which a device is taken out."""

Suspect = tuple[str, int]
"""Study and number of a trial that was alone; the number is -1 for the opening of the study."""


@dataclass(frozen=True, slots=True)
class DeviceDecision:
    """What a failure leads to."""

    reason: str = ""
    """Why the device is taken out; empty if it is not."""
    refunded: tuple[Suspect, ...] = ()
    """What failed alone on a device that turned out to be broken."""


class CircuitBreaker:
    """Counts failures by device."""

    def __init__(self) -> None:
        self._failures: dict[int, list[Suspect | None]] = {}
        self._suspected: set[Suspect] = set()
        self.disabled: dict[int, str] = {}
        """Why devices were taken out, by the index of the worker."""

    def worked(self, index: int, suspects: Iterable[Suspect] = ()) -> None:
        """Take note of a good chunk: it clears the device, and the trials that were in it."""
        self._failures.pop(index, None)
        self._suspected.difference_update(suspects)

    def failed(self, index: int, what: str, suspect: Suspect | None = None) -> DeviceDecision:
        """Take note of a failure.

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
        reason = f"{what} ({len(failures)} failures in a row, with no one trial to blame)"
        self.disabled[index] = reason
        return DeviceDecision(reason, tuple(known for known in failures if known is not None))
