"""Progress of a study as plain numbers, for the live view, the final table and ``sweeper status``.

`progress_of_runs` reads running studies, `progress_from_disk` the store. `tables` formats the result.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sweeper.config.settings import ConfirmSettings, SweepSettings
from sweeper.control.forecast import chunks_left
from sweeper.control.study_run import StudyRun
from sweeper.figures.baselines import Baseline, baseline_warning, beats_baselines, best_baseline
from sweeper.figures.comparison import Comparison, compare_with_default, standard_error
from sweeper.figures.confirmation import ConfirmationRecord
from sweeper.figures.ranking import best_running_trial, finite_value
from sweeper.figures.recipes import default_recipe, recorded_default_recipe
from sweeper.figures.rungs import best_rung_text
from sweeper.figures.tally import TrialTally
from sweeper.store.serialization import from_jsonable
from sweeper.store.sessions import SessionLog, SessionRecord
from sweeper.store.trials import TrialStore
from sweeper.types import Cost, Phase, StudyRecord, TrialRecord, TrialState

__all__ = ["FollowUpProgress", "StudyProgress", "progress_from_disk", "progress_of_runs", "study_progress"]


@dataclass(frozen=True, kw_only=True, slots=True)
class FollowUpProgress:
    """How far the trials are that follow the search: references, then the confirmation."""

    num_references_to_start: int = 0
    """References that have not started yet."""
    num_confirmations_to_start: int = 0
    """Trials of the confirmation that have not started yet; before the end of the search, as many as expected."""
    confirmation: ConfirmationRecord | None = None
    """How far the confirmation is."""
    is_confirmed: bool = True
    """Whether nothing is left to confirm."""

    @classmethod
    def of_run(cls, run: StudyRun) -> FollowUpProgress:
        """Return the progress of a running study."""
        return cls(
            num_references_to_start=run.num_references_to_start,
            num_confirmations_to_start=run.num_confirmations_to_start,
            confirmation=run.follow_up.record,
            is_confirmed=run.follow_up.is_confirmed,
        )

    @classmethod
    def from_disk(
        cls,
        store: TrialStore,
        study: str,
        trials: Sequence[TrialRecord],
        *,
        num_references: int,
        settings: ConfirmSettings,
    ) -> FollowUpProgress:
        """Return the progress of a study from its folder.

        Args:
            store: The sweep.
            study: Name of the study.
            trials: Its trials.
            num_references: Its references, started or not.
            settings: How it is to be confirmed.
        """
        phases = [trial.spec.phase for trial in trials]
        record, num_searched = store.read_confirmation(study), phases.count(Phase.SEARCH)
        is_current = record is not None and record.is_current(num_searched=num_searched, settings=settings)
        return cls(
            num_references_to_start=max(num_references - phases.count(Phase.REFERENCE), 0),
            confirmation=record if is_current else None,
            is_confirmed=not settings.max_share or (record is not None and is_current and record.state.is_over),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyProgress:
    """The current state of a study."""

    study: StudyRecord
    counts: Mapping[TrialState, int]
    """Trials of the search by state; references are not in the budget and not counted."""
    budget: int
    """``budget.trials``."""
    best: TrialRecord | None
    """Best complete trial, references included."""
    default: TrialRecord | None
    """Trial of the default recipe, in any state."""
    cost: Cost
    """Of all trials, references included."""
    wall_s: float
    """Seconds for which the study ran (`study_wall_s`), earlier sessions included."""
    left_s: float | None
    """Estimated seconds to the end of the budget; None before the first chunk."""
    num_open_references: int = 0
    """References and trials of the confirmation that are running, and references that have not started yet."""
    confirmation: ConfirmationRecord | None = None
    """How far the confirmation is; None before the end of the search, and without one."""
    is_confirmed: bool = True
    """Whether nothing is left to confirm after this search; also true without a confirmation."""
    best_running: TrialRecord | None = None
    """Unfinished trial with the best score at its latest rung."""

    @property
    def num_done(self) -> int:
        """Finished trials of the search."""
        return sum(number for state, number in self.counts.items() if state.is_finished)

    @property
    def is_running(self) -> bool:
        """Whether a trial is running, or a reference has not started yet."""
        return bool(self.counts[TrialState.RUNNING] or self.num_open_references)

    @property
    def is_done(self) -> bool:
        """Whether the budget is spent, every reference was trained, the best is confirmed, and nothing is running."""
        return self.num_done >= self.budget and self.is_confirmed and not self.is_running

    @property
    def best_value(self) -> float | None:
        """Objective of the best trial; None without one."""
        return finite_value(self.study, self.best) if self.best else None

    @property
    def default_value(self) -> float | None:
        """Objective of the default recipe at its latest rung; None without one."""
        return finite_value(self.study, self.default) if self.default else None

    @property
    def baseline(self) -> Baseline | None:
        """The best score without an adapter; None if none was measured."""
        return best_baseline(self.study)

    @property
    def beats_baselines(self) -> bool | None:
        """Whether the best trial is clearly better than the best baseline; None without a baseline."""
        return beats_baselines(self.study, self.best)

    @property
    def baseline_warning(self) -> str:
        """A sentence which says that no adapter is clearly better than the best baseline; empty if one is."""
        return baseline_warning(self.study, self.best)

    @property
    def best_rung(self) -> str:
        """``best after epoch 2 of 3`` if an earlier rung of the best trial scored higher than its last; else empty."""
        return best_rung_text(self.study, self.best) if self.best else ""

    @property
    def best_error(self) -> float | None:
        """Standard error of the best value; None if the metric has none."""
        return standard_error(self.study, self.best_value)

    @property
    def gain(self) -> Comparison | None:
        """Comparison of the best trial with the default recipe; None unless both are complete."""
        return compare_with_default(self.study, self.best, self.default)

    @property
    def trials_per_hour(self) -> float | None:
        """Finished trials of the search per hour."""
        return 3600 * self.num_done / self.wall_s if self.wall_s > 0 else None

    @property
    def tokens_per_s(self) -> float | None:
        """Tokens trained on per second, without padding, over all workers."""
        return self.cost.tokens / self.wall_s if self.wall_s > 0 else None


def study_progress(
    study: StudyRecord,
    tally: TrialTally,
    *,
    budget: int,
    wall_s: float,
    default: str,
    follow_up: FollowUpProgress | None = None,
) -> StudyProgress:
    """Return the progress of a study.

    Args:
        study: The study.
        tally: Counts and sums over its trials.
        budget: ``budget.trials``.
        wall_s: Seconds for which the study ran: `TrialTally.wall_s`.
        default: Name of the default recipe, e.g. ``peft_default``.
        follow_up: What follows the search; nothing if None.
    """
    follow_up = follow_up or FollowUpProgress()
    return StudyProgress(
        study=study,
        counts=dict(tally.counts),
        budget=budget,
        best=tally.best,
        default=tally.default(default),
        cost=tally.cost,
        wall_s=wall_s,
        left_s=_left_s(
            study,
            tally,
            num_to_start=max(budget - tally.num_searched, 0),
            num_unpruned=follow_up.num_references_to_start + follow_up.num_confirmations_to_start,
            wall_s=wall_s,
        ),
        num_open_references=len(tally.running) - tally.counts[TrialState.RUNNING] + follow_up.num_references_to_start,
        confirmation=follow_up.confirmation,
        is_confirmed=follow_up.is_confirmed,
        best_running=best_running_trial(study, tally.running.values()),
    )


def progress_of_runs(
    runs: Iterable[StudyRun], settings: SweepSettings, *, sessions: Sequence[SessionRecord], now: datetime | None
) -> list[StudyProgress]:
    """Return the progress of running studies.

    Args:
        runs: The studies.
        settings: Budget and default recipe.
        sessions: The sweep's sessions, the current one included.
        now: The present time; None before the current session has started.
    """
    recipe = default_recipe(settings.search)
    default = recipe.name if recipe else ""
    return [
        study_progress(
            run.record,
            run.tally,
            budget=settings.budget.trials,
            wall_s=run.tally.wall_s(sessions, now),
            default=default,
            follow_up=FollowUpProgress.of_run(run),
        )
        for run in runs
    ]


def _left_s(
    study: StudyRecord, tally: TrialTally, *, num_to_start: int, num_unpruned: int, wall_s: float
) -> float | None:
    """Estimate the time left from the remaining chunks and the pace of those done so far."""
    if not num_to_start + num_unpruned and not tally.running:
        return 0.0
    if tally.chunks_done == 0 or wall_s <= 0:
        return None
    num_chunks = chunks_left(study, tally, num_to_start=num_to_start, num_unpruned=num_unpruned)
    # Chunks that are being trained count as half done: without them, the first estimates are several times too long.
    half_done = len(tally.running) / 2
    return wall_s * (num_chunks - half_done) / (tally.chunks_done + half_done)


def progress_from_disk(
    store: TrialStore, *, budget: int, confirm: ConfirmSettings | None = None
) -> list[StudyProgress]:
    """Return the progress of a sweep's studies, read from its folder.

    Args:
        store: The sweep.
        budget: ``budget.trials``.
        confirm: How the best configurations are to be confirmed; as the sweep recorded it if None.
    """
    sweep = store.read_sweep()
    default, num_references = recorded_default_recipe(sweep), int(sweep.get("num_references", 0))
    recorded = (sweep.get("settings") or {}).get("confirm")
    settings = confirm or (from_jsonable(ConfirmSettings, recorded) if recorded else ConfirmSettings(max_share=0))
    sessions = SessionLog(store.root).read()
    progress = []
    for study in store.studies():
        trials = store.trials(study.name)
        tally = TrialTally(study, trials)
        follow_up = FollowUpProgress.from_disk(
            store, study.name, trials, num_references=num_references, settings=settings
        )
        wall_s = tally.wall_s(sessions)
        progress.append(
            study_progress(study, tally, budget=budget, wall_s=wall_s, default=default, follow_up=follow_up)
        )
    return progress
