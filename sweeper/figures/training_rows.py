"""Whether trials train on fewer rows than there are: ``dataset.<name>.train_rows`` caps them silently otherwise."""

from __future__ import annotations

from sweeper.types import StudyRecord

__all__ = ["capped_rows"]


def capped_rows(study: StudyRecord) -> str:
    """Return e.g. ``1,000 of 50,000 rows`` if trials train on fewer rows than are available, otherwise nothing."""
    num_used = study.num_rows.get("train", 0)
    return f"{num_used:,} of {study.num_available:,} rows" if num_used < study.num_available else ""
