"""The baselines of a study: scores without an adapter, and whether the best trial clearly beats them.

The worker measures them once a study (`StudyRecord.references`). They are candidates: where the best trial is not
clearly better than the best of them, terminal, summary, report and best.json say so first.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from sweeper.figures.comparison import Comparison, compare, standard_error
from sweeper.figures.ranking import finite_value
from sweeper.types import StudyRecord, TrialRecord

__all__ = [
    "Baseline",
    "BaselineKind",
    "baseline_descriptions",
    "baseline_warning",
    "baselines",
    "beats_baselines",
    "best_baseline",
    "compare_with_baseline",
    "reference_label",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class BaselineKind:
    """A baseline, and what people call it."""

    name: str
    """Its name in `StudyRecord.references`."""
    label: str
    """Its name within a sentence."""
    column: str
    """Heading of its column in a table."""
    variant: str = ""
    """Which one it is, in a cell of a column that has several; empty for the plain one."""
    description: str
    """What it is, as a sentence."""
    alternative: str
    """What a user would use instead of an adapter."""


_KINDS = (
    BaselineKind(
        name="frozen_probe",
        label="probe",
        column="Probe",
        description="Probe: a logistic regression on the mean of the frozen model's features.",
        alternative="a logistic regression on frozen features",
    ),
    BaselineKind(
        name="frozen_probe_head",
        label="probe on the head's input",
        column="Probe",
        variant="head's input",
        description="Head's input: a logistic regression on the frozen features that the model's head reads.",
        alternative="a logistic regression on the frozen features that the model's head reads",
    ),
    BaselineKind(
        name="untuned",
        label="untuned model",
        column="Untuned",
        description="Untuned: the base model without any adapter.",
        alternative="the base model without any adapter",
    ),
)
"""Of two baselines with the same score, the first is the best."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """The score of a study without an adapter."""

    kind: BaselineKind
    value: float
    """The study's objective."""


def baselines(study: StudyRecord) -> list[Baseline]:
    """Return the baselines that were measured and have a finite objective, best first."""
    found = [
        Baseline(kind, value)
        for kind in _KINDS
        if (value := _objective(study, study.references.get(kind.name, {}))) is not None
    ]
    sign = -1 if study.direction == "maximize" else 1
    return sorted(found, key=lambda baseline: sign * baseline.value)


def best_baseline(study: StudyRecord) -> Baseline | None:
    """Return the first of `baselines`; None if none was measured."""
    return next(iter(baselines(study)), None)


def compare_with_baseline(study: StudyRecord, best: TrialRecord | None, baseline: Baseline | None) -> Comparison | None:
    """Compare the best trial with a baseline; return None if one of them is missing."""
    if best is None or baseline is None:
        return None
    return compare(study, finite_value(study, best), baseline.value)


def beats_baselines(study: StudyRecord, best: TrialRecord | None) -> bool | None:
    """Return whether the best trial of a study is clearly better than its best baseline.

    Clearly means by more than noise (`Comparison.is_noise`). If the metric has no known error, any gain counts.

    Args:
        study: The study.
        best: Its best trial. None if no trial is complete: this beats no baseline.

    Returns:
        The answer; None if the study has no baseline.
    """
    baseline = best_baseline(study)
    if baseline is None:
        return None
    found = compare_with_baseline(study, best, baseline)
    return found is not None and found.gain > 0 and not found.is_noise


def baseline_warning(study: StudyRecord, best: TrialRecord | None) -> str:
    """Return a sentence which says that no adapter is clearly better than the best baseline.

    Returns:
        The sentence; empty if an adapter is clearly better, and if there is no baseline or no complete trial.
    """
    baseline = best_baseline(study)
    found = compare_with_baseline(study, best, baseline)
    if best is None or baseline is None or found is None or beats_baselines(study, best):
        return ""
    error = standard_error(study, baseline.value)
    scores = f"{study.value(best):.3f} vs. {baseline.value:.3f}" + ("" if error is None else f" ± {error:.3f}")
    label = baseline.kind.label
    if found.gain < 0:
        return f"{study.dataset}: no adapter is better than the {label} ({scores}): the {label} scores higher; use it."
    return (
        f"{study.dataset}: no adapter is clearly better than the {label} ({scores}): {baseline.kind.alternative} does "
        "as well."
    )


def baseline_descriptions(names: Collection[str]) -> list[str]:
    """Return a sentence on what each of the named baselines is, for the notes below a table."""
    return [kind.description for kind in _KINDS if kind.name in names]


def reference_label(name: str) -> str:
    """Return what people call an entry of `StudyRecord.references`; its name if it is no known baseline."""
    return next((kind.label for kind in _KINDS if kind.name == name), name)


def _objective(study: StudyRecord, metrics: Mapping[str, float]) -> float | None:
    value = metrics.get(study.metric, metrics.get(study.metric.removeprefix("validation/")))
    return value if value is not None and math.isfinite(value) else None
