"""Which adapters a sweep keeps: those of the best trials, and those of the recipes. Pure; decides only.

A complete trial's rank never rises: `rank_trials` is a total order of values that are fixed when a trial completes, so
trials that complete later can only push it down. An adapter that is dropped now is therefore never needed later, and
the best trial of a report always has its adapter. `TrialRecords` asks after every complete trial, `find_damage` to know
which adapters must be there.
"""

from __future__ import annotations

from collections.abc import Iterable

from sweeper.figures.ranking import rank_trials
from sweeper.types import StudyRecord, TrialRecord, TrialState

__all__ = ["adapters_to_keep"]


def adapters_to_keep(study: StudyRecord, records: Iterable[TrialRecord], num_best: int) -> set[int]:
    """Return the numbers of the complete trials whose adapters stay.

    Args:
        study: The study; knows which score is better.
        records: Its trials.
        num_best: ``store.keep_adapters``; 0 keeps all.
    """
    complete = [record for record in records if record.state is TrialState.COMPLETE]
    if not num_best:
        return {record.spec.number for record in complete}
    recipes = {record.spec.number for record in complete if record.spec.is_recipe}
    return recipes | {record.spec.number for record in rank_trials(study, complete, num_best)}
