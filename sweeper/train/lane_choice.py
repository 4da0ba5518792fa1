"""How many lanes a pack should have, found by trying: more lanes share the base model's fixed costs, until they do not.

Called by the worker when a study is opened with ``executor.lanes=auto``. Times one micro-batch of the study's median
length for 1, 2, 4, ... lanes and stops where the gain falls under 5 % or memory would run short.
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
"""Of the free memory that a worker may plan with."""
_TIMED_STEPS = 2


@dataclass(frozen=True, slots=True)
class LaneChoice:
    """A number of lanes, and what it was chosen by."""

    lanes: int
    rows_per_s: dict[int, float]
    """Rows trained in a second, by number of lanes."""
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
        pack: Trains them.
        rows: One micro-batch of typical rows; see `typical_rows`.
        row_loss: The task's loss.
        spec: A typical trial.
        limit: Most lanes.
        clock: Seconds that never run backwards.
    """
    rates: dict[int, float] = {}
    used = 0
    lanes = 1
    while lanes <= limit:
        free = _free_bytes(pack.device)
        if used * 2 > _MEMORY_SHARE * free:
            return LaneChoice(max(rates), rates, f"{lanes} would need more than {_MEMORY_SHARE:.0%} of the free memory")
        try:
            seconds, used = _measure(pack, rows, row_loss, [spec] * lanes, clock)
        except Exception as error:
            if not rates or not is_out_of_memory(error):
                raise
            return LaneChoice(max(rates), rates, f"{lanes} ran out of memory")
        rates[lanes] = lanes * rows.plan.rows_per_chunk / seconds
        if lanes > 1 and rates[lanes] < _LEAST_GAIN * rates[lanes // 2]:
            best = lanes if rates[lanes] > rates[lanes // 2] else lanes // 2
            return LaneChoice(best, rates, f"{lanes} gain less than {_LEAST_GAIN - 1:.0%} over {lanes // 2}")
        lanes *= 2
    return LaneChoice(max(rates), rates, f"more than {limit} would leave the search too little to learn from")


def typical_rows(examples: Examples, micro_batch: int, *, pad_token_id: int, device: torch.device) -> TrainingRows:
    """Return the rows around the median length as a training split of one micro-batch."""
    by_length = sorted(range(len(examples.ids)), key=lambda row: len(examples.ids[row]))
    first = max(0, (len(by_length) - micro_batch) // 2)
    picked = by_length[first : first + micro_batch]
    ids, targets, weights = examples.ids, examples.targets, examples.weights
    part = Examples([ids[row] for row in picked], [targets[row] for row in picked], [weights[row] for row in picked])
    plan = ChunkPlan.of(len(picked), micro_batch=micro_batch, chunks_per_epoch=1, epochs=1)
    return TrainingRows(part, plan, seed=0, pad_token_id=pad_token_id, device=device)


def _measure(
    pack: Pack, rows: TrainingRows, row_loss: RowFunction, specs: Sequence[TrialSpec], clock: Callable[[], float]
) -> tuple[float, int]:
    """Return the seconds of a chunk, and the bytes that it needed at most."""
    before = _begin_peak(pack.device)
    seconds = math.inf
    for _ in range(1 + _TIMED_STEPS):
        lanes = [Lane.start(spec, pack.shape, pack.device) for spec in specs]
        begin = clock()
        pack.train_chunk(lanes, rows, row_loss)
        if pack.device.type == "cuda":
            torch.cuda.synchronize(pack.device)
        seconds = min(seconds, clock() - begin)
    return seconds, max(0, _peak_bytes(pack.device) - before)


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def _begin_peak(device: torch.device) -> int:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return int(torch.cuda.memory_allocated(device))
    return int(psutil.Process().memory_info().rss)


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return int(psutil.Process().memory_info().rss)
