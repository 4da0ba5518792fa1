"""How a trial goes on after an interruption or a failure: pure functions of records and files. Used by `study_run`."""

from __future__ import annotations

import dataclasses

from sweeper.failures import POLICIES, Action
from sweeper.store.atomic import checksum
from sweeper.store.trials import TrialStore
from sweeper.types import Failure, FailureKind, TrialRecord, TrialState

__all__ = ["after_failure", "back_to", "latest_sound", "with_checkpoint"]


def with_checkpoint(trial: TrialRecord, content: bytes) -> TrialRecord:
    """Return a trial whose latest chunk has this checkpoint; the one before it is kept as well, older ones are not."""
    before = [chunk for chunk in trial.checkpoints if chunk < trial.chunks_done]
    kept = {max(before): trial.checkpoints[max(before)]} if before else {}
    return dataclasses.replace(trial, checkpoints={**kept, trial.chunks_done: checksum(content)})


def latest_sound(store: TrialStore, trial: TrialRecord) -> tuple[TrialRecord, bytes | None]:
    """Return the trial as it stood at its latest sound checkpoint, and that checkpoint; None at its start."""
    spec = trial.spec
    for chunk in sorted({*trial.checkpoints, trial.chunks_done}, reverse=True):
        if 0 < chunk <= trial.chunks_done:
            content = store.read_checkpoint(spec.study, spec.number, chunk, sha256=trial.checkpoints.get(chunk, ""))
            if content is not None:
                return back_to(trial, chunk), content
    return back_to(trial, 0), None


def back_to(trial: TrialRecord, chunk: int) -> TrialRecord:
    """Return a trial as it stood after ``chunk`` chunks, with a note; what was spent stays spent."""
    if chunk == trial.chunks_done:
        return trial
    where = f"it goes on after chunk {chunk}" if chunk else "it starts anew"
    message = f"the checkpoint after chunk {trial.chunks_done} is damaged or gone: {where}"
    return dataclasses.replace(
        trial,
        measurements=tuple(m for m in trial.measurements if m.chunk <= chunk),
        checkpoints={kept: digest for kept, digest in trial.checkpoints.items() if kept <= chunk},
        failure=Failure(kind=FailureKind.CHECKPOINT, message=message),
    )


def after_failure(trial: TrialRecord, failure: Failure, max_retries: int) -> TrialRecord:
    """Return what becomes of a trial that failed: finished for a cause, or one retry further (see `failures.POLICIES`).

    Args:
        trial: As it stood.
        failure: Why it could not go on.
        max_retries: Retries that a trial has in all.
    """
    action = POLICIES[failure.kind].action
    if action is Action.INFEASIBLE:
        return dataclasses.replace(trial, failure=failure, state=TrialState.INFEASIBLE)
    if trial.num_retries >= max_retries:
        return dataclasses.replace(trial, failure=failure, state=TrialState.FAILED)
    if action is Action.GO_BACK:
        trial = back_to(trial, max((chunk for chunk in trial.checkpoints if chunk < trial.chunks_done), default=0))
    return dataclasses.replace(trial, failure=failure, num_retries=trial.num_retries + 1)
