"""How final trainings are named: the chosen configuration of a study, trained once more on more rows.

`sweeper.sweep.final` makes them. Each set of rows is a study of its own, since scores on other rows are another thing.
"""

from __future__ import annotations

from sweeper.types import StudyRecord, TrialSpec

__all__ = [
    "ALL_ROWS",
    "final_configuration",
    "final_origin",
    "final_rows",
    "final_study_name",
    "includes_validation",
    "train_splits",
]

ALL_ROWS = "all"
"""The ``--rows`` that stands for every row available for training."""
_PREFIX = "final:"
_VALIDATION = "-with-validation"


def final_study_name(source: str, rows: str, *, with_validation: bool) -> str:
    """Return the name of the study of final trainings, e.g. ``trec-minilm-lora-all-rows``.

    Args:
        source: Name of the study that was searched.
        rows: Number of training rows, or `ALL_ROWS`.
        with_validation: Whether validation rows are trained on, too.
    """
    return f"{source}-{rows}-rows{_VALIDATION if with_validation else ''}"


def final_rows(study: str, source: str) -> str:
    """Return the rows of a study of final trainings, the inverse of `final_study_name`; empty for another name.

    Args:
        study: Its name.
        source: Name of the study that was searched.
    """
    rows = study.removeprefix(f"{source}-").removesuffix(_VALIDATION).removesuffix("-rows")
    is_valid = rows == ALL_ROWS or rows.isdecimal()
    known = final_study_name(source, rows, with_validation=includes_validation(study))
    return rows if is_valid and known == study else ""


def train_splits(study: StudyRecord) -> tuple[str, ...]:
    """Return the splits whose rows a study trains on."""
    return ("train", "validation") if study.source and includes_validation(study.name) else ("train",)


def includes_validation(study: str) -> bool:
    """Whether a study of final trainings trains on the validation rows, so that they score nothing."""
    return study.endswith(_VALIDATION)


def final_origin(configuration: str) -> str:
    """Return `TrialSpec.origin` of a final training of a configuration, e.g. ``trial 9``."""
    return f"{_PREFIX}{configuration}"


def final_configuration(spec: TrialSpec) -> str:
    """Return the name of the configuration that a final training has."""
    return spec.origin.removeprefix(_PREFIX)
