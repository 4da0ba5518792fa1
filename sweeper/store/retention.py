"""Decides which adapters a sweep keeps: those of the best trials and those of the recipes. Pure; deletes nothing.

A complete trial's rank never rises: `rank_trials` is a total order of values that are fixed when a trial completes, so
later trials can only push it down. So a deleted adapter is never needed again, and the best trial of a report always
has its adapter. `TrialRecords` calls this after every complete trial, and `find_damage` to know which adapters must
exist.
"""

from __future__ import annotations

from collections.abc import Iterable

from sweeper.figures.ranking import rank_trials
from sweeper.types import StudyRecord, TrialRecord, TrialState

__all__ = ["adapters_to_keep"]


def adapters_to_keep(study: StudyRecord, records: Iterable[TrialRecord], num_best: int) -> set[int]:
    """Return the numbers of the complete trials whose adapters stay.

    Args:
        study: The study; defines which score is better.
        records: Its trials.
        num_best: ``store.keep_adapters``; 0 keeps all.
    """
    complete = [record for record in records if record.state is TrialState.COMPLETE]
    if not num_best:
        return {record.spec.number for record in complete}
    recipes = {record.spec.number for record in complete if record.spec.is_recipe}
    return recipes | {record.spec.number for record in rank_trials(study, complete, num_best)}
