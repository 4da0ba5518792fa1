"""Pure functions for trials that continue after an interruption or a failure. Used by `study_run` and `repair`."""

from __future__ import annotations

import dataclasses
import math

from sweeper.disk.atomic import checksum
from sweeper.failures import POLICIES, Action
from sweeper.store.trials import TrialStore
from sweeper.types import Checkpoint, CheckpointFile, Failure, FailureKind, TrialRecord, TrialState

__all__ = ["after_failure", "latest_intact", "rewind", "with_checkpoint"]


def with_checkpoint(trial: TrialRecord, checkpoint: Checkpoint) -> TrialRecord:
    """Return a trial with the checkpoint of its latest chunk added; of the older ones only the last is kept."""
    digest = checkpoint.sha256 if isinstance(checkpoint, CheckpointFile) else checksum(checkpoint)
    before = [chunk for chunk in trial.checkpoints if chunk < trial.chunks_done]
    kept = {max(before): trial.checkpoints[max(before)]} if before else {}
    return dataclasses.replace(trial, checkpoints={**kept, trial.chunks_done: digest})


def latest_intact(
    store: TrialStore, trial: TrialRecord, *, file_bytes: float = math.inf
) -> tuple[TrialRecord, Checkpoint | None]:
    """Return a trial rewound to its latest intact checkpoint, and that checkpoint.

    Without an intact checkpoint, the trial is rewound to its start, and the checkpoint is None.

    Args:
        store: The sweep.
        trial: The trial.
        file_bytes: Size from which a checkpoint is not read, since the worker that gets it does (`read_checkpoint`).
    """
    spec = trial.spec
    # A file without a checksum in the record may be of an earlier attempt, and damaged.
    for chunk, digest in sorted(trial.checkpoints.items(), reverse=True):
        found = store.read_checkpoint(spec.study, spec.number, chunk, sha256=digest, file_bytes=file_bytes)
        if found is not None:
            return rewind(trial, chunk), found
    return rewind(trial, 0), None


def rewind(trial: TrialRecord, chunk: int) -> TrialRecord:
    """Return a trial rewound to ``chunk`` chunks; its cost stays, since the chunks after it are paid again.

    If it had a later checkpoint, the loss of this one becomes its failure.
    """
    if chunk == trial.chunks_done:
        return trial
    failure = trial.failure
    if chunk < trial.chunks_saved:
        where = f"the trial resumes after chunk {chunk}" if chunk else "the trial restarts"
        message = f"the checkpoint after chunk {trial.chunks_saved} is damaged or missing; {where}"
        failure = Failure(kind=FailureKind.CHECKPOINT, message=message)
    return dataclasses.replace(
        trial,
        measurements=tuple(m for m in trial.measurements if m.chunk <= chunk),
        checkpoints={kept: digest for kept, digest in trial.checkpoints.items() if kept <= chunk},
        failure=failure,
    )


def after_failure(trial: TrialRecord, failure: Failure, max_retries: int) -> TrialRecord:
    """Return a trial after a failure: finished, or with one more retry (see `failures.POLICIES`).

    Args:
        trial: Its record before the failure.
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
