"""What a lost, hung or failing worker leads to: who is charged, who is blamed, whether the device is taken out.

`controller` tells it of every loss and of every good chunk, and then restarts the worker or does without it.
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
"""Failed attempts to open a study that no worker ever opened, after which it is given up."""


class WorkerRecovery:
    """Draws the consequences of losses.

    Args:
        ledger: What is charged.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._circuit_breaker = CircuitBreaker()
        self._studies: dict[str, StudyRun] = {}
        self._opened: set[str] = set()
        self._unopened: dict[str, int] = {}

    @property
    def disabled(self) -> Mapping[int, str]:
        """Why workers were taken out, by index."""
        return self._circuit_breaker.disabled

    def opened(self, study: StudyRun) -> None:
        """Take note that a worker could open a study: if another cannot, the fault is the device's."""
        self._opened.add(study.record.name)

    def worked(self, slot: WorkerSlot, study: StudyRun, numbers: Collection[int]) -> None:
        """Take note of a good chunk."""
        self._circuit_breaker.worked(slot.handle.index, {(study.record.name, number) for number in numbers})

    def charge(self, slot: WorkerSlot, elapsed_s: float) -> None:
        """Charge a chunk that is lost for no fault of its trials."""
        if slot.study is not None and slot.state is WorkerState.CHUNK:
            self._ledger.charge(Cost(device_s=elapsed_s))
            slot.study.charge_lost(slot.lanes, elapsed_s)

    def lost(self, slot: WorkerSlot, failure: Failure, elapsed_s: float, *, has_others: bool) -> str:
        """Charge a loss, put the trials back, find the suspect.

        Args:
            slot: The worker, as it was.
            failure: What became of it.
            elapsed_s: Seconds since it was asked.
            has_others: Whether there are other workers, on which its trials may prove to be sound.

        Returns:
            Why the device is taken out; empty if it is not.
        """
        index, what = slot.handle.index, failure.message
        if slot.state is WorkerState.START:
            what = f"worker {index} cannot start: {what}"
        verdict = self._circuit_breaker.failed(index, what, self._suspect(slot, failure, elapsed_s))
        for name, number in verdict.refunded if has_others else ():
            if number >= 0:
                self._studies[name].refund_retry(number)
        return verdict.reason

    def _suspect(self, slot: WorkerSlot, failure: Failure, elapsed_s: float) -> Suspect | None:
        study = slot.study
        if study is None or slot.state not in (WorkerState.OPEN, WorkerState.CHUNK):
            return None
        name = study.record.name
        self._studies[name] = study
        if slot.state is WorkerState.CHUNK:
            self._ledger.charge(Cost(device_s=elapsed_s))
            alone = study.lose(slot.lanes, failure, elapsed_s=elapsed_s)
            return None if alone is None else (name, alone)
        if name in self._opened:
            return None
        self._unopened[name] = self._unopened.get(name, 0) + 1
        if self._unopened[name] >= _MAX_OPENINGS:
            study.shut(f"no worker can open it: {failure.message}")
        return name, -1
