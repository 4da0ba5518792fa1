"""Out-of-memory errors: train fewer lanes at a time, then a lane's micro-batch in parts.

Lanes are independent, so a group that fails is halved and each half is tried by itself. A lane that runs out of memory
alone trains its micro-batches in ever more parts, at the same effective batch. If it still fails, the trial has failed.
A group holds ``[K * rows, ...]`` activations, so either step halves the memory it needs. Fewer lanes come first: the
products of a lane keep their shapes then, and the trial its exact losses.
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
from sweeper.figures.text import plural
from sweeper.train.lane import Lane
from sweeper.types import Failure, FailureKind

__all__ = ["OutOfMemoryFallback", "failure_of"]

log = logging.getLogger(__name__)
T = TypeVar("T")
_MEMORY = (FailureKind.OUT_OF_MEMORY, FailureKind.HOST_MEMORY)


def failure_of(error: Exception, *, device: str = "cpu") -> Failure:
    """Describe the exception that ended a trial on a ``cpu`` or ``cuda`` device."""
    kind = kind_of(error, device=device)
    return Failure(kind=kind, message=f"{type(error).__name__}: {error}", traceback=traceback.format_exc())


class OutOfMemoryFallback:
    """Runs work on groups of lanes that fit into memory, and remembers what fitted.

    Args:
        max_parts: Most parts that the micro-batch of a single lane can be divided into, a power of two.
        device: ``cpu`` or ``cuda``.
    """

    def __init__(self, max_parts: int = 1, *, device: str = "cpu") -> None:
        self._max_parts = max_parts
        self._device = device
        self._num_parts: dict[tuple[str, int], int] = {}
        self.max_lanes: int | None = None
        """Most lanes to run together since the last out-of-memory error; None before the first."""

    def run(
        self, lanes: Sequence[Lane], work: Callable[[Sequence[Lane], int], Sequence[T]], *, stage: str = "train"
    ) -> tuple[dict[int, T], dict[int, Failure]]:
        """Do ``work`` on all lanes together, or on ever smaller groups when that fails.

        Args:
            lanes: Lanes in the order of `pack.sort_lanes`.
            work: Called with lanes and the number of parts of a micro-batch. Returns one result per lane, and leaves
                the lanes unchanged if it raises.
            stage: Name of the work. The parts that a lane needs are remembered for each stage: scoring a trial takes
                less memory than training it.

        Returns:
            Results and failures by trial number; each lane is in one of them.
        """
        results: dict[int, T] = {}
        failures: dict[int, Failure] = {}
        size = max(1, self.max_lanes or len(lanes))
        waiting = [lanes[first : first + size] for first in range(0, len(lanes), size)]
        while waiting:
            group = waiting.pop(0)
            found = self._attempt(group, work, stage)
            if not isinstance(found, Failure):
                results.update({lane.spec.number: result for lane, result in zip(group, found, strict=True)})
            elif len(group) == 1:
                failures[group[0].spec.number] = found
            else:
                middle = len(group) // 2
                waiting = [group[:middle], group[middle:], *waiting]
                if found.kind in _MEMORY:
                    self.max_lanes = min(self.max_lanes or len(group), middle)
        return results, failures

    def _attempt(
        self, group: Sequence[Lane], work: Callable[[Sequence[Lane], int], Sequence[T]], stage: str
    ) -> Sequence[T] | Failure:
        # Remembered for the trial, not for its rank: how a micro-batch is divided changes rounding, so a trial's losses
        # must not depend on what another one needed.
        memory = (stage, group[0].spec.number)
        parts = self._num_parts.get(memory, 1) if len(group) == 1 else 1
        while True:
            shape = f"{plural(len(group), 'lane')}, r={group[0].spec.lora.r}, micro-batches in {plural(parts, 'part')}"
            try:
                results = work(group, parts)
            except Exception as error:
                failure = failure_of(error, device=self._device)
                log.warning("%d lane(s) failed, in %d part(s): %s", len(group), parts, failure.message, exc_info=True)
            else:
                if parts > 1:
                    self._num_parts[memory] = parts
                return results
            # Outside the except clause, where the exception no longer holds the frames with the activations.
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            if failure.kind not in _MEMORY or len(group) > 1 or parts >= self._max_parts:
                return dataclasses.replace(failure, message=f"{failure.message} [{shape}]")
            parts *= 2
