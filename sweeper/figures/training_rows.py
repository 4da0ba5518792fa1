"""Whether ``dataset.<name>.train_rows`` caps the training rows, which every display of a study mentions."""

from __future__ import annotations

from sweeper.types import StudyRecord

__all__ = ["capped_rows"]


def capped_rows(study: StudyRecord) -> str:
    """Return e.g. ``1,000 of 50,000 rows`` if trials train on fewer rows than are available; otherwise empty."""
    num_used = study.num_rows.get("train", 0)
    return f"{num_used:,} of {study.num_available:,} rows" if num_used < study.num_available else ""
