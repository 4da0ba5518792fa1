"""Decides which trials confirm the best configuration of a study, and when that is done.

The best of many noisy scores is partly luck. So after the search, the candidates are trained again with fresh seeds,
the same ones for all, and compared with the default recipe: first all of them, then, with further seeds, those whose
comparison is undecided. What is trained follows from the stored trials alone, so it is the same after a kill.

`follow_up` starts the trials. The statistics are passed in: this module trains nothing and reads no files.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from sweeper.config.settings import ConfirmSettings
from sweeper.figures.confirmation import (
    MIN_SEEDS,
    Candidate,
    ConfirmationPlan,
    ConfirmationRecord,
    ConfirmationState,
    confirmation_trials,
    plan_confirmation,
)
from sweeper.figures.recipes import FIRST_CONFIRMATION_NUMBER
from sweeper.figures.text import plural
from sweeper.search.proposals import trial_seed
from sweeper.statistics.looks import looks
from sweeper.statistics.results import CandidateResult, Verdict
from sweeper.types import Phase, StudyRecord, TrialRecord, TrialState

__all__ = ["CompareCandidates", "Confirmation", "ConfirmationTrial", "ProbabilityBest"]

_Trained = Mapping[str, Mapping[int, TrialRecord]]
"""Trials of the confirmation by candidate and seed."""

ProbabilityBest = Callable[[StudyRecord, Sequence[TrialRecord]], Mapping[int, float]]
"""Returns for the finished trials of a search, by number, the probability that their configuration is the best."""


class CompareCandidates(Protocol):
    """Compares candidates by the outcomes of their validation rows."""

    def __call__(
        self, study: StudyRecord, candidates: Mapping[str, Sequence[TrialRecord]], *, default: str, max_seeds: int
    ) -> Sequence[CandidateResult]:
        """Return a result for each candidate.

        Args:
            study: The study.
            candidates: The complete trials of each candidate, at least two, in the order of the fresh seeds.
            default: The candidate with which the others are compared.
            max_seeds: Most seeds that a candidate will get. With fewer than that, this is an interim look.
        """
        ...


@dataclass(frozen=True, slots=True)
class ConfirmationTrial:
    """A trial that is to be trained."""

    candidate: Candidate
    seed: int


class Confirmation:
    """The confirmation of one study.

    Args:
        settings: Share of the search's training, and numbers of candidates and seeds.
        seed: Seed of the sweep, from which the fresh seeds are made.
        default: Name of the default recipe; empty without one.
        probability_best: The model of the search's scores.
        compare: The statistics of the comparison.
    """

    def __init__(
        self,
        settings: ConfirmSettings,
        *,
        seed: int,
        default: str,
        probability_best: ProbabilityBest,
        compare: CompareCandidates,
    ) -> None:
        self.settings = settings
        self._seed, self._default = seed, default
        self._probability_best, self._compare = probability_best, compare
        self._plan = ConfirmationPlan()
        self._num_searched = -1
        self._results: dict[tuple[object, ...], Sequence[CandidateResult]] = {}
        """By the number of seeds of each candidate. All their trials are finished, so a result never changes."""
        self.due: list[ConfirmationTrial] = []
        """Trials to start now, in this order."""
        self.winner = ""
        """Candidate that scores best on fresh seeds; empty before the confirmation is decided."""

    def fresh_seed(self, index: int) -> int:
        """Return a seed, counted from 0: the same for every candidate, and used by no trial of the search."""
        return trial_seed(self._seed, FIRST_CONFIRMATION_NUMBER + index)

    def update(self, study: StudyRecord, trials: Mapping[int, TrialRecord]) -> ConfirmationRecord:
        """Decide what to train next, given a finished search.

        Args:
            study: The study.
            trials: All its trials. Those of the search are finished.
        """
        searched = [trial for trial in trials.values() if trial.spec.phase is Phase.SEARCH]
        if len(searched) != self._num_searched:
            self._num_searched = len(searched)
            self._plan = self._make_plan(study, trials, searched)
            self._results.clear()
        self.due, self.winner = [], ""
        if self._plan.reason:
            return self._record(ConfirmationState.SKIPPED, self._plan.reason)
        return self._advance(study, confirmation_trials(trials.values()))

    def is_scored_on_test(self, candidate: str) -> bool:
        """Whether the adapters of a candidate are scored on the test split: the winner's and the default's are."""
        return bool(self.winner) and candidate in (self.winner, self._default)

    def _make_plan(
        self, study: StudyRecord, trials: Mapping[int, TrialRecord], searched: Sequence[TrialRecord]
    ) -> ConfirmationPlan:
        return plan_confirmation(
            study,
            list(trials.values()),
            default=self._default,
            settings=self.settings,
            probabilities=self._probability_best(study, searched),
        )

    def _advance(self, study: StudyRecord, trained: _Trained) -> ConfirmationRecord:
        """Replay the decisions from the first one, up to one that needs a trial which is not finished."""
        names = [candidate.name for candidate in self._plan.candidates]
        num_seeds = dict.fromkeys(names, self._plan.num_seeds)
        while True:
            if (seed := self._unfinished_seed(num_seeds, trained)) is not None:
                return self._record(ConfirmationState.RUNNING, num_seeds=num_seeds, seed=seed + 1)
            complete = {name: self._complete(trained[name], num_seeds[name]) for name in names}
            comparable = {name: found for name, found in complete.items() if len(found) >= MIN_SEEDS}
            if self._default not in comparable or len(comparable) == 1:
                reason = "fewer than two candidates could be trained again, or the default recipe could not"
                return self._record(ConfirmationState.STOPPED_EARLY, reason, num_seeds=num_seeds)
            results = self._compared(study, comparable, max_seeds=self._plan.max_seeds)
            # A candidate that failed with one seed gets no further ones.
            undecided = [name for name in _undecided(results) if len(complete[name]) == num_seeds[name]]
            more = list(dict.fromkeys([self._default, _best(results), *undecided])) if undecided else []
            if not more or (reason := self._why_stop(num_seeds, more)):
                return self._decided(study, comparable, num_seeds, "" if not more else reason)
            num_seeds.update(dict.fromkeys(more, self._next_look(num_seeds, more)))

    def _decided(
        self,
        study: StudyRecord,
        comparable: Mapping[str, Sequence[TrialRecord]],
        num_seeds: Mapping[str, int],
        reason: str,
    ) -> ConfirmationRecord:
        """Return the final record.

        Args:
            study: The study.
            comparable: Trials of the candidates.
            num_seeds: Seeds of each.
            reason: Why undecided candidates get no further seed; empty if there are none.
        """
        max_seeds = max(num_seeds.values()) if reason else self._plan.max_seeds
        results = self._compared(study, comparable, max_seeds=max_seeds)
        self.winner = _best(results)
        # What was undecided in an interim look may be decided in this last one.
        is_complete = not reason or not _undecided(results)
        state = ConfirmationState.COMPLETE if is_complete else ConfirmationState.STOPPED_EARLY
        return self._record(state, "" if is_complete else reason, num_seeds=num_seeds, max_seeds=max_seeds)

    def _compared(
        self, study: StudyRecord, comparable: Mapping[str, Sequence[TrialRecord]], *, max_seeds: int
    ) -> Sequence[CandidateResult]:
        key = (max_seeds, *((name, len(trials)) for name, trials in comparable.items()))
        if key not in self._results:
            self._results[key] = self._compare(study, comparable, default=self._default, max_seeds=max_seeds)
        return self._results[key]

    def _unfinished_seed(self, num_seeds: Mapping[str, int], trained: _Trained) -> int | None:
        """Return the first seed with a trial that is not finished, and set what to start; None if all are finished."""
        unfinished = []
        for index in range(max(num_seeds.values())):
            seed = self.fresh_seed(index)
            for candidate in self._plan.candidates:
                trial = trained.get(candidate.name, {}).get(seed)
                if index < num_seeds[candidate.name] and (trial is None or not trial.state.is_finished):
                    unfinished.append(index)
                    if trial is None:
                        self.due.append(ConfirmationTrial(candidate, seed))
        return unfinished[0] if unfinished else None

    def _complete(self, trials: Mapping[int, TrialRecord], num_seeds: int) -> list[TrialRecord]:
        """Return the trials of a candidate up to the first that is not complete, or whose row outcomes were lost."""
        found = []
        for index in range(num_seeds):
            trial = trials[self.fresh_seed(index)]
            if trial.state is not TrialState.COMPLETE or not trial.measurements[-1].outcomes:
                break
            found.append(trial)
        return found

    def _next_look(self, num_seeds: Mapping[str, int], more: Sequence[str]) -> int:
        """Return with how many seeds the undecided candidates are compared next, as far as the share allows.

        Not after every seed: each look at the data is another chance of a wrong verdict (`statistics.looks`).
        """
        most = max(num_seeds[name] for name in more)
        planned = looks(dataclasses.replace(self.settings, max_seeds=max(self._plan.max_seeds, self.settings.seeds)))
        look = next((each for each in planned if each > most), most + 1)
        decided = self._plan.used({name: number for name, number in num_seeds.items() if name not in more})
        left = math.floor((self._plan.allowed - decided) / self._plan.used(dict.fromkeys(more, 1)))
        return max(most, min(look, left))

    def _why_stop(self, num_seeds: Mapping[str, int], more: Sequence[str]) -> str:
        """Return why undecided candidates get no further seed; empty if they get one."""
        if any(num_seeds[name] >= self.settings.max_seeds for name in more):
            return f"all seeds of confirm.max_seeds={self.settings.max_seeds} are trained"
        if self._next_look(num_seeds, more) <= max(num_seeds[name] for name in more):
            share = f"confirm.max_share={self.settings.max_share:g}"
            used = self._plan.used(num_seeds)
            if set(self._plan.lengths.values()) == {1.0}:
                return f"{share} allows {plural(self._plan.max_trials, 'trial')}, and {used:g} are trained"
            return f"{share} allows as much as {self._plan.allowed:.1f} of the longest trials, and {used:.1f} are used"
        return ""

    def _record(
        self,
        state: ConfirmationState,
        reason: str = "",
        *,
        num_seeds: Mapping[str, int] | None = None,
        seed: int = 0,
        max_seeds: int = 0,
    ) -> ConfirmationRecord:
        return ConfirmationRecord(
            state=state,
            num_searched=self._num_searched,
            settings=self.settings,
            candidates=self._plan.candidates,
            seed=seed,
            num_seeds=max(num_seeds.values()) if num_seeds else 0,
            max_seeds=max_seeds or self._plan.max_seeds,
            winner=self.winner,
            reason=reason,
        )


def _best(results: Sequence[CandidateResult]) -> str:
    return next(result.name for result in results if result.against_best is None)


def _undecided(results: Sequence[CandidateResult]) -> list[str]:
    """Return the candidates with a comparison that further seeds would decide."""
    found = []
    for result in results:
        differences = [d for d in (result.against_default, result.against_best) if d is not None]
        if any(d.verdict is Verdict.UNDECIDED and d.seeds_needed is not None for d in differences):
            found.append(result.name)
    return found
