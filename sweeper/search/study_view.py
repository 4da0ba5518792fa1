"""What `study` needs from wherever people look at a search; nothing that it decides is read from there.

`study_database` implements it with Optuna's database. A simulated search is shown nowhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from optuna.trial import FrozenTrial

__all__ = ["NullView", "StudyView"]


class StudyView(Protocol):
    """Shows the trials of a study."""

    @property
    def num_trials(self) -> int:
        """Trials that it shows, whatever their state."""
        ...

    def discard_stale(self, trials: Sequence[FrozenTrial]) -> None:
        """Delete the trials that the store contradicts."""
        ...

    def update(self, trials: Sequence[FrozenTrial]) -> None:
        """Show what it lacks of the trials."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


class NullView:
    """Shows nothing."""

    num_trials = 0

    def discard_stale(self, trials: Sequence[FrozenTrial]) -> None:
        """Do nothing."""

    def update(self, trials: Sequence[FrozenTrial]) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""
