"""The controller's state of each worker: its study, its lanes and what it is doing."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from sweeper.control.study_run import StudyRun
from sweeper.execute.base import WorkerHandle

__all__ = ["WorkerSlot", "WorkerState"]


class WorkerState(enum.Enum):
    """What a worker is doing."""

    START = "start"
    OPEN = "open"
    """Opening a study."""
    CHUNK = "chunk"
    """Training a chunk."""
    SAVE = "save"
    """Saving trials that are about to leave its pack."""
    SCORE = "score"
    """Scoring finished adapters on the test split."""
    IDLE = "idle"


@dataclass(slots=True)
class WorkerSlot:
    """A worker and its pack, on the controller's side."""

    handle: WorkerHandle
    study: StudyRun | None = None
    state: WorkerState = WorkerState.START
    lanes: set[int] = field(default_factory=set)
    """Numbers of the trials in its pack."""
    num_lanes: int = 0
    """Largest number of lanes of its pack; 0 before a study is open."""
    evict: tuple[int, ...] = ()
    """Trials to evict with the next request."""
    is_isolated: bool = False
    """Whether it trains one quarantined trial."""

    @property
    def is_training(self) -> bool:
        """Whether its trials lose something if it dies: it trains a chunk, or saves what it has trained."""
        return self.state in (WorkerState.CHUNK, WorkerState.SAVE)

    @property
    def is_busy(self) -> bool:
        """Whether it has not replied yet to its start or its last request."""
        return self.state is not WorkerState.IDLE
