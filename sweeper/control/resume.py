"""How a trial continues after an interruption or a failure: functions without state. Used by `study_run`."""

from __future__ import annotations

import dataclasses

from sweeper.failures import POLICIES, Action
from sweeper.store.atomic import checksum
from sweeper.store.trials import TrialStore
from sweeper.types import Failure, FailureKind, TrialRecord, TrialState

__all__ = ["after_failure", "latest_intact", "rewind", "with_checkpoint"]


def with_checkpoint(trial: TrialRecord, content: bytes) -> TrialRecord:
    """Return a trial with the checkpoint of its latest chunk; the one before is kept, older ones are dropped."""
    before = [chunk for chunk in trial.checkpoints if chunk < trial.chunks_done]
    kept = {max(before): trial.checkpoints[max(before)]} if before else {}
    return dataclasses.replace(trial, checkpoints={**kept, trial.chunks_done: checksum(content)})


def latest_intact(store: TrialStore, trial: TrialRecord) -> tuple[TrialRecord, bytes | None]:
    """Return a trial as of its latest intact checkpoint, and that checkpoint; as of its start and None without one."""
    spec = trial.spec
    for chunk in sorted({*trial.checkpoints, trial.chunks_done}, reverse=True):
        if 0 < chunk <= trial.chunks_done:
            content = store.read_checkpoint(spec.study, spec.number, chunk, sha256=trial.checkpoints.get(chunk, ""))
            if content is not None:
                return rewind(trial, chunk), content
    return rewind(trial, 0), None


def rewind(trial: TrialRecord, chunk: int) -> TrialRecord:
    """Return a trial as of ``chunk`` chunks, with the reason as its failure; its cost does not change."""
    if chunk == trial.chunks_done:
        return trial
    where = f"the trial resumes after chunk {chunk}" if chunk else "the trial restarts"
    message = f"the checkpoint after chunk {trial.chunks_done} is damaged or missing; {where}"
    return dataclasses.replace(
        trial,
        measurements=tuple(m for m in trial.measurements if m.chunk <= chunk),
        checkpoints={kept: digest for kept, digest in trial.checkpoints.items() if kept <= chunk},
        failure=Failure(kind=FailureKind.CHECKPOINT, message=message),
    )


def after_failure(trial: TrialRecord, failure: Failure, max_retries: int) -> TrialRecord:
    """Return a trial after a failure: finished, or with one more retry (see `failures.POLICIES`).

    Args:
        trial: The trial as recorded.
        failure: Why it could not continue.
        max_retries: Retries allowed per trial.
    """
    action = POLICIES[failure.kind].action
    if action is Action.INFEASIBLE:
        return dataclasses.replace(trial, failure=failure, state=TrialState.INFEASIBLE)
    if trial.num_retries >= max_retries:
        return dataclasses.replace(trial, failure=failure, state=TrialState.FAILED)
    if action is Action.REWIND:
        trial = rewind(trial, max((chunk for chunk in trial.checkpoints if chunk < trial.chunks_done), default=0))
    return dataclasses.replace(trial, failure=failure, num_retries=trial.num_retries + 1)
