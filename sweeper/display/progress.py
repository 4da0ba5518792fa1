"""How far a study is, as plain numbers: what the live view and ``sweeper status`` show.

Pure functions of a study and its trials; draws nothing (see `view`), reads no file and no clock. `sweep` makes one
`StudyProgress` a study after every report.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sweeper.analysis.compare import (
    Comparison,
    baseline,
    best_trial,
    compare,
    default_trial,
    finite_value,
    standard_error,
)
from sweeper.config.settings import SweepSettings
from sweeper.control.forecast import chunks_left
from sweeper.control.study_run import StudyRun
from sweeper.store.ledger import Ledger
from sweeper.store.trials import TrialStore
from sweeper.types import Cost, Phase, StudyRecord, TrialRecord, TrialState

__all__ = ["StudyProgress", "runs_progress", "study_progress"]


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyProgress:
    """A study as it stands."""

    study: StudyRecord
    counts: Mapping[TrialState, int]
    """Trials of the search by state; references are outside the budget and are left out."""
    budget: int
    """Trials that the study may have."""
    best: TrialRecord | None
    """Best complete trial, references included."""
    default: TrialRecord | None
    """Trial of the default recipe, in whatever state."""
    cost: Cost
    """Of all trials, references included."""
    wall_s: float
    """Seconds in which the study was under way, earlier sessions included."""
    left_s: float | None
    """Estimated seconds to the end of the budget; None before the first chunk."""
    num_running_references: int = 0

    @property
    def num_done(self) -> int:
        """Finished trials of the search."""
        return sum(number for state, number in self.counts.items() if state.is_finished)

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to train."""
        is_running = self.counts[TrialState.RUNNING] or self.num_running_references
        return self.num_done >= self.budget and not is_running

    @property
    def best_value(self) -> float | None:
        """Objective of the best trial."""
        return finite_value(self.study, self.best) if self.best else None

    @property
    def default_value(self) -> float | None:
        """Objective of the default recipe at its latest rung."""
        return finite_value(self.study, self.default) if self.default else None

    @property
    def baseline(self) -> tuple[str, float] | None:
        """What the frozen model does without fine-tuning, and whether that is a probe or the untuned model."""
        return baseline(self.study)

    @property
    def best_error(self) -> float | None:
        """Standard error of the best value; None if the metric has none."""
        return standard_error(self.study, self.best_value)

    @property
    def gain(self) -> Comparison | None:
        """Best against default; None unless both are complete."""
        is_fair = self.default is not None and self.default.state is TrialState.COMPLETE
        return compare(self.study, self.best_value, self.default_value) if is_fair else None

    @property
    def trials_per_hour(self) -> float | None:
        """Finished trials of the search an hour."""
        return 3600 * self.num_done / self.wall_s if self.wall_s > 0 else None

    @property
    def tokens_per_s(self) -> float | None:
        """Real tokens trained on a second, over all workers."""
        return self.cost.tokens / self.wall_s if self.wall_s > 0 else None


def study_progress(
    study: StudyRecord, trials: Iterable[TrialRecord], *, budget: int, wall_s: float, default: str
) -> StudyProgress:
    """Return how far a study is.

    Args:
        study: The study.
        trials: All its trials, references included.
        budget: Trials that the study may have.
        wall_s: Seconds in which the study was under way, earlier sessions included.
        default: Name of the default recipe, e.g. ``peft_default``.
    """
    known = list(trials)
    search = [trial for trial in known if trial.spec.phase is Phase.SEARCH]
    counts = {state: sum(trial.state is state for trial in search) for state in TrialState}
    num_running = sum(trial.state is TrialState.RUNNING for trial in known)
    return StudyProgress(
        study=study,
        counts=counts,
        budget=budget,
        best=best_trial(study, known),
        default=default_trial(known, default),
        cost=sum((trial.cost for trial in known), Cost()),
        wall_s=wall_s,
        left_s=_left_s(study, known, num_to_start=max(budget - len(search), 0), wall_s=wall_s),
        num_running_references=num_running - counts[TrialState.RUNNING],
    )


def runs_progress(runs: Iterable[StudyRun], settings: SweepSettings, *, num_workers: int) -> list[StudyProgress]:
    """Return how far studies under way are.

    Args:
        runs: The studies.
        settings: Budget and default recipe.
        num_workers: Workers that share them.
    """
    default = settings.search.recipes[0].name if settings.search.recipes else ""
    budget = settings.budget.trials
    return [
        study_progress(run.record, run.trials.values(), budget=budget, wall_s=run.wall_s(num_workers), default=default)
        for run in runs
    ]


def _left_s(study: StudyRecord, trials: Sequence[TrialRecord], *, num_to_start: int, wall_s: float) -> float | None:
    """Estimate the time left from the chunks that are left, at the pace of the chunks done so far."""
    if not num_to_start and all(trial.state.is_finished for trial in trials):
        return 0.0
    chunks_done = sum(trial.chunks_done for trial in trials)
    if chunks_done == 0 or wall_s <= 0:
        return None
    return wall_s * chunks_left(study, trials, num_to_start=num_to_start) / chunks_done


def progress_from_disk(store: TrialStore, *, budget: int) -> list[StudyProgress]:
    """Return how far the studies of a sweep are, as the store tells.

    Args:
        store: The sweep.
        budget: Trials that each study may have.
    """
    recipes = store.read_sweep()["settings"]["search"]["recipes"]
    default = recipes[0]["name"] if recipes else ""
    ledger = Ledger(store.paths.ledger)
    progress = []
    for study in store.studies():
        trials = store.trials(study.name)
        share = sum(trial.cost.device_s for trial in trials) / max(ledger.cost.device_s, 1e-9)
        wall_s = ledger.past_s * min(1.0, share)
        progress.append(study_progress(study, trials, budget=budget, wall_s=wall_s, default=default))
    return progress
