"""What to do when lanes fail together: out-of-memory errors of every device, and doing less at a time.

Lanes are independent, so a group that fails is halved, and each half is tried by itself. A lane that runs out of memory
alone trains its micro-batches in ever more parts, at the same effective batch. What fails then is the lane's own fault.
A group holds ``[K * rows, ...]`` activations, so either remedy halves the memory it needs; fewer lanes come first,
since their products keep their shapes and the trials their exact losses.
"""

from __future__ import annotations

import dataclasses
import gc
import logging
import traceback
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from sweeper.failures import kind_of
from sweeper.train.lane import Lane
from sweeper.types import Failure, FailureKind

__all__ = ["OutOfMemoryFallback", "failure_of"]

log = logging.getLogger(__name__)
T = TypeVar("T")
_MEMORY = (FailureKind.OUT_OF_MEMORY, FailureKind.HOST_MEMORY)


def failure_of(error: Exception, *, device: str = "cpu") -> Failure:
    """Describe an exception that one lane alone has raised, on a ``cpu`` or ``cuda`` device."""
    kind = kind_of(error, device=device)
    return Failure(kind=kind, message=f"{type(error).__name__}: {error}", traceback=traceback.format_exc())


class OutOfMemoryFallback:
    """Runs work on groups of lanes that fit into memory; remembers what fitted.

    Args:
        max_parts: Most parts that a lone lane's micro-batch can be divided into, a power of two.
        device: ``cpu`` or ``cuda``.
    """

    def __init__(self, max_parts: int = 1, *, device: str = "cpu") -> None:
        self._max_parts = max_parts
        self._device = device
        self.max_lanes: int | None = None
        """Lanes that fitted together after an out-of-memory error; None before the first."""

    def run(
        self, lanes: Sequence[Lane], work: Callable[[Sequence[Lane], int], Sequence[T]]
    ) -> tuple[dict[int, T], dict[int, Failure]]:
        """Do ``work`` on all lanes together, or on ever smaller groups when that fails.

        Args:
            lanes: Lanes in the order of `pack.sort_lanes`.
            work: Called with lanes and the number of parts of a micro-batch; returns one result a lane, and leaves the
                lanes as they were if it raises.

        Returns:
            Results and failures by trial number; each lane is in one of them.
        """
        results: dict[int, T] = {}
        failures: dict[int, Failure] = {}
        size = max(1, self.max_lanes or len(lanes))
        waiting = [lanes[first : first + size] for first in range(0, len(lanes), size)]
        while waiting:
            group = waiting.pop(0)
            failure = self._attempt(group, work, results)
            if failure is None:
                continue
            if len(group) > 1:
                middle = len(group) // 2
                waiting = [group[:middle], group[middle:], *waiting]
                if failure.kind in _MEMORY:
                    self.max_lanes = min(self.max_lanes or len(group), max(middle, 1))
            else:
                failures[group[0].spec.number] = failure
        return results, failures

    def _attempt(
        self, group: Sequence[Lane], work: Callable[[Sequence[Lane], int], Sequence[T]], results: dict[int, T]
    ) -> Failure | None:
        parts = 1
        while True:
            try:
                done = work(group, parts)
            except Exception as error:
                failure = failure_of(error, device=self._device)
                log.warning("%d lane(s) failed, in %d part(s): %s", len(group), parts, failure.message, exc_info=True)
            else:
                results.update({lane.spec.number: result for lane, result in zip(group, done, strict=True)})
                return None
            _release()
            if failure.kind not in _MEMORY or len(group) > 1 or parts >= self._max_parts:
                shape = f"{len(group)} lane(s), r={group[0].spec.lora.r}, micro-batches in {parts} part(s)"
                return dataclasses.replace(failure, message=f"{failure.message} [{shape}]")
            parts *= 2


def _release() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
