"""What a lost, hung or failing worker leads to: who is charged, who is blamed, whether the device is taken out.

`controller` tells it of every loss and of every good chunk, and then restarts the worker or does without it.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from sweeper.breaker import Breaker, Culprit
from sweeper.execute.base import WorkerHandle
from sweeper.ledger import Ledger
from sweeper.study_run import StudyRun
from sweeper.types import Cost, Failure

__all__ = ["Losses", "Post", "Stage"]

_MAX_OPENINGS = 2
"""Failed attempts to open a study that no worker ever opened, after which it is given up."""


class Stage(enum.Enum):
    """What a worker is doing."""

    START = "start"
    OPEN = "open"
    CHUNK = "chunk"
    IDLE = "idle"


@dataclass(slots=True)
class Post:
    """What the controller knows of a worker."""

    handle: WorkerHandle
    study: StudyRun | None = None
    stage: Stage = Stage.START
    lanes: set[int] = field(default_factory=set)
    num_lanes: int = 0
    evict: tuple[int, ...] = ()
    is_testing: bool = False
    """Whether its one trial is alone because its pack was lost."""

    @property
    def is_busy(self) -> bool:
        """Whether it owes an answer."""
        return self.stage is not Stage.IDLE


class Losses:
    """Draws the consequences of losses.

    Args:
        ledger: What is charged.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._breaker = Breaker()
        self._studies: dict[str, StudyRun] = {}
        self._opened: set[str] = set()
        self._unopened: dict[str, int] = {}

    @property
    def taken_out(self) -> Mapping[int, str]:
        """Why workers were taken out, by index."""
        return self._breaker.taken_out

    def opened(self, study: StudyRun) -> None:
        """Take note that a worker could open a study: if another cannot, the fault is the device's."""
        self._opened.add(study.record.name)

    def worked(self, post: Post, study: StudyRun, numbers: Collection[int]) -> None:
        """Take note of a good chunk."""
        self._breaker.worked(post.handle.index, {(study.record.name, number) for number in numbers})

    def charge(self, post: Post, elapsed_s: float) -> None:
        """Charge a chunk that is lost for no fault of its trials."""
        if post.study is not None and post.stage is Stage.CHUNK:
            self._ledger.charge(Cost(device_s=elapsed_s))
            post.study.charge_lost(post.lanes, elapsed_s)

    def lost(self, post: Post, failure: Failure, elapsed_s: float, *, has_others: bool) -> str:
        """Charge a loss, put the trials back, find the culprit.

        Args:
            post: The worker, as it was.
            failure: What became of it.
            elapsed_s: Seconds since it was asked.
            has_others: Whether there are other workers, on which its trials may prove to be sound.

        Returns:
            Why the device is taken out; empty if it is not.
        """
        index, what = post.handle.index, failure.message
        if post.stage is Stage.START:
            what = f"worker {index} cannot start: {what}"
        verdict = self._breaker.failed(index, what, self._culprit(post, failure, elapsed_s))
        for name, number in verdict.acquitted if has_others else ():
            if number >= 0:
                self._studies[name].acquit(number)
        return verdict.reason

    def _culprit(self, post: Post, failure: Failure, elapsed_s: float) -> Culprit | None:
        study = post.study
        if study is None or post.stage not in (Stage.OPEN, Stage.CHUNK):
            return None
        name = study.record.name
        self._studies[name] = study
        if post.stage is Stage.CHUNK:
            self._ledger.charge(Cost(device_s=elapsed_s))
            alone = study.lose(post.lanes, failure, elapsed_s=elapsed_s)
            return None if alone is None else (name, alone)
        if name in self._opened:
            return None
        self._unopened[name] = self._unopened.get(name, 0) + 1
        if self._unopened[name] >= _MAX_OPENINGS:
            study.shut(f"no worker can open it: {failure.message}")
        return name, -1
