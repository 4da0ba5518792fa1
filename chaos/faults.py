"""Workers in which certain configurations always fail. `controller` uses them instead of the normal ones.

The training is real. A lane of rank 16 always runs out of memory, alone or in a pack. A lane with alpha / r = 4 has NaN
parameters from its second chunk on. So the configuration causes the failure, on every worker and at any time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sweeper.config.values import ParamValue
from sweeper.types import TrialState

if TYPE_CHECKING:
    from sweeper.execute.base import Worker, WorkerSetup
    from sweeper.train.batches import TrainingRows
    from sweeper.train.lane import Lane
    from sweeper.train.pack import ChunkOutcome, RowFunction

__all__ = ["expected_failure", "make_worker"]

_NO_MEMORY_RANK = 16
_NAN_RATIO = 4.0


def expected_failure(params: Mapping[str, ParamValue]) -> str:
    """Return the kind of failure with which a configuration must end; empty if it must not fail."""
    if params["lora.r"] == _NO_MEMORY_RANK:
        return "out_of_memory"
    return "non_finite" if params["lora.alpha_ratio"] == _NAN_RATIO else ""


def make_worker(setup: WorkerSetup, index: int) -> Worker:
    """Return a worker with faults. The worker's process imports this function by its name."""
    import sweeper.train
    import sweeper.train.worker
    from sweeper.train.pack import Pack

    class FaultyPack(Pack):
        def train_chunk(
            self, lanes: Sequence[Lane], rows: TrainingRows, row_loss: RowFunction, *, tokens_per_pass: int = 0
        ) -> list[ChunkOutcome]:
            for lane in lanes:
                kind = expected_failure(lane.spec.by_key())
                if kind == "out_of_memory":
                    raise RuntimeError("injected: DefaultCPUAllocator: can't allocate memory for this rank")
                if kind == "non_finite" and lane.chunks_done:
                    lane.parameters.fill_(float("nan"))
            return super().train_chunk(lanes, rows, row_loss, tokens_per_pass=tokens_per_pass)

    setattr(sweeper.train.worker, "Pack", FaultyPack)  # noqa: B010 - in this process only, which is the worker's own
    return sweeper.train.make_worker(setup, index)


def is_expected(state: TrialState, params: Mapping[str, ParamValue]) -> bool:
    """Whether a trial may end in a state: infeasible if and only if it has a fault, unless it was pruned first."""
    kind = expected_failure(params)
    if state is TrialState.INFEASIBLE:
        return bool(kind)
    return not kind or (kind == "non_finite" and state is TrialState.PRUNED)
