"""Decides which adapters a sweep keeps: those of the best trials, the recipes and the confirmation. Deletes nothing.

Beside the adapter of the last chunk, a trial keeps that of its best rung if this scored higher.

A complete trial's rank never rises: `rank_trials` is a total order of values that are fixed when a trial completes, so
later trials can only push it down. So a deleted adapter is never needed again, and the best trial of a report always
has its adapter. `TrialRecords` calls this after every complete trial, and `find_damage` to know which adapters must
exist and which must not.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from sweeper.figures.ranking import rank_trials
from sweeper.figures.rungs import best_rung, better_rung
from sweeper.store.sessions import SessionLog
from sweeper.types import Phase, StudyRecord, TrialRecord, TrialState

__all__ = ["adapters_to_keep", "num_adapters_kept", "rung_adapter_to_keep"]


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
    # Which candidate wins is known only at the end, and then the adapters of all its seeds are scored on the test rows.
    always = {r.spec.number for r in complete if r.spec.is_recipe or r.spec.phase is Phase.CONFIRMATION}
    return always | {record.spec.number for record in rank_trials(study, complete, num_best)}


def num_adapters_kept(root: Path, keep_adapters: int) -> int:
    """Return the number of best trials whose adapters no session has deleted; 0 if all are kept.

    ``store.keep_adapters`` may differ between sessions, and what one has deleted is not missing in the next.

    Args:
        root: The sweep's folder.
        keep_adapters: The setting with which the sweep started.
    """
    numbers = [keep_adapters, *(session.keep_adapters for session in SessionLog(root).read())]
    return min((number for number in numbers if number), default=0)


def rung_adapter_to_keep(study: StudyRecord, trial: TrialRecord, *, keeps_adapter: bool) -> int | None:
    """Return the chunk of the rung whose adapter stays on disk; None if none does.

    Args:
        study: The study; defines which score is better.
        trial: The trial. While it runs, this is its best rung so far. When it is complete, the same if it scored higher
            than the last. A trial that ended otherwise keeps none.
        keeps_adapter: Whether a complete trial is one of `adapters_to_keep`.
    """
    rung = None
    if trial.state is TrialState.RUNNING:
        rung = best_rung(study, trial)
    elif trial.state is TrialState.COMPLETE and keeps_adapter:
        rung = better_rung(study, trial)
    return None if rung is None else rung.chunk
