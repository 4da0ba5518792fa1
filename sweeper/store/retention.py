"""Which adapters a sweep keeps: those of the best trials, and of what they are compared with. Pure; decides only.

A complete trial's rank among the complete ones never improves, so an adapter that is not kept now is never missed.
`study_run` asks after every trial, `audit` to know which adapters must be there.
"""

from __future__ import annotations

from collections.abc import Iterable

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
    always = {record.spec.number for record in complete if record.spec.is_recipe}
    sign = 1 if study.direction == "maximize" else -1
    scored = [(-sign * value, record.spec.number) for record in complete if (value := study.value(record)) is not None]
    return always | {number for _, number in sorted(scored)[:num_best]}
