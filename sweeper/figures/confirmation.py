"""Which configurations are confirmed with fresh seeds, with how many, and how far that is.

`control.confirmation` trains them, and keeps a `ConfirmationRecord` in the study's folder. Terminal and report read it.
Pure: everything follows from the trials in the store.
"""

from __future__ import annotations

import enum
import itertools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sweeper.config.settings import ConfirmSettings
from sweeper.config.trial_length import trial_chunks
from sweeper.figures.ranking import finite_value
from sweeper.figures.recipes import candidate_name, default_trial, recipe_name
from sweeper.types import Phase, StudyRecord, TrialRecord, TrialState

__all__ = [
    "MIN_PROBABILITY",
    "MIN_SEEDS",
    "Candidate",
    "ConfirmationPlan",
    "ConfirmationRecord",
    "ConfirmationState",
    "choose_candidates",
    "confirmation_trials",
    "plan_confirmation",
    "progress_text",
    "recommended_seed",
    "recommended_trial",
]

MIN_PROBABILITY = 0.05
"""A configuration of the search is a candidate if it is the best one with more than this probability."""
MIN_SEEDS = 2
"""Fewer say nothing about the variation between seeds."""
_KNOWN_KEYS = ("lora.alpha_ratio", "train.learning_rate")
_KNOWN_ALPHA_RATIO = 2.0
"""The rule of thumb: alpha is twice the rank."""


class ConfirmationState(enum.StrEnum):
    """How far the confirmation of a study is."""

    RUNNING = "running"
    COMPLETE = "complete"
    """Every comparison is decided, or no number of seeds would decide it."""
    STOPPED_EARLY = "stopped early"
    """Comparisons are undecided, but the share of device time or the number of seeds is used up."""
    SKIPPED = "skipped"

    @property
    def is_over(self) -> bool:
        """Whether nothing more is trained unless the search or the settings change."""
        return self is not ConfirmationState.RUNNING


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A configuration that may be the best."""

    name: str
    """Name of its recipe; without one ``trial 9``, the first trial that had this configuration."""
    trial: int
    """A trial with its configuration, of the search or a reference."""
    probability: float
    """Posterior probability after the search that it is the best configuration."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfirmationPlan:
    """What is trained before the first decision."""

    candidates: tuple[Candidate, ...] = ()
    """The default recipe first, then the most probable."""
    num_seeds: int = 0
    """Fresh seeds of every candidate."""
    allowed: float = 0.0
    """What the share of device time allows, further seeds included, in trials of the longest length."""
    lengths: Mapping[str, float] = field(default_factory=dict)
    """What a trial of each candidate counts: its chunks as a share of those of the longest trial."""
    max_seeds: int = 0
    """Most seeds that a candidate can get: all that the share allows if only two candidates get further ones."""
    reason: str = ""
    """Why nothing is trained; empty if there are candidates."""

    @property
    def max_trials(self) -> int:
        """Trials of the longest length that the share allows."""
        return math.floor(self.allowed)

    def used(self, num_seeds: Mapping[str, int]) -> float:
        """Return how much of `allowed` is used by so many trials of each candidate."""
        return sum(self.lengths[name] * number for name, number in num_seeds.items())


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfirmationRecord:
    """How far the confirmation of a study is; one JSON file. Nothing is decided from it: it can be computed again."""

    state: ConfirmationState
    num_searched: int
    """Trials of the search that it is based on. With other trials, it is to be continued."""
    settings: ConfirmSettings
    """With other settings, it is to be continued."""
    candidates: tuple[Candidate, ...] = ()
    """The default recipe first, then the most probable."""
    seed: int = 0
    """The seed that is being trained, counted from 1."""
    num_seeds: int = 0
    """Most fresh seeds of a candidate so far, those that are being trained included."""
    max_seeds: int = 0
    """Number of seeds that the error level of the comparison is spread over, in place of ``confirm.max_seeds``."""
    winner: str = ""
    """Name of the candidate that scores best on fresh seeds; empty before it is known."""
    reason: str = ""
    """Why it was skipped or stopped early."""

    def is_current(self, *, num_searched: int, settings: ConfirmSettings) -> bool:
        """Whether it belongs to so many trials of the search and to these settings."""
        return (self.num_searched, self.settings) == (num_searched, settings)


