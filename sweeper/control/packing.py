"""Decides which trials enter a worker's pack, and how many, given what the study's other workers train.

The recipes come first, in narrow packs if the limits say so: soon there are scores to prune by, and the first recipe
trains alone, so that there is a complete adapter even sooner. The workers of a study share its recipes, and the trials
that may be in flight, equally. A worker without recipes never waits for those that have some. Called by `controller`,
which sends the chunks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sweeper.control.forecast import Forecast
from sweeper.control.lane_limits import LaneLimits
from sweeper.control.study_run import StudyRun
from sweeper.control.worker_slots import WorkerSlot
from sweeper.types import Admission

__all__ = ["Packing"]

_FIRST_RECIPE = 0
"""Number of the trial that is the first recipe, if the search has recipes."""


class Packing:
    """Fills packs within the limits.

    Args:
        limits: How many trials may train at once.
        slots: The workers by index; the controller adds and removes some.
        forecast: Whether time and device hours are left for a new trial.
    """

    def __init__(self, limits: LaneLimits, slots: Mapping[int, WorkerSlot], forecast: Forecast) -> None:
        self._limits, self._slots, self._forecast = limits, slots, forecast

    def has_work(self, slot: WorkerSlot, study: StudyRun) -> bool:
        """Whether a trial of a study could enter the empty pack of a worker now."""
        return study.has_due or self._may_start(slot, study)

    def is_settled(self, slot: WorkerSlot, study: StudyRun) -> bool:
        """Whether no trial may enter a pack, and none has to leave it for another worker."""
        return len(slot.lanes) >= self._most_lanes(slot, study) and not self.excess(slot, study)

    def fill(self, slot: WorkerSlot, study: StudyRun) -> list[Admission]:
        """Add trials to a pack, one by one: each new trial reserves device hours, which the next one cannot use."""
        admissions: list[Admission] = []
        while len(slot.lanes) < self._most_lanes(slot, study):
            admission = study.admission(
                may_start=self._may_start(slot, study), only_recipes=self._trains_recipes(slot, study)
            )
            if admission is None:
                break
            admissions.append(admission)
            slot.lanes.add(admission.spec.number)
        return admissions

    def excess(self, slot: WorkerSlot, study: StudyRun) -> tuple[int, ...]:
        """Return the trials beyond a worker's share, if another worker of the study waits for trials."""
        is_awaited = any(not other.is_busy and not other.lanes for other in self._peers(slot, study))
        return tuple(sorted(slot.lanes)[self._most_lanes(slot, study) :]) if is_awaited else ()

    def release(self, slot: WorkerSlot, study: StudyRun) -> tuple[int, ...]:
        """Remove the trials beyond a worker's share from its pack, if another worker of the study waits for trials.

        Returns:
            Their numbers. They are in the queue, and resume from their checkpoints.
        """
        released = self.excess(slot, study)
        slot.lanes -= set(released)
        study.put_back(released)
        return released

    def _may_start(self, slot: WorkerSlot, study: StudyRun) -> bool:
        if not (study.has_new and self._forecast.may_start(study)):
            return False
        workers = [slot, *self._peers(slot, study)]
        own = slot.lanes if slot.study is study else ()
        in_flight = len(own) + sum(len(other.lanes) for other in workers[1:]) + study.num_due
        return not self._limits.in_flight or in_flight < max(self._limits.in_flight, len(workers))

    def _most_lanes(self, slot: WorkerSlot, study: StudyRun) -> int:
        lanes = slot.num_lanes
        if self._limits.in_flight:
            lanes = min(lanes, _share(self._limits.in_flight, slot, self._peers(slot, study)))
        if self._trains_recipes(slot, study):
            lanes = min(lanes, self._most_recipes(slot, study))
        return lanes

    def _most_recipes(self, slot: WorkerSlot, study: StudyRun) -> int:
        if _FIRST_RECIPE in slot.lanes:
            return 1
        others = [peer for peer in self._peers(slot, study) if _FIRST_RECIPE not in peer.lanes]
        is_elsewhere = len(others) < len(self._peers(slot, study))
        share = _share(study.num_recipes_left - is_elsewhere, slot, others)
        return min(self._limits.recipe_lanes, share)

    def _trains_recipes(self, slot: WorkerSlot, study: StudyRun) -> bool:
        """Whether a worker trains nothing but recipes: it has some already, or is about to start with one."""
        if not self._limits.recipe_lanes:
            return False
        if slot.lanes:
            return all(study.is_recipe(number) for number in slot.lanes)
        return study.has_due_recipe or (study.has_new_recipe and self._may_start(slot, study))

    def _peers(self, slot: WorkerSlot, study: StudyRun) -> list[WorkerSlot]:
        return [other for other in self._slots.values() if other.study is study and other is not slot]


def _share(total: int, slot: WorkerSlot, others: Sequence[WorkerSlot]) -> int:
    """Return a worker's part, at least 1, of what it shares with others; the last ones get the remainder."""
    indices = sorted(each.handle.index for each in (slot, *others))
    part, rest = divmod(total, len(indices))
    return max(1, part + (indices.index(slot.handle.index) >= len(indices) - rest))
