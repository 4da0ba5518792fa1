"""Every cause of a failure: whether the configuration causes it, how sweeper handles it, and what the user can do.

`POLICIES` is the only table that maps a kind of failure to an action. `kind_of` classifies an exception. Imports the
standard library only, because workers, controller, tracker, report and command line all use it.
"""

from __future__ import annotations

import enum
import errno
from collections.abc import Mapping
from dataclasses import dataclass

from sweeper.errors import ContentChanged, DataError, DiskError, DiskFull
from sweeper.types import FailureKind

__all__ = [
    "POLICIES",
    "Action",
    "Policy",
    "disk_error",
    "is_device_error",
    "is_full",
    "is_out_of_memory",
    "kind_of",
    "retry_wait_s",
]

_MAX_WAIT_S = 300.0
_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "STATUS_ALLOC_FAILED")
"""Texts of plain RuntimeErrors: torch's CPU allocator on Linux and on Windows, CUDA's driver, cuBLAS and cuDNN."""
_DEVICE_ERRORS = ("CUDA error", "CUDA driver error", "Triton Error [CUDA]")
"""Texts of errors of CUDA that torch and Triton raise."""
_FULL_CODES = (errno.ENOSPC, errno.EDQUOT)
_BROKEN_CODES = (errno.EIO, errno.EROFS)
_FULL_WORDS = ("disk is full", "no space left", "quota exceeded")


class Action(enum.StrEnum):
    """The first response to a failure."""

    INFEASIBLE = "marked infeasible; the sampler learns to avoid it"
    RETRY = "retried from the last checkpoint"
    REWIND = "continues from the checkpoint before it, or from the start"
    STOP = "the sweep saves everything and stops"
    END_STUDY = "the study ends with an error; the other studies continue"
    CONTINUE = "the search continues"


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """How failures of one kind are described and handled."""

    title: str
    action: Action
    wait: float = 1.0
    """The wait before the first retry, in units of ``executor.retry_s``; it doubles with each further retry."""
    then: str = ""
    """What happens if the action does not help, or after it."""
    remedy: str
    """What the user can do, in one line."""


_FAILED = "marked failed after executor.max_retries retries"

POLICIES: Mapping[FailureKind, Policy] = {
    FailureKind.OUT_OF_MEMORY: Policy(
        title="out of memory on the device, even alone and row by row",
        action=Action.INFEASIBLE,
        remedy="Lower the upper end of lora.r or model.max_length, or use a larger device.",
    ),
    FailureKind.HOST_MEMORY: Policy(
        title="out of memory on the host",
        action=Action.RETRY,
        wait=6.0,
        then=_FAILED,
        remedy="Lower executor.workers or executor.lanes, or close other programs.",
    ),
    FailureKind.NON_FINITE: Policy(
        title="the loss became NaN or infinite",
        action=Action.INFEASIBLE,
        remedy="Nothing to do; if it happens often, lower the upper end of train.learning_rate or lora.alpha_ratio.",
    ),
    FailureKind.EXPLODED: Policy(
        title="the training loss exploded, but is still finite",
        action=Action.INFEASIBLE,
        remedy="Nothing to do; if it happens often, lower the upper end of train.learning_rate or lora.alpha_ratio.",
    ),
    FailureKind.HUNG: Policy(
        title="the worker took many times as long as usual for a chunk, and was killed",
        action=Action.RETRY,
        then=_FAILED,
        remedy="See logs/worker-<n>.log. If chunks really take that long, raise executor.hang_timeout_factor "
        "or executor.hang_timeout_min_s.",
    ),
    FailureKind.LOST_WORKER: Policy(
        title="the worker's process died",
        action=Action.RETRY,
        then=_FAILED,
        remedy="See logs/worker-<n>.log. A SIGKILL that nobody sent usually means that the host ran out of memory: "
        "lower executor.lanes.",
    ),
    FailureKind.DISK_FULL: Policy(
        title="no space left on the disk",
        action=Action.STOP,
        remedy="Free some space, then run the same command again. Nothing that was saved is lost.",
    ),
    FailureKind.DISK_ERROR: Policy(
        title="a disk fails or is read-only, or a path cannot be written",
        action=Action.STOP,
        remedy="Check the disk, its permissions and the path, then run the same command again. Nothing that was saved "
        "is lost.",
    ),
    FailureKind.DATA: Policy(
        title="the dataset cannot be read or split, or a label is wrong",
        action=Action.RETRY,
        then=_FAILED,
        remedy="Fix the file or the dataset keys that the message names, then run the same command again.",
    ),
    FailureKind.CONTENT_CHANGED: Policy(
        title="the rows or the weights on disk are not those that the sweep was planned with",
        action=Action.END_STUDY,
        remedy="Restore the files that the message names, then run the same command again; or start a new sweep.",
    ),
    FailureKind.ERROR: Policy(
        title="an error in the code of a task, a dataset, a library or sweeper",
        action=Action.RETRY,
        then=_FAILED,
        remedy="Read the traceback in the trial's trial.json or in sweep.log, fix the code, then search again.",
    ),
    FailureKind.CHECKPOINT: Policy(
        title="a checkpoint to resume from, or an adapter that a worker wrote, is damaged or missing",
        action=Action.REWIND,
        remedy="Nothing to do; if it happens again, check the disk.",
    ),
    FailureKind.TRACKER_DOWN: Policy(
        title="the tracker cannot be reached",
        action=Action.CONTINUE,
        then="the tracker is brought up to date later, at the latest by the next run",
        remedy="Restart the server or make its database writable, then run the same command again.",
    ),
    FailureKind.STORAGE_DOWN: Policy(
        title="the study database is locked or cannot be reached",
        action=Action.STOP,
        then="this happens after a minute of retries; the next run updates the database from the sweep's folder",
        remedy="Stop the process that locks the database, or start its server. Then run the same command again.",
    ),
}
"""The policy of each kind; docs/failures.md shows this table."""


