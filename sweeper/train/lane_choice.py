"""Chooses the lanes of a pack and the tokens of a pass by measuring what they take.

The worker calls it when it opens a study with ``executor.lanes=auto``. More lanes share the fixed costs of the base
model, up to a point, and need memory of their own. So it measures two things on different trials:

- Memory, on the longest rows and a trial with the largest rank of the space, with one lane. Passes of one row and of
  several tell what a token needs, and the rest is what a lane needs.
- Speed, on rows of median length and a typical trial, for 1, 2, 4, ... lanes. Passes take as many tokens as the memory
  allows for that many lanes. It stops when the gain falls below 5 %, or a row of each lane would not fit.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import psutil
import torch

from sweeper.failures import is_out_of_memory
from sweeper.figures.text import plural
from sweeper.tasks.base import Examples
from sweeper.train.batches import TrainingRows
from sweeper.train.chunks import ChunkPlan
from sweeper.train.lane import Lane
from sweeper.train.pack import Pack, RowFunction
from sweeper.types import TrialSpec

__all__ = ["DeviceMemory", "LaneChoice", "Memory", "Workload", "choose_lanes", "longest_rows", "typical_rows"]

_LEAST_GAIN = 1.05
_MEMORY_SHARE = 0.8
"""Share of the free memory that a worker may plan with."""
_TIMED_STEPS = 2
_MEASURED_ROWS = 4
"""Rows of the larger of the two passes whose memory is measured."""
_HOST = torch.device("cpu")


class Workload(NamedTuple):
    """A trial, and a micro-batch that it trains on."""

    spec: TrialSpec
    rows: TrainingRows
    """A training split of one micro-batch."""


class Memory(Protocol):
    """The memory of a device."""

    def free_bytes(self) -> int:
        """Return what is free."""
        ...

    def peak_bytes(self, work: Callable[[], object]) -> int:
        """Do work, and return the most bytes that it needs."""
        ...


class DeviceMemory:
    """The memory of a CUDA device, or of the host.

    Args:
        device: The device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._is_cuda = device.type == "cuda"

    def free_bytes(self) -> int:
        """Return what is free; what torch keeps for later is free as well."""
        if not self._is_cuda:
            return int(psutil.virtual_memory().available)
        gc.collect()
        torch.cuda.empty_cache()
        return int(torch.cuda.mem_get_info(self._device)[0])

    def peak_bytes(self, work: Callable[[], object]) -> int:
        """Do work, and return the most bytes that it needs; on a CPU, the resident size after it stands in for them."""
        if not self._is_cuda:
            before = psutil.Process().memory_info().rss
            work()
            return max(0, psutil.Process().memory_info().rss - before)
        torch.cuda.reset_peak_memory_stats(self._device)
        before = torch.cuda.memory_allocated(self._device)
        work()
        return int(torch.cuda.max_memory_allocated(self._device)) - before


@dataclass(frozen=True, slots=True)
class LaneChoice:
    """The chosen number of lanes and tokens, and the reason."""

    lanes: int
    tokens_per_pass: int
    """Most tokens of a pass over all lanes; 0 if whole micro-batches fit."""
    rows_per_s: dict[int, float]
    """Rows trained per second, by number of lanes."""
    why: str
    measured: str
    """What the speed and the memory were measured on."""

    def __str__(self) -> str:
        tried = ", ".join(f"{lanes}: {rate:.0f}" for lanes, rate in self.rows_per_s.items()) or "not measured"
        tokens = f"passes of at most {plural(self.tokens_per_pass, 'token')}"
        passes = tokens if self.tokens_per_pass else "whole micro-batches"
        return f"{plural(self.lanes, 'lane')}, {passes} (rows/s by lanes: {tried}); {self.why}; {self.measured}"


@dataclass(frozen=True, slots=True)
class _Need:
    """What lanes and tokens need, in bytes."""

    lane: float
    token: float
    free: float
    """What may be planned with."""

    def tokens(self, lanes: int) -> int:
        """Return how many tokens fit beside so many lanes."""
        left = self.free - lanes * self.lane
        return int(max(0.0, left) / self.token) if self.token else (10**9 if left > 0 else 0)


