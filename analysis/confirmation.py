"""The block ``confirmation`` of best.json: what trials with fresh seeds say about each candidate, and what follows.

Built from the store alone. The best candidate is chosen by scores of fresh seeds, on rows that no trial of the search
was scored on if the data has some to spare. Scores on test rows are only reported. `best` calls this.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sweeper.analysis.conclusions import advice, baseline_sentence, verdict
from sweeper.analysis.findings import PREFIX, Findings
from sweeper.figures.baselines import best_baseline
from sweeper.figures.confirmation import Candidate
from sweeper.figures.hyperparameters import shown_params
from sweeper.figures.ranking import finite_value
from sweeper.statistics.comparison import compare_with_baseline
from sweeper.statistics.results import CandidateResult, Difference, Interval, Verdict
from sweeper.statistics.scores import expected_on_other_rows
from sweeper.store.damage import intact_adapter
from sweeper.store.trials import TrialStore
from sweeper.types import Phase, StudyRecord, TrialRecord, TrialState

__all__ = ["confirmation"]


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
    findings = Findings(store, study, trials, record=record, default=default)
    baseline, settings = _baseline(findings), findings.settings
    parts = [baseline["sentence"]] if baseline and not baseline["beaten"] else []
    return {
        "state": record.state.value,
        "reason": record.reason,
        "confidence": settings.confidence,
        "margin": settings.margin,
        "num_seeds": max((len(found.seeds) for found in findings.outcomes.values()), default=0),
        "num_rows": findings.num_rows,
        "has_fresh_rows": findings.has_fresh_rows,
        **_effort(findings),
        "candidates": [_candidate(findings, candidate) for candidate in record.candidates],
        "best": findings.best,
        "recommended": findings.recommended,
        "simplest": _simplest(findings),
        "best_under_cap": _best_under_cap(findings),
        "default": findings.default,
        "equivalent": _equivalent(findings),
        "baseline": baseline,
        "optimism": _optimism(findings),
        "verdict": " ".join([*parts, verdict(findings)]),
        "advice": advice(findings),
    }


def _effort(findings: Findings) -> dict[str, float | None]:
    spent, searched = (
        sum(trial.cost.device_s for trial in findings.trials if trial.spec.phase is phase)
        for phase in (Phase.CONFIRMATION, Phase.SEARCH)
    )
    share = round(spent / searched, 4) if searched else None
    return {"device_s": round(spent, 3), "share": share, "max_share": findings.record.settings.max_share}


def _candidate(findings: Findings, candidate: Candidate) -> dict[str, Any]:
    name, study = candidate.name, findings.study
    origin, result, complete = findings.origins[name], findings.results.get(name), findings.complete[name]
    search_value = finite_value(study, origin) if origin.state is TrialState.COMPLETE else None
    own = result.metrics[study.metric].estimate if result else None
    return {
        "name": name,
        "source": "recipe" if origin.spec.is_recipe else "search",
        "trial": candidate.trial,
        "probability_best": round(candidate.probability, 4),
        "params": shown_params(origin.spec, study.space),
        "hyperparameters": origin.spec.by_key(),
        "num_parameters": max(trial.num_parameters for trial in (origin, *complete)),
        "device_s": round(findings.device_s(name), 3) if complete else None,
        "seeds": [_seed(findings, trial) for trial in complete],
        "metrics": {metric: _interval(found) for metric, found in result.metrics.items()} if result else {},
        "against_default": _difference(result.against_default, result) if result else None,
        "against_best": _difference(result.against_best) if result else None,
        "search_value": search_value,
        "optimism": findings.gain(search_value, own) if search_value is not None and own is not None else None,
        "test": _test(findings, name),
    }


def _seed(findings: Findings, trial: TrialRecord) -> dict[str, Any]:
    adapter = intact_adapter(findings.store, findings.study.name, trial.spec.number)
    metrics = trial.last_rung.metrics if trial.last_rung else {}
    return {
        "trial": trial.spec.number,
        "seed": trial.spec.seed,
        "value": finite_value(findings.study, trial),
        "metrics": {name: value for name, value in metrics.items() if name.startswith(PREFIX)},
        "adapter": str(adapter) if adapter else None,
    }


def _difference(found: Difference | None, result: CandidateResult | None = None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "gain": _interval(found.gain),
        "verdict": found.verdict.value,
        "seeds_needed": found.seeds_needed,
        "rows_needed": found.rows_needed,
        "metrics": {name: _interval(gain) for name, gain in result.differences.items()} if result else {},
    }


def _test(findings: Findings, name: str) -> dict[str, Any] | None:
    """Return the mean over seeds on the test rows, and the range in which the rows of the comparison predict it.

    None if the candidate was not scored there.
    """
    rows = findings.test_outcomes(name)
    if rows is None:
        return None
    (result,) = findings.compare([rows], default=None)
    expected = expected_on_other_rows(
        findings.outcomes[name],
        findings.metric,
        num_rows=rows.num_rows,
        num_seeds=len(rows.seeds),
        confidence=findings.settings.confidence,
    )
    own = result.metrics[findings.study.metric]
    return {
        "num_rows": rows.num_rows,
        "num_seeds": len(rows.seeds),
        "metrics": {f"test/{key.removeprefix(PREFIX)}": _interval(found) for key, found in result.metrics.items()},
        "value": own.estimate,
        "interval": _interval(own),
        "expected": _interval(expected),
    }


def _baseline(findings: Findings) -> dict[str, Any] | None:
    """Return the best candidate's lead over the best score without an adapter."""
    baseline = best_baseline(findings.study)
    if baseline is None or findings.best is None:
        return None
    found = compare_with_baseline(
        list(findings.outcomes.values()),
        findings.best,
        baseline.value,
        metric=findings.metric,
        maximize=findings.maximize,
        settings=findings.settings,
    )
    return {
        "name": baseline.kind.name,
        "label": baseline.kind.label,
        "value": baseline.value,
        "beaten": found.verdict is Verdict.BETTER,
        "gain": _interval(found.gain),
        "sentence": baseline_sentence(baseline, found),
    }


