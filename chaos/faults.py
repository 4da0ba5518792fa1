"""Workers in which some settings fail, each in one way and always; `controller` puts them in place of sweeper's own.

The training is the real one. A lane of rank 16 finds no memory, alone or in company; a lane with alpha / r = 4 has
parameters that are no numbers from its second chunk on. So both are the setting's fault, wherever and whenever it runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sweeper.config.values import ParamValue
from sweeper.types import TrialState

if TYPE_CHECKING:
    from sweeper.execute.base import Worker, WorkerSetup

__all__ = ["expected_failure", "make_worker"]

_NO_MEMORY_RANK = 16
_NAN_RATIO = 4.0


def expected_failure(settings: Mapping[str, ParamValue]) -> str:
    """Return the kind of failure that a setting must end with; empty if it must not fail."""
    if settings["lora.r"] == _NO_MEMORY_RANK:
        return "out_of_memory"
    return "non_finite" if settings["lora.alpha_ratio"] == _NAN_RATIO else ""


def make_worker(setup: WorkerSetup, index: int) -> Worker:
    """Return a worker with faults; called in the worker's own process, by its name."""
    from sweeper.train.worker import TrainingWorker

    class FaultyWorker(TrainingWorker):
        def _train(self, study: Any, lanes: Sequence[Any], parts: int) -> Sequence[Any]:
            for lane in lanes:
                kind = expected_failure(lane.spec.by_key())
                if kind == "out_of_memory":
                    raise RuntimeError("injected: DefaultCPUAllocator: can't allocate memory for this rank")
                if kind == "non_finite" and lane.chunks_done:
                    lane.parameters.fill_(float("nan"))
            return super()._train(study, lanes, parts)

    return FaultyWorker(setup, index)


def is_expected(state: TrialState, settings: Mapping[str, ParamValue]) -> bool:
    """Whether a trial may end so: infeasible if and only if its setting has a fault, unless it was stopped before."""
    kind = expected_failure(settings)
    if state is TrialState.INFEASIBLE:
        return bool(kind)
    return not kind or (kind == "non_finite" and state is TrialState.PRUNED)