def choose_lanes(
    pack: Pack,
    row_loss: RowFunction,
    *,
    typical: Workload,
    largest: Workload,
    limit: int,
    tokens_per_pass: int = 0,
    memory: Memory | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> LaneChoice:
    """Return the number of lanes at which training is fastest, or nearly so, and the tokens of a pass that fit.

    Args:
        pack: The pack that will train the lanes.
        row_loss: The task's loss.
        typical: A trial from the middle of the space, and rows of median length: what is timed.
        largest: A trial of the largest rank, and the longest rows: what must fit.
        limit: Most lanes to try.
        tokens_per_pass: ``executor.tokens_per_pass``.
        memory: The memory of the device; the real one if None.
        clock: Returns monotonic seconds.
    """
    longest = largest.rows.longest
    measured = (
        f"speed on rows of up to {plural(typical.rows.longest, 'token')} and r={typical.spec.lora.r}, "
        f"memory on {plural(longest, 'token')} and r={largest.spec.lora.r}"
    )
    need = _measure_need(pack, row_loss, largest, memory or DeviceMemory(pack.device))
    rates: dict[int, float] = {}
    budgets: dict[int, int] = {}

    def chosen(lanes: int, why: str) -> LaneChoice:
        return LaneChoice(lanes, budgets[lanes], rates, why, measured)

    lanes = 1
    while lanes <= limit:
        fitting = need.tokens(lanes)
        if lanes > 1 and fitting < lanes * longest:
            return chosen(
                max(rates),
                f"a row of each of {lanes} lanes would need more than {_MEMORY_SHARE:.0%} of the free memory",
            )
        # A budget that no pass exceeds is none. A single lane trains row by row at least, whatever the estimate.
        allowed = min(fitting, tokens_per_pass) if tokens_per_pass else fitting
        is_whole = largest.rows.largest_pass(lanes) <= allowed
        budgets[lanes] = tokens_per_pass if is_whole else max(allowed, longest)
        try:
            seconds = _time(pack, row_loss, typical, lanes, tokens_per_pass=budgets[lanes], clock=clock)
        except Exception as error:
            if not rates or not is_out_of_memory(error):
                raise
            return chosen(max(rates), f"{lanes} lanes ran out of memory")
        rates[lanes] = lanes * typical.rows.plan.rows_per_chunk / seconds
        if lanes > 1 and rates[lanes] < _LEAST_GAIN * rates[lanes // 2]:
            best = lanes if rates[lanes] > rates[lanes // 2] else lanes // 2
            return chosen(best, f"{lanes} lanes gain less than {_LEAST_GAIN - 1:.0%} over {lanes // 2}")
        lanes *= 2
    why = f"the limit is {plural(limit, 'lane')}, since with more, too many trials would start before the first results"
    return chosen(max(rates), why)


def typical_rows(examples: Examples, micro_batch: int, *, pad_token_id: int, device: torch.device) -> TrainingRows:
    """Return the rows around the median length, as a training split of one micro-batch."""
    return _micro_batch(examples, micro_batch, 0.5, pad_token_id=pad_token_id, device=device)


def longest_rows(examples: Examples, micro_batch: int, *, pad_token_id: int, device: torch.device) -> TrainingRows:
    """Return the longest rows, as a training split of one micro-batch."""
    return _micro_batch(examples, micro_batch, 1.0, pad_token_id=pad_token_id, device=device)


def _micro_batch(
    examples: Examples, micro_batch: int, position: float, *, pad_token_id: int, device: torch.device
) -> TrainingRows:
    """Return a micro-batch from the rows in the order of their lengths; ``position`` is 0 for the shortest ones."""
    by_length = sorted(range(len(examples.ids)), key=lambda row: len(examples.ids[row]))
    first = int(max(0, len(by_length) - micro_batch) * position)
    picked = by_length[first : first + micro_batch]
    plan = ChunkPlan.of(len(picked), micro_batch=micro_batch, chunks_per_epoch=1, epochs=1)
    return TrainingRows(examples.take(picked), plan, seed=0, pad_token_id=pad_token_id, device=device)


def _measure_need(pack: Pack, row_loss: RowFunction, largest: Workload, memory: Memory) -> _Need:
    rows, longest = largest.rows, largest.rows.longest
    free = _MEMORY_SHARE * memory.free_bytes()

    def peak(tokens: int) -> int:
        lanes = [Lane.start(largest.spec, pack.shape, _HOST)]
        return memory.peak_bytes(lambda: pack.train_chunk(lanes, rows, row_loss, tokens_per_pass=tokens))

    try:
        peak(longest)  # the first chunk also makes what later ones keep, e.g. the workspaces of libraries
        one = peak(longest)
        more = rows.largest_pass(1, _MEASURED_ROWS * longest)
        if more <= longest:  # a single row: its tokens cannot be told from the lane
            return _Need(lane=0.0, token=one / longest, free=free)
        token = max(0, peak(more) - one) / (more - longest)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return _Need(lane=free, token=1.0, free=free)  # a single lane, row by row; smaller trials may fit
    return _Need(lane=max(0.0, one - token * longest), token=token, free=free)


def _time(
    pack: Pack,
    row_loss: RowFunction,
    typical: Workload,
    num_lanes: int,
    *,
    tokens_per_pass: int,
    clock: Callable[[], float],
) -> float:
    """Return the seconds that a micro-batch takes."""
    seconds = math.inf
    for _ in range(1 + _TIMED_STEPS):
        lanes = [Lane.start(typical.spec, pack.shape, _HOST) for _ in range(num_lanes)]
        started = clock()
        pack.train_chunk(lanes, typical.rows, row_loss, tokens_per_pass=tokens_per_pass)
        if pack.device.type == "cuda":
            torch.cuda.synchronize(pack.device)
        seconds = min(seconds, clock() - started)
    return seconds