def confirmation_trials(trials: Iterable[TrialRecord]) -> dict[str, dict[int, TrialRecord]]:
    """Return the trials of the confirmation by candidate and seed, in the order of their numbers.

    Candidates of an earlier plan, which the search has since ruled out, are included.
    """
    found: dict[str, dict[int, TrialRecord]] = {}
    for trial in trials:
        if trial.spec.phase is Phase.CONFIRMATION:
            found.setdefault(candidate_name(trial.spec), {})[trial.spec.seed] = trial
    return found


def choose_candidates(
    study: StudyRecord, trials: Collection[TrialRecord], *, default: str, probabilities: Mapping[int, float]
) -> list[Candidate]:
    """Return the configurations that may be the best, and those that everyone would compare with.

    These are the configurations of the search that are the best with more than `MIN_PROBABILITY`, the default recipe,
    its variant with alpha = 2r, and the best of its variants with another learning rate.

    Args:
        study: The study; defines which score is better.
        trials: Its finished trials.
        default: Name of the default recipe.
        probabilities: Probability of being the best, by number of a trial of the search. Trials with the same
            configuration share it.

    Returns:
        The default recipe first, then the most probable; empty if the default recipe has no score.
    """
    scored = [t for t in trials if t.spec.phase is not Phase.CONFIRMATION and _is_scored(study, t)]
    own_default = default_trial(scored, default)
    if own_default is None:
        return []
    known = [trial.spec.by_key() for trial in _known(study, scored, own_default)]
    found = []
    for same in _by_configuration(scored):
        probability = sum(probabilities.get(trial.spec.number, 0.0) for trial in same)
        if probability > MIN_PROBABILITY or same[0].spec.by_key() in known:
            first = min(same, key=lambda trial: (not recipe_name(trial.spec), trial.spec.number))
            name = recipe_name(first.spec) or f"trial {first.spec.number}"
            found.append(Candidate(name=name, trial=first.spec.number, probability=probability))
    return sorted(found, key=lambda candidate: (candidate.name != default, -candidate.probability))


def plan_confirmation(
    study: StudyRecord,
    trials: Collection[TrialRecord],
    *,
    default: str,
    settings: ConfirmSettings,
    probabilities: Mapping[int, float],
) -> ConfirmationPlan:
    """Return what is trained before the first decision, given the finished search.

    The share of device time is counted in chunks, which have the same number of rows in every trial, and a trial of a
    candidate counts as many as its epochs have. So the plan is the same on every machine and after every interruption.
    If it does not allow `ConfirmSettings.seeds` of all candidates,
    the least probable candidates are dropped first, then seeds.

    Args:
        study: The study.
        trials: Its finished trials.
        default: Name of the default recipe; empty without one.
        settings: Share of device time, and numbers of candidates and seeds.
        probabilities: Probability of being the best, by number of a trial of the search.
    """
    num_chunks = sum(trial.chunks_done for trial in trials if trial.spec.phase is Phase.SEARCH)
    allowed = settings.max_share * num_chunks / study.num_chunks
    candidates = choose_candidates(study, trials, default=default, probabilities=probabilities)
    if not candidates:
        reason = f"the default recipe {default} has no score" if default else "search.recipes has no default recipe"
        return ConfirmationPlan(allowed=allowed, reason=f"{reason} to compare with")
    if len(candidates) == 1:
        reason = "no configuration is likely to be better than the default recipe"
        return ConfirmationPlan(allowed=allowed, reason=reason)
    epochs = {trial.spec.number: trial.spec.train.epochs for trial in trials}
    lengths = {each.name: trial_chunks(study, epochs[each.trial]) / study.num_chunks for each in candidates}
    of_two = sum(lengths[each.name] for each in candidates[:2])
    num_seeds = min(settings.seeds, math.floor(allowed / of_two))
    if num_seeds < MIN_SEEDS:
        needed = math.ceil(100 * of_two * MIN_SEEDS * study.num_chunks / max(num_chunks, 1)) / 100
        reason = (
            f"confirm.max_share={settings.max_share:g} is too small: two candidates with {MIN_SEEDS} seeds each "
            f"need {needed:g}"
        )
        return ConfirmationPlan(allowed=allowed, reason=reason)
    totals = list(itertools.accumulate(num_seeds * lengths[each.name] for each in candidates))
    fitting = sum(total <= allowed for total in totals)
    chosen = tuple(candidates[: min(settings.max_candidates, fitting)])
    more_seeds = math.floor((allowed - totals[len(chosen) - 1]) / of_two)
    return ConfirmationPlan(
        candidates=chosen,
        num_seeds=num_seeds,
        allowed=allowed,
        lengths=lengths,
        max_seeds=max(num_seeds, min(settings.max_seeds, num_seeds + more_seeds)),
    )


