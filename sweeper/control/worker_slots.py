"""What the controller knows of each worker: its study, its lanes and what it is doing."""

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
    CHUNK = "chunk"
    IDLE = "idle"


@dataclass(slots=True)
class WorkerSlot:
    """What the controller knows of a worker."""

    handle: WorkerHandle
    study: StudyRun | None = None
    state: WorkerState = WorkerState.START
    lanes: set[int] = field(default_factory=set)
    num_lanes: int = 0
    evict: tuple[int, ...] = ()
    is_isolated: bool = False
    """Whether its one trial is alone because its pack was lost."""

    @property
    def is_busy(self) -> bool:
        """Whether it owes an answer."""
        return self.state is not WorkerState.IDLE
