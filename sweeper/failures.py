"""Every cause of a failure: whether the setting is to blame, what is done about it, and what people can do.

One table, `POLICIES`; nothing else in sweeper decides by the kind of a failure. `kind_of` puts an exception into the
table. Standard library only: workers, controller, tracker, report and command line all read it.
"""

from __future__ import annotations

import enum
import errno
from collections.abc import Mapping
from dataclasses import dataclass

from sweeper.errors import DataError
from sweeper.types import FailureKind

__all__ = ["POLICIES", "Action", "Policy", "is_full", "is_out_of_memory", "kind_of", "policy_rows", "retry_wait_s"]

_LONGEST_WAIT_S = 300.0
_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")
"""What plain RuntimeErrors say: torch's CPU allocator on Linux, on Windows, and older CUDA libraries."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
_FULL_WORDS = ("disk is full", "no space left", "quota exceeded")


class Action(enum.StrEnum):
    """What is done about a failure at first."""

    INFEASIBLE = "infeasible, the sampler learns"
    RETRY = "tried again from the last checkpoint"
    GO_BACK = "goes back to the checkpoint before, or to its start"
    STOP = "the sweep drains and ends"
    GO_ON = "the search goes on"


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """What is known of a cause, and done about it."""

    title: str
    action: Action
    wait: float = 1.0
    """The first wait before a retry, in units of ``executor.retry_s``; doubled at every further one."""
    then: str = ""
    """What follows when the action did not help."""
    remedy: str
    """What people can do, in one line."""


_FAILED = "failed after executor.max_retries"

POLICIES: Mapping[FailureKind, Policy] = {
    FailureKind.OUT_OF_MEMORY: Policy(
        title="out of memory on the device, alone and in the smallest parts",
        action=Action.INFEASIBLE,
        remedy="Lower the upper end of lora.r, train.micro_batch or model.max_length, or take a larger device.",
    ),
    FailureKind.HOST_MEMORY: Policy(
        title="out of memory on the host",
        action=Action.RETRY,
        wait=6.0,
        then=_FAILED,
        remedy="Set executor.workers or executor.lanes lower, or end other programs.",
    ),
    FailureKind.NON_FINITE: Policy(
        title="the loss became NaN or infinite",
        action=Action.INFEASIBLE,
        remedy="None is needed; if many are, lower the upper end of train.learning_rate or lora.alpha_ratio.",
    ),
    FailureKind.EXPLODED: Policy(
        title="the training loss blew up, though finite",
        action=Action.INFEASIBLE,
        remedy="None is needed; if many are, lower the upper end of train.learning_rate or lora.alpha_ratio.",
    ),
    FailureKind.HUNG: Policy(
        title="no answer for many times the usual time of a chunk; the worker was killed",
        action=Action.RETRY,
        then=_FAILED,
        remedy="See logs/worker-<n>.log; if chunks are that slow, raise executor.hang_timeout_factor or executor.hang_timeout_min_s.",
    ),
    FailureKind.LOST_WORKER: Policy(
        title="the worker's process died",
        action=Action.RETRY,
        then=_FAILED,
        remedy="See logs/worker-<n>.log; SIGKILL that nobody sent is the host out of memory: lower executor.lanes.",
    ),
    FailureKind.DISK_FULL: Policy(
        title="no space left on the disk",
        action=Action.STOP,
        remedy="Free space, then run the same command again; nothing that was saved is lost.",
    ),
    FailureKind.DATA: Policy(
        title="the dataset cannot be read, split or labelled",
        action=Action.RETRY,
        then=_FAILED,
        remedy="Mend the file or the dataset's keys that the message names, then run the same command again.",
    ),
    FailureKind.ERROR: Policy(
        title="an error in code: of a task, a dataset, a library or sweeper",
        action=Action.RETRY,
        then=_FAILED,
        remedy="Read the traceback in the trial's trial.json or in sweep.log, mend the code, then search again.",
    ),
    FailureKind.CHECKPOINT: Policy(
        title="the checkpoint to go on from is damaged",
        action=Action.GO_BACK,
        remedy="None is needed; if it happens again, check the disk.",
    ),
    FailureKind.TRACKER_DOWN: Policy(
        title="the tracker cannot be reached",
        action=Action.GO_ON,
        then="what it missed is sent later, at the latest by the next run",
        remedy="Start the server again or make its database writable; the same command then brings it up to date.",
    ),
    FailureKind.STORAGE_DOWN: Policy(
        title="the database of studies is locked or unreachable",
        action=Action.STOP,
        then="after a minute of attempts; the next run rebuilds it from the sweep's folder",
        remedy="End what locks the database, or start its server; then run the same command again.",
    ),
}
"""By kind; docs/failures.md shows this table."""


def retry_wait_s(kind: FailureKind, num_retries: int, first_s: float) -> float:
    """Return how long a trial waits before a retry.

    Args:
        kind: Why it failed.
        num_retries: Which retry it is, counted from 1.
        first_s: ``executor.retry_s``.
    """
    return min(_LONGEST_WAIT_S, first_s * POLICIES[kind].wait * 2.0 ** (max(1, num_retries) - 1))


def kind_of(error: BaseException, *, device: str = "cpu") -> FailureKind:
    """Return the cause that an exception tells of.

    Args:
        error: What was raised.
        device: Where training runs: what torch cannot get from the host is the device's lack on a ``cpu`` only.
    """
    if is_full(error):
        return FailureKind.DISK_FULL
    if is_out_of_memory(error):
        is_host = isinstance(error, MemoryError | OSError) or (device != "cpu" and "DefaultCPUAllocator" in str(error))
        return FailureKind.HOST_MEMORY if is_host else FailureKind.OUT_OF_MEMORY
    return FailureKind.DATA if isinstance(error, DataError) else FailureKind.ERROR


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that a device or the host has no memory left."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(said in str(error) for said in _NO_MEMORY)


def is_full(error: BaseException | str) -> bool:
    """Whether an exception, or what a database says, tells that a disk has no space left."""
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    return not isinstance(error, OSError) and any(words in str(error).lower() for words in _FULL_WORDS)


def policy_rows() -> list[tuple[str, str, str, str]]:
    """Return the table as texts: kind, cause, what is done, remedy."""
    rows = []
    for kind, policy in POLICIES.items():
        done = f"{policy.action}; {policy.then}" if policy.then else str(policy.action)
        rows.append((kind.value, policy.title, done, policy.remedy))
    return rows
