"""Out-of-memory errors: train in smaller passes, then fewer lanes at a time, then a lane's micro-batch row by row.

Activations grow with the tokens of a pass, so the budget of tokens is halved first: the lanes still share the base
model. From `FEWEST_TOKENS` on, a pass would no longer keep a GPU busy. Then the group is halved, and each half is
tried by itself, since lanes are independent. A lane that runs out of memory alone trains in ever smaller passes, at the
same effective batch. If it still fails with a single row, the trial has failed.

On a CPU, passes are that small from the start. So lanes come first there: the products of a lane keep their shapes, and
the trial its exact losses.
"""

from __future__ import annotations

import dataclasses
import gc
import logging
import traceback
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import torch

from sweeper.failures import is_device_error, kind_of
from sweeper.figures.passes import FEWEST_TOKENS
from sweeper.figures.text import plural
from sweeper.train.lane import Lane
from sweeper.types import Failure, FailureKind

__all__ = ["Divisible", "OutOfMemoryFallback", "failure_of"]

log = logging.getLogger(__name__)
T = TypeVar("T")
_MEMORY = (FailureKind.OUT_OF_MEMORY, FailureKind.HOST_MEMORY)


class Divisible(Protocol):
    """Rows that are trained or scored in passes."""

    @property
    def longest(self) -> int:
        """Number of tokens of the longest row."""
        ...

    def largest_pass(self, lanes: int, tokens_per_pass: int = 0) -> int:
        """Return the tokens of the largest pass over all lanes if it may have so many; 0 for no limit."""
        ...


def failure_of(error: Exception, *, device: str = "cpu") -> Failure:
    """Describe the exception that ended a trial on a ``cpu`` or ``cuda`` device."""
    kind = kind_of(error, device=device)
    return Failure(kind=kind, message=f"{type(error).__name__}: {error}", traceback=traceback.format_exc())


class OutOfMemoryFallback:
    """Runs work on groups of lanes that fit into memory, and remembers what fitted.

    Args:
        tokens_per_pass: Most tokens of a pass over all lanes; 0 for no limit but the memory.
        device: ``cpu`` or ``cuda``.
    """

    def __init__(self, tokens_per_pass: int = 0, *, device: str = "cpu") -> None:
        self._tokens_per_pass = tokens_per_pass
        self._device = device
        self._of_stage: dict[str, int] = {}
        self._of_trial: dict[tuple[str, int], int] = {}
        self.max_lanes: int | None = None
        """Most lanes to run together since the last out-of-memory error; None before the first."""

    def run(
        self,
        lanes: Sequence[Lane],
        work: Callable[[Sequence[Lane], int], Sequence[T]],
        rows: Divisible,
        *,
        stage: str = "train",
    ) -> tuple[dict[int, T], dict[int, Failure]]:
        """Do ``work`` on all lanes together, or in ever smaller passes and groups when that fails.

        Args:
            lanes: Lanes in the order of `pack.sort_lanes`.
            work: Called with lanes and the most tokens of a pass, 0 for no limit. Returns one result per lane, and
                leaves the lanes unchanged if it raises.
            rows: The rows that it is done on.
            stage: Name of the work. What fits is remembered for each stage: scoring takes less memory than training.

        Returns:
            Results and failures by trial number; each lane is in one of them.

        Raises:
            RuntimeError: The device has failed.
        """
        results: dict[int, T] = {}
        failures: dict[int, Failure] = {}
        tokens = self.tokens_per_pass(stage)
        # A pass has a row of each lane at least, so a small budget needs several groups of lanes.
        fitting = tokens // rows.longest if tokens and lanes else len(lanes)
        size = max(1, min(self.max_lanes or len(lanes), fitting))
        waiting = [(lanes[first : first + size], tokens) for first in range(0, len(lanes), size)]
        while waiting:
            group, tokens = waiting.pop(0)
            found = self._attempt(group, tokens, work, rows, stage)
            if not isinstance(found, Failure):
                results.update({lane.spec.number: result for lane, result in zip(group, found, strict=True)})
            elif len(group) == 1:
                failures[group[0].spec.number] = found
            else:
                middle = len(group) // 2
                if found.kind in _MEMORY:
                    self.max_lanes = min(self.max_lanes or len(group), middle)
                    # A small budget is halved with the lanes. With the whole of it, passes would be as large as before.
                    tokens = tokens // 2 if tokens // 2 < FEWEST_TOKENS else tokens
                waiting = [(group[:middle], tokens), (group[middle:], tokens), *waiting]
        return results, failures

    def tokens_per_pass(self, stage: str = "train") -> int:
        """Return the most tokens of a pass that fitted, for several lanes; 0 if there is no limit yet."""
        return self._of_stage.get(stage, self._tokens_per_pass)

    def _attempt(
        self,
        group: Sequence[Lane],
        tokens: int,
        work: Callable[[Sequence[Lane], int], Sequence[T]],
        rows: Divisible,
        stage: str,
    ) -> Sequence[T] | Failure:
        """Return the results, or the failure of the smallest passes that are tried with so many lanes."""
        # The small passes of a single lane are remembered for the trial, not for its rank: how a micro-batch is divided
        # changes rounding, so a trial's losses must not depend on what another one needed.
        alone = (stage, group[0].spec.number)
        tokens = _smaller(tokens, self.tokens_per_pass(stage))
        if len(group) == 1:
            tokens = _smaller(tokens, self._of_trial.get(alone, 0))
        while True:
            used = rows.largest_pass(len(group), tokens)
            shape = f"{plural(len(group), 'lane')}, r={group[0].spec.lora.r}, passes of {plural(used, 'token')}"
            try:
                results = work(group, tokens)
            except Exception as error:
                if is_device_error(error):
                    raise  # nothing runs in this process any more, and the failure is of no trial in particular
                failure = failure_of(error, device=self._device)
                log.warning("failed: %s [%s]", failure.message, shape, exc_info=True)
            else:
                if tokens != self.tokens_per_pass(stage):
                    if len(group) == 1 and tokens < FEWEST_TOKENS:
                        self._of_trial[alone] = tokens
                    else:
                        self._of_stage[stage] = tokens
                return results
            # Outside the except clause, where the exception no longer holds the frames with the activations.
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            tokens = used // 2
            can_shrink = tokens >= FEWEST_TOKENS or len(group) == 1
            if failure.kind not in _MEMORY or not can_shrink or rows.largest_pass(len(group), tokens) == used:
                return dataclasses.replace(failure, message=f"{failure.message} [{shape}]")


def _smaller(tokens: int, other: int) -> int:
    """Return the smaller of two budgets, of which 0 has no limit."""
    return min(tokens, other) if tokens and other else tokens or other