def progress_text(record: ConfirmationRecord | None) -> str:
    """Return e.g. ``confirming 5 candidates, seed 2 of 3``; empty if nothing is being confirmed."""
    if record is None or record.state is not ConfirmationState.RUNNING or not record.candidates:
        return ""
    if record.winner:
        return "scoring the test rows"
    return f"confirming {len(record.candidates)} candidates, seed {record.seed} of {record.num_seeds}"


def _is_scored(study: StudyRecord, trial: TrialRecord) -> bool:
    has_result = trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
    return has_result and finite_value(study, trial) is not None


def _by_configuration(trials: Sequence[TrialRecord]) -> list[list[TrialRecord]]:
    """Return trials grouped by their hyperparameters."""
    groups: dict[tuple[object, ...], list[TrialRecord]] = {}
    for trial in trials:
        groups.setdefault(tuple(trial.spec.by_key().items()), []).append(trial)
    return list(groups.values())


def _known(study: StudyRecord, scored: Sequence[TrialRecord], default: TrialRecord) -> list[TrialRecord]:
    """Return the default recipe, its variant with alpha = 2r, and the best of its variants in learning rate."""
    values = default.spec.by_key()
    variants: dict[str, list[TrialRecord]] = {key: [default] for key in _KNOWN_KEYS}
    for trial in scored:
        changed = [key for key, value in trial.spec.by_key().items() if value != values[key]]
        if trial.spec.is_recipe and len(changed) == 1 and changed[0] in variants:
            variants[changed[0]].append(trial)
    double_alpha = [t for t in variants["lora.alpha_ratio"] if t.spec.lora.alpha_ratio == _KNOWN_ALPHA_RATIO]
    sign = 1 if study.direction == "maximize" else -1
    # A pruned trial scored lower than others at the rung where it stopped, so more chunks count before a better score.
    best = max(
        variants["train.learning_rate"],
        key=lambda trial: (trial.chunks_done, sign * (finite_value(study, trial) or 0.0), -trial.spec.number),
    )
    return [default, *double_alpha, best]


def recommended_seed(block: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the seed whose adapter is offered: of the recommended candidate, the first that has one on disk.

    Not the best seed: its score would be optimistic, and the candidate's interval would not hold for it.

    Args:
        block: ``confirmation`` of a study in best.json.

    Returns:
        The seed as best.json has it; None if nothing is recommended, or no adapter is on disk.
    """
    chosen = (candidate for candidate in block["candidates"] if candidate["name"] == block["recommended"])
    return next((seed for candidate in chosen for seed in candidate["seeds"] if seed["adapter"]), None)


def recommended_trial(confirmation: Mapping[str, Any] | None, best: Mapping[str, Any] | None) -> int | None:
    """Return the trial whose adapter is offered; None if there is none.

    Args:
        confirmation: ``confirmation`` of a study in best.json.
        best: ``best`` of the study: the best trial of the search, which counts without a confirmation.
    """
    seed = recommended_seed(confirmation) if confirmation else None
    if seed is not None:
        return int(seed["trial"])
    return int(best["trial"]) if best else None
