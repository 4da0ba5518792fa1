"""Counts and sums over the trials of a study, kept up to date: a change costs the same however many trials there are.

The controller needs them several times per chunk, for progress and forecast. `sweeper status` makes one from disk.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from sweeper.config.trial_length import trial_chunks
from sweeper.figures.ranking import best_trial
from sweeper.figures.recipes import default_trial
from sweeper.figures.study_time import SessionTimes, StudySpans
from sweeper.types import Cost, Phase, StudyRecord, TrialRecord, TrialState

__all__ = ["TrialTally"]


class TrialTally:
    """Counts and sums over the trials of one study.

    Args:
        study: The study; defines which trial is better.
        trials: Its trials so far, references included.
    """

    def __init__(self, study: StudyRecord, trials: Iterable[TrialRecord] = ()) -> None:
        self._study = study
        self.counts = dict.fromkeys(TrialState, 0)
        """Trials of the search by state; references are not in the budget and not counted."""
        self.running: dict[int, TrialRecord] = {}
        """Unfinished trials by number, references included."""
        self.best: TrialRecord | None = None
        """Best complete trial, references included."""
        self.num_finished = 0
        """Finished trials, references included. The same below."""
        self.finished_chunks = 0
        """Chunks of finished trials."""
        self._finished_length = 0
        """Chunks that these would have had without pruning."""
        self._finished_cost = Cost()
        self._recipes: dict[int, TrialRecord] = {}
        self._spans = StudySpans()
        for trial in trials:
            self.put(trial)

    @property
    def num_searched(self) -> int:
        """Trials of the search that were started, in any state."""
        return sum(self.counts.values())

    @property
    def chunks_done(self) -> int:
        """Chunks of all trials."""
        return self.finished_chunks + sum(trial.chunks_done for trial in self.running.values())

    @property
    def mean_length(self) -> float:
        """Mean chunks of a trial without pruning, over those that were started; of the longest before the first."""
        number = self.num_finished + len(self.running)
        length = self._finished_length + sum(map(self._length, self.running.values()))
        return length / number if number else float(self._study.num_chunks)

    def expected_chunks(self, length: float) -> float:
        """Return how many of its chunks a trial is expected to train, as far as those that have finished did.

        Args:
            length: Its chunks without pruning.
        """
        return length * self.finished_chunks / self._finished_length if self._finished_length else float(length)

    def _length(self, trial: TrialRecord) -> int:
        return trial_chunks(self._study, trial.spec.train.epochs)

    @property
    def cost(self) -> Cost:
        """Cost of all trials."""
        return sum((trial.cost for trial in self.running.values()), self._finished_cost)

    def put(self, trial: TrialRecord) -> None:
        """Add a trial, or replace an unfinished one."""
        number = trial.spec.number
        before = self.running.pop(number, None)
        if trial.spec.phase is Phase.SEARCH:
            if before is not None:
                self.counts[before.state] -= 1
            self.counts[trial.state] += 1
        if trial.spec.is_recipe:
            self._recipes[number] = trial
        if not trial.state.is_finished:
            self.running[number] = trial
            return
        self.num_finished += 1
        self.finished_chunks += trial.chunks_done
        self._finished_length += self._length(trial)
        self._finished_cost += trial.cost
        self.best = best_trial(self._study, [trial] if self.best is None else [self.best, trial])
        self._spans.add(trial)

    def default(self, recipe: str) -> TrialRecord | None:
        """Return the trial of the default recipe, in any state; None if it was not run."""
        return default_trial(self._recipes.values(), recipe)

    def wall_s(self, sessions: Sequence[SessionTimes] = (), now: datetime | None = None) -> float:
        """Return for how many seconds the study ran (`study_wall_s`)."""
        return self._spans.wall_s(self.running.values(), sessions, now)
