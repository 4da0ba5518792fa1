"""Handles lost, hung and failing workers: charges the lost time, finds the cause, and disables broken devices.

`controller` reports every loss and every good chunk here, and then restarts the worker or continues without it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from sweeper.control.circuit_breaker import CircuitBreaker, Suspect
from sweeper.control.study_run import StudyRun
from sweeper.control.worker_slots import WorkerSlot, WorkerState
from sweeper.failures import POLICIES, Action
from sweeper.store.ledger import Ledger
from sweeper.types import Cost, Failure

__all__ = ["WorkerRecovery"]

_MAX_OPENINGS = 2
"""Number of failed openings after which a study that no worker ever opened is marked as unopenable."""


class WorkerRecovery:
    """Charges losses and finds their causes.

    Args:
        ledger: Records the lost device seconds.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._circuit_breaker = CircuitBreaker()
        self._studies: dict[str, StudyRun] = {}
        self._opened: set[str] = set()
        self._failed_openings: dict[str, int] = {}

    @property
    def disabled(self) -> Mapping[int, str]:
        """Why workers were disabled, by index."""
        return self._circuit_breaker.disabled

    def study_opened(self, study: StudyRun) -> None:
        """Record that a worker opened a study: if another one cannot, its device is the cause."""
        self._opened.add(study.record.name)

    def chunk_completed(self, slot: WorkerSlot, study: StudyRun, numbers: Collection[int]) -> None:
        """Record a good chunk of these trials."""
        self._circuit_breaker.record_success(slot.handle.index, {(study.record.name, number) for number in numbers})

    def charge_lost_chunk(self, slot: WorkerSlot, elapsed_s: float) -> None:
        """Charge an abandoned chunk; its trials are not at fault."""
        if slot.study is not None and slot.is_training:
            self._ledger.charge(Cost(device_s=elapsed_s))
            slot.study.records.charge_lost(slot.lanes, elapsed_s)

    def worker_lost(self, slot: WorkerSlot, failure: Failure, elapsed_s: float, *, has_other_workers: bool) -> str:
        """Charge a loss, return its trials to the queue, and find the cause.

        Args:
            slot: The worker, as it was before the loss.
            failure: What happened to it.
            elapsed_s: Seconds since its request was sent.
            has_other_workers: Whether other workers are left, on which its trials may succeed.

        Returns:
            Why the device is disabled; empty if it is not.
        """
        index, what = slot.handle.index, failure.message
        if POLICIES[failure.kind].action is Action.END_STUDY and slot.study is not None:
            slot.study.mark_unopenable(what)  # no device is at fault, and no other one would do better
            return ""
        if slot.state is WorkerState.START:
            what = f"worker {index} cannot start: {what}"
        decision = self._circuit_breaker.record_failure(index, what, self._suspect(slot, failure, elapsed_s))
        for name, number in decision.refunded if has_other_workers else ():
            if number >= 0:
                self._studies[name].records.refund_retry(number)
        return decision.reason

    def _suspect(self, slot: WorkerSlot, failure: Failure, elapsed_s: float) -> Suspect | None:
        """Return the trials of a lost worker to the queue; return what was alone on it."""
        study = slot.study
        if study is None or not (slot.is_training or slot.state is WorkerState.OPEN):
            return None
        name = study.record.name
        self._studies[name] = study
        if slot.is_training:
            self._ledger.charge(Cost(device_s=elapsed_s))
            alone = study.handle_worker_loss(slot.lanes, failure, elapsed_s=elapsed_s)
            return None if alone is None else (name, alone)
        if name in self._opened:
            return None
        self._failed_openings[name] = self._failed_openings.get(name, 0) + 1
        if self._failed_openings[name] >= _MAX_OPENINGS:
            study.mark_unopenable(f"no worker can open it: {failure.message}")
        return name, -1
