"""Tells broken devices from poisonous trials, and takes devices out that fail again and again. Asked by `controller`.

A failure without one good chunk since the last is a strike against the device. What failed alone there, a trial or the
opening of a study, is accused; when it fails alone a second time, wherever that is, the fault is its own, and its
strikes are struck out. So one trial that kills every worker it meets takes no device along, while a device on which
different trials fail alone is taken out, and what those trials were charged is given back.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["MAX_STRIKES", "Breaker", "Culprit", "Verdict"]

MAX_STRIKES = 3
"""Failures in a row after which a device is taken out."""

Culprit = tuple[str, int]
"""Study and number of a trial that was alone; the number is -1 for the opening of the study."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a failure leads to."""

    reason: str = ""
    """Why the device is taken out; empty if it is not."""
    acquitted: tuple[Culprit, ...] = ()
    """What failed alone on a device that turned out to be broken."""


class Breaker:
    """Counts failures by device."""

    def __init__(self) -> None:
        self._strikes: dict[int, list[Culprit | None]] = {}
        self._accused: set[Culprit] = set()
        self.taken_out: dict[int, str] = {}
        """Why devices were taken out, by the index of the worker."""

    def worked(self, index: int, culprits: Iterable[Culprit] = ()) -> None:
        """Take note of a good chunk: it clears the device, and the trials that were in it."""
        self._strikes.pop(index, None)
        self._accused.difference_update(culprits)

    def failed(self, index: int, what: str, culprit: Culprit | None = None) -> Verdict:
        """Take note of a failure.

        Args:
            index: The worker.
            what: What happened, for people.
            culprit: What was alone on the device; None if nothing or several were.
        """
        if culprit is not None and culprit in self._accused:
            for strikes in self._strikes.values():
                strikes[:] = [known for known in strikes if known != culprit]
            return Verdict()
        if culprit is not None:
            self._accused.add(culprit)
        strikes = self._strikes.setdefault(index, [])
        strikes.append(culprit)
        if len(strikes) < MAX_STRIKES:
            return Verdict()
        reason = f"{what} ({len(strikes)} failures in a row, with no one trial to blame)"
        self.taken_out[index] = reason
        return Verdict(reason, tuple(known for known in strikes if known is not None))
