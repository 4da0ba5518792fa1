"""What a lost, hung or failing worker leads to: who is charged, which trial or device is the cause, what is disabled.

`controller` reports every loss and every good chunk here, then restarts the worker or continues without it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from sweeper.control.circuit_breaker import CircuitBreaker, Suspect
from sweeper.control.study_run import StudyRun
from sweeper.control.worker_slots import WorkerSlot, WorkerState
from sweeper.store.ledger import Ledger
from sweeper.types import Cost, Failure

__all__ = ["WorkerRecovery"]

_MAX_OPENINGS = 2
"""Failed attempts to open a study that no worker ever opened, after which it is marked as unopenable."""


class WorkerRecovery:
    """Charges losses and finds their cause.

    Args:
        ledger: What is charged.
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
        """Record that a worker could open a study: if another cannot, the cause is its device."""
        self._opened.add(study.record.name)

    def chunk_completed(self, slot: WorkerSlot, study: StudyRun, numbers: Collection[int]) -> None:
        """Record a good chunk of these trials."""
        self._circuit_breaker.record_success(slot.handle.index, {(study.record.name, number) for number in numbers})

    def charge_lost_chunk(self, slot: WorkerSlot, elapsed_s: float) -> None:
        """Charge a chunk that is abandoned through no fault of its trials."""
        if slot.study is not None and slot.state is WorkerState.CHUNK:
            self._ledger.charge(Cost(device_s=elapsed_s))
            slot.study.records.charge_lost(slot.lanes, elapsed_s)

    def worker_lost(self, slot: WorkerSlot, failure: Failure, elapsed_s: float, *, has_others: bool) -> str:
        """Charge a loss, put the trials back, and find the cause.

        Args:
            slot: The worker, as it was.
            failure: What happened to it.
            elapsed_s: Seconds since its request was sent.
            has_others: Whether there are other workers, on which its trials may prove to be sound.

        Returns:
            Why the device is disabled; empty if it is not.
        """
        index, what = slot.handle.index, failure.message
        if slot.state is WorkerState.START:
            what = f"worker {index} cannot start: {what}"
        decision = self._circuit_breaker.record_failure(index, what, self._suspect(slot, failure, elapsed_s))
        for name, number in decision.refunded if has_others else ():
            if number >= 0:
                self._studies[name].records.refund_retry(number)
        return decision.reason

    def _suspect(self, slot: WorkerSlot, failure: Failure, elapsed_s: float) -> Suspect | None:
        """Put the trials of a lost worker back; return what was alone on it."""
        study = slot.study
        if study is None or slot.state not in (WorkerState.OPEN, WorkerState.CHUNK):
            return None
        name = study.record.name
        self._studies[name] = study
        if slot.state is WorkerState.CHUNK:
            self._ledger.charge(Cost(device_s=elapsed_s))
            alone = study.lose_worker(slot.lanes, failure, elapsed_s=elapsed_s)
            return None if alone is None else (name, alone)
        if name in self._opened:
            return None
        self._failed_openings[name] = self._failed_openings.get(name, 0) + 1
        if self._failed_openings[name] >= _MAX_OPENINGS:
            study.mark_unopenable(f"no worker can open it: {failure.message}")
        return name, -1
