"""Checks whether a study's trials can have been trained with a record that was planned again. Pure; for `reconcile`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sweeper.config.trial_length import trial_chunks, trial_rungs
from sweeper.types import Phase, StudyRecord, TrialRecord, TrialState, TrialTemplate

__all__ = ["study_fault"]


def study_fault(study: StudyRecord, trials: Iterable[TrialRecord], *, template: TrialTemplate) -> str:
    """Return why a record of a study does not fit its trials; empty if it does.

    Args:
        study: The record.
        trials: The trials.
        template: Makes the specs of its trials.
    """
    found = (f"trial {t.spec.number} {fault}" for t in trials for fault in _faults(study, t, template))
    return next(found, "")


def _faults(study: StudyRecord, trial: TrialRecord, template: TrialTemplate) -> Iterator[str]:
    spec = template.spec(trial.spec.number, trial.spec.params, trial.spec.origin)
    if spec.by_key() != trial.spec.by_key():
        yield "has other hyperparameters"
    # The user may choose the seed of a final training.
    if trial.spec.phase not in (Phase.CONFIRMATION, Phase.FINAL) and spec.seed != trial.spec.seed:
        yield f"has seed {trial.spec.seed}, not {spec.seed}"
    full = trial_chunks(study, trial.spec.train.epochs)
    is_short = trial.state is TrialState.COMPLETE and trial.chunks_done < full
    if is_short or trial.chunks_done > full:
        yield f"has {trial.chunks_done} chunks, and a full trial {full}"
    num_rows = study.num_rows.get("validation", 0)
    for rung in (each for each in trial.measurements if each.is_rung):
        if rung.chunk not in trial_rungs(study.rungs, full):
            yield f"was scored after chunk {rung.chunk}, which is no rung"
        if study.metric not in rung.metrics:
            yield f"has no {study.metric}"
        if rung.scored_rows > num_rows:
            yield f"was scored on {rung.scored_rows} validation rows, and there are {num_rows}"