def _equivalent(findings: Findings) -> list[str]:
    """Return the candidates that were not shown to be worse than the best, the recommended one among them."""
    return [
        name
        for name, result in findings.results.items()
        if name == findings.recommended
        or result.against_best is None
        or result.against_best.verdict is not Verdict.WORSE
    ]


def _simplest(findings: Findings) -> str | None:
    """Return the candidate with the fewest parameters, then the cheapest, of those equivalent to the best."""
    equals = [
        name
        for name, result in findings.results.items()
        if name == findings.recommended or (result.against_best and result.against_best.verdict is Verdict.EQUIVALENT)
    ]
    return min(equals, key=lambda name: (findings.num_parameters(name), findings.device_s(name)), default=None)


def _best_under_cap(findings: Findings) -> str | None:
    """Return the best candidate that has at most ``confirm.max_parameters``, or as many as the default."""
    cap = findings.settings.max_parameters
    if not cap and findings.default is not None:
        cap = findings.num_parameters(findings.default)
    fitting = [name for name in findings.results if not cap or findings.num_parameters(name) <= cap]
    return max(fitting, key=findings.score, default=None)


def _optimism(findings: Findings) -> dict[str, Any] | None:
    """Return by how much the search's score of its own best trial exceeds that of fresh seeds.

    Of the candidate with the best score in the search, since that is what a search without confirmation reports. Ends
    are those of the interval on fresh seeds.
    """
    scored = {
        name: value
        for name, origin in findings.origins.items()
        if name in findings.results
        and origin.state is TrialState.COMPLETE
        and (value := finite_value(findings.study, origin)) is not None
    }
    if not scored:
        return None
    name = max(scored, key=lambda each: findings.gain(scored[each], 0.0))
    fresh = findings.results[name].metrics[findings.study.metric]
    low, high = sorted(findings.gain(scored[name], end) for end in (fresh.low, fresh.high))
    return {"candidate": name, "estimate": findings.gain(scored[name], fresh.estimate), "low": low, "high": high}


def _interval(found: Interval) -> dict[str, float]:
    return {"estimate": found.estimate, "low": found.low, "high": found.high}