def retry_wait_s(kind: FailureKind, num_retries: int, first_s: float) -> float:
    """Return how long a trial waits before a retry.

    Args:
        kind: Why it failed.
        num_retries: The number of the retry, counted from 1.
        first_s: ``executor.retry_s``.
    """
    return min(_MAX_WAIT_S, first_s * POLICIES[kind].wait * 2.0 ** (max(1, num_retries) - 1))


def kind_of(error: BaseException, *, device: str = "cpu") -> FailureKind:
    """Classify an exception.

    Args:
        error: The exception.
        device: Where training runs. An error of torch's CPU allocator counts as out of memory on the device only if the
            device is the ``cpu``.
    """
    if is_full(error):
        return FailureKind.DISK_FULL
    if isinstance(error, DiskError) or (isinstance(error, OSError) and error.errno in _BROKEN_CODES):
        return FailureKind.DISK_ERROR
    if is_out_of_memory(error):
        is_host = isinstance(error, MemoryError | OSError) or (device != "cpu" and "DefaultCPUAllocator" in str(error))
        return FailureKind.HOST_MEMORY if is_host else FailureKind.OUT_OF_MEMORY
    if isinstance(error, ContentChanged):
        return FailureKind.CONTENT_CHANGED
    return FailureKind.DATA if isinstance(error, DataError) else FailureKind.ERROR


def disk_error(kind: FailureKind, message: str) -> DiskError:
    """Return the error with which a sweep stops after a worker's failure of a kind whose action is to stop."""
    return (DiskFull if kind is FailureKind.DISK_FULL else DiskError)(f"{message}. {POLICIES[kind].remedy}")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that a device or the host is out of memory."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)


def is_device_error(error: BaseException) -> bool:
    """Whether an exception means that a GPU has failed, or a kernel on it.

    CUDA reports it at some later call, so the trial that it hits may not be the cause. Every call after it fails, too,
    until the process ends.
    """
    is_of_cuda = isinstance(error, RuntimeError) and any(words in str(error) for words in _DEVICE_ERRORS)
    return is_of_cuda and not is_out_of_memory(error)


def is_full(error: BaseException | str) -> bool:
    """Whether an exception, or the message of a database, means that the disk is full."""
    if isinstance(error, DiskFull) or (isinstance(error, OSError) and error.errno in _FULL_CODES):
        return True
    return not isinstance(error, OSError) and any(words in str(error).lower() for words in _FULL_WORDS)
