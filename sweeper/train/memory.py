"""What to do when lanes fail together: out-of-memory errors of every device, and running fewer lanes at a time.

Lanes are independent, so a group that fails is halved, each half is tried by itself, and what fails alone is the
lane's own fault. A group of lanes holds ``[K * rows, ...]`` activations, so halving it halves the memory it needs.
"""

from __future__ import annotations

import errno
import gc
import logging
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch

from sweeper.train.lane import Lane
from sweeper.types import Failure, FailureKind

__all__ = ["failure_of", "is_out_of_memory", "run_isolated"]

log = logging.getLogger(__name__)
T = TypeVar("T")
_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")
"""What plain RuntimeErrors say: torch's CPU allocator on Linux, on Windows, and older CUDA libraries."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that a device or the host has no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(said in str(error) for said in _NO_MEMORY)


def failure_of(error: Exception) -> Failure:
    """Describe an exception that one lane alone has raised."""
    kind = FailureKind.OUT_OF_MEMORY if is_out_of_memory(error) else FailureKind.ERROR
    return Failure(kind=kind, message=f"{type(error).__name__}: {error}", traceback=traceback.format_exc())


def run_isolated(
    lanes: Sequence[Lane], work: Callable[[Sequence[Lane]], Sequence[T]]
) -> tuple[Mapping[int, T], Mapping[int, Failure]]:
    """Do ``work`` on all lanes together, or on ever smaller groups when that fails.

    Args:
        lanes: Lanes in the order of `pack.sort_lanes`.
        work: Returns one result a lane; leaves the lanes as they were if it raises.

    Returns:
        Results and failures by trial number; each lane is in one of them.
    """
    if not lanes:
        return {}, {}
    try:
        return {lane.spec.number: result for lane, result in zip(lanes, work(lanes), strict=True)}, {}
    except Exception as error:
        failure = failure_of(error)
        log.warning("%d lane(s) failed together: %s", len(lanes), failure.message, exc_info=True)
    _release()
    if len(lanes) == 1:
        return {}, {lanes[0].spec.number: failure}
    middle = len(lanes) // 2
    results, failures = run_isolated(lanes[:middle], work)
    more_results, more_failures = run_isolated(lanes[middle:], work)
    return {**results, **more_results}, {**failures, **more_failures}


def _release() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
