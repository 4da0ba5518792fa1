"""Counts of right and wrong rows by label, from the outcomes of single rows that the store keeps."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from sweeper.store.trials import TrialStore
from sweeper.types import TrialRecord

__all__ = ["confusion_counts", "recalls"]


def confusion_counts(
    store: TrialStore, trials: Iterable[TrialRecord], num_labels: int
) -> tuple[npt.NDArray[np.int64], int] | None:
    """Return how often each label was predicted for each, at the last rung.

    Args:
        store: The sweep.
        trials: Trials of one configuration, such as one per seed; those without outcomes are left out.
        num_labels: C, the labels of the study.

    Returns:
        Counts, ``[C + 1, C + 1]`` int64: rows by true label, then by predicted label, summed over the trials. The last
        row is for labels that no training row has, and the last column is always 0. And how many trials were counted.
        None if there is none.
    """
    counts_CC = np.zeros((num_labels + 1, num_labels + 1), dtype=np.int64)
    num_counted = 0
    for trial in trials:
        rung = trial.last_rung
        found = None if rung is None else store.read_outcomes(trial.spec.study, trial.spec.number, rung.chunk)
        if found is None or found.predicted_N is None or found.target_N is None:
            continue
        target_N = np.minimum(found.target_N.astype(np.int64), num_labels)
        np.add.at(counts_CC, (target_N, found.predicted_N.astype(np.int64)), 1)
        num_counted += 1
    return (counts_CC, num_counted) if num_counted else None


def recalls(counts_CC: npt.NDArray[np.int64]) -> list[float | None]:
    """Return the share of each label's rows that are right; None for a label without rows."""
    rows_C = counts_CC.sum(axis=1)
    return [
        float(right) / int(rows) if rows else None for right, rows in zip(np.diagonal(counts_CC), rows_C, strict=True)
    ]
