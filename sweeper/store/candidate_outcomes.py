"""Reads the row outcomes of a candidate's trials from the store, as the statistics take them.

Shapes: S seeds, N rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sweeper.errors import StoreError
from sweeper.statistics.outcomes import CandidateOutcomes
from sweeper.store.outcomes import RowOutcomes
from sweeper.store.trials import TrialStore
from sweeper.types import TrialRecord

__all__ = ["read_candidate_outcomes"]


def read_candidate_outcomes(
    store: TrialStore, name: str, trials: Sequence[TrialRecord], *, split: str = "validation"
) -> CandidateOutcomes:
    """Return the outcomes of a candidate's trials.

    Args:
        store: The sweep.
        name: The candidate.
        trials: Its complete trials, one for each seed, in the order of the seeds.
        split: ``validation``, after the last chunk, or ``test``.

    Raises:
        StoreError: Outcomes of a trial are missing or damaged.
    """
    found = [_outcomes(store, trial, split) for trial in trials]
    first = found[0]
    predicted = [outcomes.predicted_N for outcomes in found if outcomes.predicted_N is not None]
    return CandidateOutcomes(
        name=name,
        seeds=tuple(trial.spec.seed for trial in trials),
        loss_SN=np.stack([outcomes.loss_N for outcomes in found]),
        predicted_SN=np.stack(predicted) if len(predicted) == len(found) else None,
        target_N=first.target_N,
        tokens_N=first.tokens_N,
    )


def _outcomes(store: TrialStore, trial: TrialRecord, split: str) -> RowOutcomes:
    spec = trial.spec
    if split == "test":
        found = store.read_test_outcomes(spec.study, spec.number)
    else:
        found = store.read_outcomes(spec.study, spec.number, trial.chunks_done)
    if found is None:
        raise StoreError(
            f"the {split} outcomes of trial {spec.number} of {spec.study} are missing or damaged. To repair them, run: "
            f"sweeper reconcile {store.root.name}"
        )
    return found
