"""What a candidate's trials did with each validation row, and each row's contribution to a metric.

Every metric becomes a mean over rows, so that one error model serves them all. Accuracy is one already. For macro-F1,
MCC and perplexity, a row contributes the metric plus its influence on it (infinitesimal jackknife, Efron 1982).

Shapes: S seeds, N rows, L labels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["LABEL_METRICS", "METRICS", "CandidateOutcomes", "is_minimised", "metric_values", "row_contributions"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class CandidateOutcomes:
    """The trials of one candidate, one for each seed, on the same rows."""

    name: str
    seeds: tuple[int, ...]
    """The S seeds: the first ones of the study's list of fresh seeds."""
    loss_SN: NDArray[np.floating]
    """Cross-entropy of each row; summed over its tokens if there are ``tokens_N``."""
    predicted_SN: NDArray[np.integer] | None = None
    """Index of the predicted label; None for open completions."""
    target_N: NDArray[np.integer] | None = None
    tokens_N: NDArray[np.integer] | None = None
    """Tokens that have a loss; None if a row has one label."""

    @property
    def num_rows(self) -> int:
        """Return N."""
        return int(self.loss_SN.shape[1])


def is_minimised(metric: str) -> bool:
    """Return whether lower values of a metric are better."""
    return metric in {"loss", "perplexity"}


def metric_values(outcomes: CandidateOutcomes, metric: str) -> Floats:
    """Return a metric for each seed, ``[S]``."""
    values: Floats = row_contributions(outcomes, metric).mean(axis=1)
    return values


def row_contributions(outcomes: CandidateOutcomes, metric: str) -> Floats:
    """Return what each row contributes to a metric, ``[S, N]``; the mean over rows is the metric.

    Raises:
        ValueError: If the metric is unknown, or needs labels and the candidate has none.
    """
    if metric not in METRICS:
        raise ValueError(f"metric={metric!r} is unknown; it must be one of {', '.join(METRICS)}")
    return METRICS[metric](outcomes)


def _labels(outcomes: CandidateOutcomes) -> tuple[NDArray[np.intp], NDArray[np.intp], Floats, Floats, Floats]:
    """Return predicted_SN, target_N, rows of a label predicted_SL and target_L, and hit_SN."""
    if outcomes.predicted_SN is None or outcomes.target_N is None:
        raise ValueError(f"candidate {outcomes.name!r} has no predicted labels, only losses")
    predicted_SN, target_N = outcomes.predicted_SN.astype(np.intp), outcomes.target_N.astype(np.intp)
    num_labels = 1 + int(max(predicted_SN.max(), target_N.max()))
    counts_SL = np.stack([np.bincount(row_N, minlength=num_labels) for row_N in predicted_SN]).astype(float)
    counts_L = np.bincount(target_N, minlength=num_labels).astype(float)
    return predicted_SN, target_N, counts_SL, counts_L, (predicted_SN == target_N).astype(float)


def _accuracy(outcomes: CandidateOutcomes) -> Floats:
    return _labels(outcomes)[-1]


def _macro_f1(outcomes: CandidateOutcomes) -> Floats:
    """Mean F1 over the labels that occur among targets or predictions, as the tasks define it."""
    predicted_SN, target_N, predicted_SL, target_L, hit_SN = _labels(outcomes)
    hits_SL = np.stack([np.bincount(target_N, weights=hit_N, minlength=len(target_L)) for hit_N in hit_SN])
    total_SL = predicted_SL + target_L
    inverse_SL = np.divide(1, total_SL, out=np.zeros_like(total_SL), where=total_SL > 0)
    f1_SL = 2 * hits_SL * inverse_SL
    num_S1 = (total_SL > 0).sum(axis=1, keepdims=True)
    # F1 = 2 hits / total, so a row of weight w changes it by w (2 hit - F1 (is target + is predicted)) / total.
    falls_SL = f1_SL * inverse_SL
    change_SN = (
        2 * hit_SN * inverse_SL[:, target_N]
        - falls_SL[:, target_N]
        - np.take_along_axis(falls_SL, predicted_SN, axis=1)
    )
    result: Floats = (f1_SL.sum(axis=1, keepdims=True) + outcomes.num_rows * change_SN) / num_S1
    return result


def _mcc(outcomes: CandidateOutcomes) -> Floats:
    """Matthews correlation of several labels (Gorodkin 2004, equation 8); 0 if only one label is predicted."""
    predicted_SN, target_N, predicted_SL, target_L, hit_SN = _labels(outcomes)
    q_SL, r_L = predicted_SL / outcomes.num_rows, target_L / outcomes.num_rows
    q_of_predicted_SN = np.take_along_axis(q_SL, predicted_SN, axis=1)
    chance_S1 = (q_SL @ r_L)[:, None]
    covariance_S1 = hit_SN.mean(axis=1, keepdims=True) - chance_S1
    predicted_S1 = 1 - (q_SL**2).sum(axis=1, keepdims=True)
    target = 1 - (r_L**2).sum()
    scale_S1 = np.sqrt(predicted_S1 * target)
    covariance_SN = (hit_SN - hit_SN.mean(axis=1, keepdims=True)) - (
        np.take_along_axis(np.broadcast_to(r_L, q_SL.shape), predicted_SN, axis=1) + q_SL[:, target_N] - 2 * chance_S1
    )
    # Influences on the variances of predicted and true labels, as shares of them.
    influence_predicted_SN = 2 * ((1 - predicted_S1) - q_of_predicted_SN)
    influence_target_N = 2 * ((1 - target) - r_L[target_N])
    with np.errstate(divide="ignore", invalid="ignore"):
        mcc_S1 = covariance_S1 / scale_S1
        result_SN = (
            mcc_S1
            + covariance_SN / scale_S1
            - mcc_S1 / 2 * (influence_predicted_SN / predicted_S1 + influence_target_N / target)
        )
    result: Floats = np.where(scale_S1 > 0, result_SN, 0.0)
    return result


def _loss(outcomes: CandidateOutcomes) -> Floats:
    """Mean loss of a row; of a token, if rows have several."""
    loss_SN = outcomes.loss_SN.astype(np.float64)
    if outcomes.tokens_N is None:
        return loss_SN
    tokens_N = outcomes.tokens_N.astype(np.float64)
    mean_S1 = loss_SN.sum(axis=1, keepdims=True) / tokens_N.sum()
    result: Floats = mean_S1 + (loss_SN - mean_S1 * tokens_N) / tokens_N.mean()
    return result


def _perplexity(outcomes: CandidateOutcomes) -> Floats:
    loss_SN = _loss(outcomes)
    mean_S1 = loss_SN.mean(axis=1, keepdims=True)
    result: Floats = np.exp(mean_S1) * (1 + loss_SN - mean_S1)
    return result


METRICS: dict[str, Callable[[CandidateOutcomes], Floats]] = {
    "accuracy": _accuracy,
    "macro_f1": _macro_f1,
    "mcc": _mcc,
    "loss": _loss,
    "perplexity": _perplexity,
}
"""Contributions of rows, by metric."""

LABEL_METRICS = ("accuracy", "macro_f1", "mcc")
"""Metrics of predicted labels: their contributions are not continuous."""
