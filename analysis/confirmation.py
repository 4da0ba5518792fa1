"""The block ``confirmation`` of best.json: what trials with fresh seeds say about each candidate, and what follows.

Built from the store alone. The best candidate is chosen by scores of fresh seeds, on rows that no trial of the search
was scored on if the data has some to spare. Scores on test rows are only reported. `best` calls this, and every display
shows its sentences.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sweeper.errors import StoreError
from sweeper.figures.baselines import Baseline, best_baseline
from sweeper.figures.confirmation import Candidate, ConfirmationRecord, ConfirmationState, confirmation_trials
from sweeper.figures.hyperparameters import params_text, shown_params
from sweeper.figures.ranking import finite_value
from sweeper.figures.text import plural
from sweeper.statistics.comparison import compare_candidates, compare_with_baseline
from sweeper.statistics.outcomes import CandidateOutcomes
from sweeper.statistics.results import CandidateResult, Difference, Interval, Verdict
from sweeper.statistics.scores import expected_on_other_rows
from sweeper.store.candidate_outcomes import read_candidate_outcomes
from sweeper.store.trials import TrialStore
from sweeper.types import Phase, StudyRecord, TrialRecord, TrialState

__all__ = ["confirmation"]

_MIN_SEEDS = 2
_PREFIX = "validation/"


def _outcomes_of(
    store: TrialStore, name: str, trials: Sequence[TrialRecord], *, split: str = "validation"
) -> CandidateOutcomes | None:
    """Return the row outcomes of a candidate's complete trials; None if there are too few, or a file is missing.

    Args:
        store: The sweep.
        name: The candidate.
        trials: Its complete trials, in the order of the fresh seeds.
        split: ``validation`` or ``test``.
    """
    if len(trials) < _MIN_SEEDS:
        return None
    try:
        return read_candidate_outcomes(store, name, trials, split=split)
    except StoreError:
        return None  # not scored, or damaged, which `sweeper reconcile` repairs


def _other_metrics(study: StudyRecord, outcomes: CandidateOutcomes) -> list[str]:
    """Return the metrics, beside the study's own, that get intervals: those that its task reports."""
    named = ["loss"] if outcomes.predicted_SN is None else ["accuracy", "loss"]
    if outcomes.tokens_N is None:
        named = ["accuracy", "macro_f1", "mcc", "loss"]
    return [name for name in named if f"{_PREFIX}{name}" != study.metric]


def confirmation(
    store: TrialStore, study: StudyRecord, trials: Sequence[TrialRecord], *, default: str
) -> dict[str, Any] | None:
    """Return the block of a study; None if its search is not over, or nothing was to be confirmed.

    Args:
        store: The sweep.
        study: The study.
        trials: Its trials.
        default: Name of the default recipe.
    """
    record = store.read_confirmation(study.name)
    if record is None:
        return None
    return _Confirmation(store, study, trials, record=record, default=default).content()


