"""Chooses the number of lanes of a pack by timing: more lanes share the fixed costs of the base model, up to a point.

The worker calls it when it opens a study with ``executor.lanes=auto``. It times one micro-batch of the study's median
length for 1, 2, 4, ... lanes and stops when the gain falls below 5 % or memory would run short.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psutil
import torch

from sweeper.failures import is_out_of_memory
from sweeper.tasks.base import Examples
from sweeper.train.batches import TrainingRows
from sweeper.train.chunks import ChunkPlan
from sweeper.train.lane import Lane
from sweeper.train.pack import Pack, RowFunction
from sweeper.types import TrialSpec

__all__ = ["LaneChoice", "choose_lanes", "typical_rows"]

_LEAST_GAIN = 1.05
_MEMORY_SHARE = 0.8
"""Share of the free memory that a worker may plan with."""
_TIMED_STEPS = 2


@dataclass(frozen=True, slots=True)
class LaneChoice:
    """The chosen number of lanes, and the reason."""

    lanes: int
    rows_per_s: dict[int, float]
    """Rows trained per second, by number of lanes."""
    why: str

    def __str__(self) -> str:
        tried = ", ".join(f"{lanes}: {rate:.0f}" for lanes, rate in self.rows_per_s.items())
        return f"{self.lanes} lanes (rows/s by lanes: {tried}); {self.why}"


def choose_lanes(
    pack: Pack,
    rows: TrainingRows,
    row_loss: RowFunction,
    *,
    spec: TrialSpec,
    limit: int,
    clock: Callable[[], float] = time.perf_counter,
) -> LaneChoice:
    """Return the number of lanes at which training is fastest, or nearly so.

    Args:
        pack: The pack that will train the lanes.
        rows: One micro-batch of typical rows; see `typical_rows`.
        row_loss: The task's loss.
        spec: A typical trial.
        limit: Most lanes to try.
        clock: Returns monotonic seconds.
    """
    rates: dict[int, float] = {}
    used = 0
    lanes = 1
    while lanes <= limit:
        # Activations dominate and grow with the lanes, so twice the lanes need about twice the memory.
        free = _free_bytes(pack.device)
        if used * 2 > _MEMORY_SHARE * free:
            why = f"{lanes} lanes would need more than {_MEMORY_SHARE:.0%} of the free memory"
            return LaneChoice(max(rates), rates, why)
        try:
            seconds, used = _measure(pack, rows, row_loss, [spec] * lanes, clock)
        except Exception as error:
            if not rates or not is_out_of_memory(error):
                raise
            return LaneChoice(max(rates), rates, f"{lanes} lanes ran out of memory")
        rates[lanes] = lanes * rows.plan.rows_per_chunk / seconds
        if lanes > 1 and rates[lanes] < _LEAST_GAIN * rates[lanes // 2]:
            best = lanes if rates[lanes] > rates[lanes // 2] else lanes // 2
            return LaneChoice(best, rates, f"{lanes} lanes gain less than {_LEAST_GAIN - 1:.0%} over {lanes // 2}")
        lanes *= 2
    why = f"the limit is {limit} lanes, since with more, too many trials would start before the first results"
    return LaneChoice(max(rates), rates, why)


def typical_rows(examples: Examples, micro_batch: int, *, pad_token_id: int, device: torch.device) -> TrainingRows:
    """Return the rows around the median length, as a training split of one micro-batch."""
    by_length = sorted(range(len(examples.ids)), key=lambda row: len(examples.ids[row]))
    first = max(0, (len(by_length) - micro_batch) // 2)
    picked = by_length[first : first + micro_batch]
    plan = ChunkPlan.of(len(picked), micro_batch=micro_batch, chunks_per_epoch=1, epochs=1)
    return TrainingRows(examples.take(picked), plan, seed=0, pad_token_id=pad_token_id, device=device)


def _measure(
    pack: Pack, rows: TrainingRows, row_loss: RowFunction, specs: Sequence[TrialSpec], clock: Callable[[], float]
) -> tuple[float, int]:
    """Return the seconds that a chunk takes, and the most bytes that it needs."""
    is_cuda = pack.device.type == "cuda"
    if is_cuda:
        torch.cuda.reset_peak_memory_stats(pack.device)
    before = torch.cuda.memory_allocated(pack.device) if is_cuda else psutil.Process().memory_info().rss
    seconds = math.inf
    for _ in range(1 + _TIMED_STEPS):
        lanes = [Lane.start(spec, pack.shape, pack.device) for spec in specs]
        started = clock()
        pack.train_chunk(lanes, rows, row_loss)
        if is_cuda:
            torch.cuda.synchronize(pack.device)
        seconds = min(seconds, clock() - started)
    # On a CPU, the resident size after the steps stands in for the peak.
    peak = torch.cuda.max_memory_allocated(pack.device) if is_cuda else psutil.Process().memory_info().rss
    return seconds, max(0, peak - before)


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)