class _Confirmation:
    """The confirmation of one study, with everything that its parts are made of."""

    def __init__(
        self,
        store: TrialStore,
        study: StudyRecord,
        trials: Sequence[TrialRecord],
        *,
        record: ConfirmationRecord,
        default: str,
    ) -> None:
        self.store, self.study, self.trials, self.record = store, study, trials, record
        self.default = default
        self.by_number = {trial.spec.number: trial for trial in trials}
        self.complete = self._complete_trials()
        self.outcomes = self._outcomes()
        # The number of seeds that the looks at the data share the error level over.
        self.settings = dataclasses.replace(record.settings, max_seeds=record.max_seeds or record.settings.max_seeds)
        self.num_rows = next((found.num_rows for found in self.outcomes.values()), 0)
        self.has_fresh_rows = self.study.num_rows.get("confirmation", 0) > 0
        self.results = self._results()
        self.best = next((name for name, result in self.results.items() if result.against_best is None), "")

    def content(self) -> dict[str, Any]:
        """Return the block."""
        candidates = [self._candidate(candidate) for candidate in self.record.candidates]
        against_baseline = self._against_baseline()
        recommended = self._recommended()
        spent = sum(trial.cost.device_s for trial in self.trials if trial.spec.phase is Phase.CONFIRMATION)
        search_s = sum(trial.cost.device_s for trial in self.trials if trial.spec.phase is Phase.SEARCH)
        return {
            "state": self.record.state.value,
            "reason": self.record.reason,
            "confidence": self.settings.confidence,
            "margin": self.settings.margin,
            "num_seeds": max((len(found.seeds) for found in self.outcomes.values()), default=0),
            "num_rows": self.num_rows,
            "has_fresh_rows": self.has_fresh_rows,
            "device_s": round(spent, 3),
            "share": round(spent / search_s, 4) if search_s else None,
            "max_share": self.record.settings.max_share,
            "candidates": candidates,
            "best": self.best or None,
            "recommended": recommended,
            "simplest": self._simplest(recommended),
            "best_under_cap": self._best_under_cap(),
            "default": self.default if self.default in self.results else None,
            "equivalent": self._equivalent(recommended),
            "baseline": against_baseline,
            "optimism": self._optimism(),
            "verdict": self._verdict(recommended, against_baseline),
            "advice": self._advice(recommended),
        }

    def _complete_trials(self) -> dict[str, list[TrialRecord]]:
        trained = confirmation_trials(self.trials)
        return {
            candidate.name: list(
                itertools.takewhile(
                    lambda trial: trial.state is TrialState.COMPLETE, trained.get(candidate.name, {}).values()
                )
            )
            for candidate in self.record.candidates
        }

    def _outcomes(self) -> dict[str, CandidateOutcomes]:
        """Return outcomes by candidate, of those with enough seeds; the seeds are prefixes of the same list."""
        found = {name: _outcomes_of(self.store, name, trials) for name, trials in self.complete.items()}
        return {name: rows for name, rows in found.items() if rows is not None}

    def _results(self) -> dict[str, CandidateResult]:
        if not self.outcomes:
            return {}
        first = next(iter(self.outcomes.values()))
        results = compare_candidates(
            list(self.outcomes.values()),
            default=self.default if self.default in self.outcomes else None,
            metric=self.study.metric.removeprefix(_PREFIX),
            maximize=self.study.direction == "maximize",
            settings=self.settings,
            other_metrics=_other_metrics(self.study, first),
        )
        return {result.name: result for result in results}

    def _candidate(self, candidate: Candidate) -> dict[str, Any]:
        origin, result = self.by_number[candidate.trial], self.results.get(candidate.name)
        complete = self.complete[candidate.name]
        search_value = finite_value(self.study, origin) if origin.state is TrialState.COMPLETE else None
        own = result.metrics[self.study.metric].estimate if result else None
        return {
            "name": candidate.name,
            "source": "recipe" if origin.spec.is_recipe else "search",
            "trial": candidate.trial,
            "probability_best": round(candidate.probability, 4),
            "params": shown_params(origin.spec, self.study.space),
            "hyperparameters": origin.spec.by_key(),
            "num_parameters": max((trial.num_parameters for trial in (origin, *complete)), default=0),
            "device_s": round(sum(t.cost.device_s for t in complete) / len(complete), 3) if complete else None,
            "seeds": [self._seed(trial) for trial in complete],
            "metrics": {name: _interval(found) for name, found in result.metrics.items()} if result else {},
            "against_default": self._difference(result.against_default, result) if result else None,
            "against_best": self._difference(result.against_best) if result else None,
            "search_value": search_value,
            "optimism": self._gain(search_value, own) if search_value is not None and own is not None else None,
            "test": self._test(candidate.name),
        }

    def _seed(self, trial: TrialRecord) -> dict[str, Any]:
        adapter = self.store.adapter_dir(self.study.name, trial.spec.number)
        metrics = trial.last_rung.metrics if trial.last_rung else {}
        return {
            "trial": trial.spec.number,
            "seed": trial.spec.seed,
            "value": finite_value(self.study, trial),
            "metrics": {name: value for name, value in metrics.items() if name.startswith(_PREFIX)},
            "adapter": _existing(adapter),
        }

    def _difference(self, found: Difference | None, result: CandidateResult | None = None) -> dict[str, Any] | None:
        if found is None:
            return None
        return {
            "gain": _interval(found.gain),
            "verdict": found.verdict.value,
            "seeds_needed": found.seeds_needed,
            "rows_needed": found.rows_needed,
            "metrics": {name: _interval(gain) for name, gain in result.differences.items()} if result else {},
        }

    def _test(self, name: str) -> dict[str, Any] | None:
        """Return the mean over seeds on the test rows, and the range in which the rows of the comparison predict it.

        None if the candidate was not scored there.
        """
        rows = _outcomes_of(self.store, name, self.complete[name], split="test")
        if rows is None or name not in self.outcomes:
            return None
        metric = self.study.metric.removeprefix(_PREFIX)
        (result,) = compare_candidates(
            [rows],
            default=None,
            metric=metric,
            maximize=self.study.direction == "maximize",
            settings=self.settings,
            other_metrics=_other_metrics(self.study, rows),
        )
        return {
            "num_rows": rows.num_rows,
            "num_seeds": len(rows.seeds),
            "metrics": {
                f"test/{metric.removeprefix(_PREFIX)}": _interval(found) for metric, found in result.metrics.items()
            },
            "value": result.metrics[self.study.metric].estimate,
            "interval": _interval(result.metrics[self.study.metric]),
            "expected": _interval(
                expected_on_other_rows(
                    self.outcomes[name],
                    metric,
                    num_rows=rows.num_rows,
                    num_seeds=len(rows.seeds),
                    confidence=self.settings.confidence,
                )
            ),
        }

    def _against_baseline(self) -> dict[str, Any] | None:
        """Return the best candidate's lead over the best score without an adapter."""
        baseline = best_baseline(self.study)
        if baseline is None or not self.best:
            return None
        found = compare_with_baseline(
            list(self.outcomes.values()),
            self.best,
            baseline.value,
            metric=self.study.metric.removeprefix(_PREFIX),
            maximize=self.study.direction == "maximize",
            settings=self.settings,
        )
        return {
            "name": baseline.kind.name,
            "label": baseline.kind.label,
            "value": baseline.value,
            "beaten": found.verdict is Verdict.BETTER,
            "gain": _interval(found.gain),
            "sentence": self._baseline_sentence(baseline, found),
        }

    def _recommended(self) -> str | None:
        """Return what to use: the best candidate if it is better than the default recipe, otherwise the default.

        The best of many is chosen for its score, so a lead that may be nothing is no reason to leave the default. So
        repeated sweeps agree where no configuration is better.
        """
        if self.default not in self.results:
            return self.best or None
        best = self.results.get(self.best)
        is_better = best and best.against_default and best.against_default.verdict is Verdict.BETTER
        return self.best if is_better else self.default

    def _equivalent(self, recommended: str | None) -> list[str]:
        """Return the candidates that were not shown to be worse than the best, the recommended one among them."""
        return [
            name
            for name, result in self.results.items()
            if name == recommended or result.against_best is None or result.against_best.verdict is not Verdict.WORSE
        ]

    def _simplest(self, recommended: str | None) -> str | None:
        """Return the candidate with the fewest parameters, then the cheapest, of those equivalent to the best."""
        if recommended is None:
            return None
        best = [
            name
            for name, result in self.results.items()
            if name == recommended or (result.against_best and result.against_best.verdict is Verdict.EQUIVALENT)
        ]
        return min(best, key=self._cost)

    def _best_under_cap(self) -> str | None:
        """Return the best candidate that has at most ``confirm.max_parameters``, or as many as the default."""
        cap = self.settings.max_parameters or (
            self._num_parameters(self.default) if self.default in self.results else 0
        )
        fitting = [name for name in self.results if not cap or self._num_parameters(name) <= cap]
        sign = 1 if self.study.direction == "maximize" else -1
        own = {name: sign * self.results[name].metrics[self.study.metric].estimate for name in fitting}
        return max(own, key=lambda name: own[name], default=None)

    def _cost(self, name: str) -> tuple[int, float]:
        complete = self.complete[name]
        return self._num_parameters(name), sum(trial.cost.device_s for trial in complete) / len(complete)

    def _num_parameters(self, name: str) -> int:
        return max(trial.num_parameters for trial in self.complete[name])

    def _gain(self, one: float, other: float) -> float:
        return one - other if self.study.direction == "maximize" else other - one

    def _optimism(self) -> dict[str, Any] | None:
        """Return by how much the search's score of its own best trial exceeded that of fresh seeds.

        Of the candidate with the best score in the search, since that is what a search without confirmation reports.
        """
        scored = {
            candidate.name: value
            for candidate in self.record.candidates
            if candidate.name in self.results
            and self.by_number[candidate.trial].state is TrialState.COMPLETE
            and (value := finite_value(self.study, self.by_number[candidate.trial])) is not None
        }
        if not scored:
            return None
        sign = 1 if self.study.direction == "maximize" else -1
        name = max(scored, key=lambda each: sign * scored[each])
        fresh = self.results[name].metrics[self.study.metric]
        ends = sorted(self._gain(scored[name], end) for end in (fresh.low, fresh.high))
        estimate = self._gain(scored[name], fresh.estimate)
        return {"candidate": name, "estimate": estimate, "low": ends[0], "high": ends[1]}

    def _verdict(self, recommended: str | None, baseline: Mapping[str, Any] | None) -> str:
        """Return what was found, in a sentence or two; a baseline that is not beaten comes first."""
        parts = [baseline["sentence"]] if baseline and not baseline["beaten"] else []
        return " ".join([*parts, self._default_sentence(recommended)])

    def _default_sentence(self, recommended: str | None) -> str:
        if not self.results or recommended is None:
            return self._nothing_sentence()
        if self.default not in self.results:
            return f"{self._named(self.best)} scores best on fresh seeds; no default recipe was trained beside it."
        best = self.results[self.best]
        if best.against_default is None:
            return f"No candidate scores higher than the default recipe, {self.default}, on fresh seeds: use it."
        gain, basis = _gain_text(best.against_default.gain), self._basis(best)
        sentences = {
            Verdict.BETTER: f"{self._named(self.best)} is better than the default recipe by {gain} ({basis}).",
            Verdict.EQUIVALENT: (
                f"The default recipe is as good as any candidate: even the best, {self.best}, was shown to differ from "
                f"it by less than {self.settings.margin:g} ({basis}). Use the default."
            ),
        }
        undecided = (
            f"No candidate was shown to be better than the default recipe: the lead of {self.best}, {gain}, may be "
            f"chance ({basis}). Use the default."
        )
        return sentences.get(best.against_default.verdict, undecided)

    def _nothing_sentence(self) -> str:
        if self.record.state is ConfirmationState.SKIPPED:
            return f"Nothing was confirmed: {self.record.reason}."
        if not self.record.state.is_over:
            return "The confirmation has not finished two seeds of any candidate yet."
        return f"Nothing was confirmed: {self.record.reason or 'no candidate has two complete seeds'}."

    def _basis(self, result: CandidateResult) -> str:
        return f"{plural(result.num_seeds, 'fresh seed')}, {plural(self.num_rows, self._kind_of_row)}"

    @property
    def _kind_of_row(self) -> str:
        return "fresh row" if self.has_fresh_rows else "validation row"

    def _named(self, name: str) -> str:
        origin = next(c.trial for c in self.record.candidates if c.name == name)
        params = params_text(shown_params(self.by_number[origin].spec, self.study.space), separator=", ")
        return f"{name[0].upper()}{name[1:]} ({params})" if name.startswith("trial ") else f"Recipe {name} ({params})"

    def _baseline_sentence(self, baseline: Baseline, found: Difference) -> str:
        kind, gain = baseline.kind, _gain_text(found.gain)
        if found.verdict is Verdict.BETTER:
            return f"The best candidate beats the {kind.label} by {gain}."
        if found.verdict is Verdict.WORSE:
            return f"No adapter is better than the {kind.label} ({baseline.value:.3f}): use {kind.alternative}."
        return (
            f"No adapter is clearly better than the {kind.label} ({baseline.value:.3f}): the best candidate leads by "
            f"{gain}."
        )

    def _advice(self, recommended: str | None) -> list[str]:
        """Return what to do next, each a sentence."""
        if recommended is None or not self.results:
            return []
        found = []
        best = self.results[self.best]
        open_question = best.against_default
        if open_question is not None and open_question.verdict is Verdict.UNDECIDED:
            found.append(self._undecided_advice(open_question))
        capped = self.study.num_available - self.study.num_rows.get("train", 0)
        if self.study.num_available and capped > 0:
            used = self.study.num_rows.get("train", 0)
            found.append(
                f"Train on more rows: trials used {used:,} of {self.study.num_available:,}. The best configuration may "
                f"differ there: repeat the sweep under another name with dataset.{self.study.dataset}.train_rows=0."
            )
        if not found:
            found.append(
                "Stop here: every comparison that matters is decided. More trials of the same space could still find a "
                "better configuration, but none of these trials says so."
            )
        return found

    def _undecided_advice(self, found: Difference) -> str:
        options = []
        if found.seeds_needed is not None:
            options.append(
                f"about {found.seeds_needed} seeds of each (sweeper confirm {self.store.root.name} "
                f"confirm.max_seeds={found.seeds_needed} confirm.max_share={_share_for(self, found.seeds_needed):g})"
            )
        if found.rows_needed is not None:
            options.append(f"about {plural(found.rows_needed, self._kind_of_row)}")
        if not options:
            return (
                f"No reasonable number of seeds or rows would settle whether {self.best} is better than the default: "
                "the difference is too small."
            )
        return f"To settle whether {self.best} is better than the default, use {' or '.join(options)}."


def _share_for(block: _Confirmation, num_seeds: int) -> float:
    """Return a share of device time that allows so many seeds of the best candidate and the default."""
    searched = sum(trial.chunks_done for trial in block.trials if trial.spec.phase is Phase.SEARCH)
    others = sum(len(found) for name, found in block.complete.items() if name not in (block.best, block.default))
    needed = (2 * num_seeds + others) * block.study.num_chunks / max(searched, 1)
    return float(np.ceil(needed * 10) / 10)


def _interval(found: Interval) -> dict[str, float]:
    return {"estimate": found.estimate, "low": found.low, "high": found.high}


def _gain_text(gain: Interval) -> str:
    return f"{gain.estimate:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"


def _existing(folder: Path) -> str | None:
    return str(folder) if folder.is_dir() else None
