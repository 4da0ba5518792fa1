"""The sentences that follow from a confirmation: the verdict on a study, and what to do next.

Terminal, report.md, report.html and best.json show the same ones. A sentence says no more than the trials show.
"""

from __future__ import annotations

import math

from sweeper.analysis.findings import Findings
from sweeper.analysis.texts import bound_advice
from sweeper.config.dimensions import parse_space
from sweeper.config.trial_length import trial_chunks
from sweeper.figures.baselines import Baseline
from sweeper.figures.confirmation import ConfirmationState
from sweeper.figures.hyperparameters import params_text, shown_params
from sweeper.figures.text import plural
from sweeper.statistics.results import CandidateResult, Difference, Interval, Verdict
from sweeper.types import Phase

__all__ = ["advice", "baseline_sentence", "verdict"]

_LATE = 2 / 3
"""A best trial after this share of the search came late."""


def verdict(findings: Findings) -> str:
    """Return which candidate to use, and why."""
    chosen, best = findings.recommended, findings.best
    if chosen is None or best is None:
        return _nothing(findings)
    if findings.default is None:
        return f"{_named(findings, chosen)} scores best on fresh seeds; no default recipe was trained beside it."
    if findings.is_better(chosen):
        return _better(findings, chosen)
    if best == findings.default:
        return f"No candidate scores higher than the default recipe, {findings.default}, on fresh seeds: use it."
    result = findings.results[best]
    found, basis = result.against_default, _basis(findings, result)
    assert found is not None, best  # noqa: S101  only the default is compared with nothing
    if found.verdict is Verdict.EQUIVALENT:
        return (
            f"The default recipe is as good as any candidate: even the best, {best}, was shown to differ from it by "
            f"less than {findings.settings.margin:g} ({basis}). Use the default."
        )
    return (
        f"No candidate was shown to be better than the default recipe: the lead of {best}, {_signed(found.gain)}, may "
        f"be chance ({basis}). Use the default."
    )


def baseline_sentence(baseline: Baseline, found: Difference) -> str:
    """Return how the best candidate compares with the best score without an adapter."""
    kind, gain = baseline.kind, _signed(found.gain)
    if found.verdict is Verdict.BETTER:
        return f"The best candidate beats the {kind.label} by {gain}."
    if found.verdict is Verdict.WORSE:
        return f"No adapter is better than the {kind.label} ({baseline.value:.3f}): use {kind.alternative}."
    scores = f"{kind.label} ({baseline.value:.3f})"
    return f"No adapter is clearly better than the {scores}: the best candidate leads by {gain}."


def advice(findings: Findings) -> list[str]:
    """Return what to do next, a sentence each: more seeds or rows, a wider space, more trials, or stop."""
    chosen, best = findings.recommended, findings.best
    if chosen is None or best is None:
        return []
    open_question = findings.results[best].against_default
    is_undecided = open_question is not None and open_question.verdict is Verdict.UNDECIDED
    found = [_undecided(findings, best, open_question)] if open_question is not None and is_undecided else []
    if findings.is_better(chosen):
        found += [*_wider_space(findings, chosen), *_more_trials(findings, chosen)]
    num_used = findings.study.num_rows.get("train", 0)
    if num_used < findings.study.num_available:
        found.append(
            f"Train on more rows: trials used {num_used:,} of {findings.study.num_available:,}. The best configuration "
            f"may differ there: repeat the sweep under another name with "
            f"dataset.{findings.study.dataset}.train_rows=0."
        )
    return found or [
        "Stop here: the comparison with the default recipe is decided, and nothing in these trials suggests that more "
        "of them would find a better configuration."
    ]


def _nothing(findings: Findings) -> str:
    record = findings.record
    if not record.state.is_over:
        return "The confirmation has not finished two seeds of any candidate yet."
    if record.state is ConfirmationState.SKIPPED:
        return f"Nothing was confirmed: {record.reason}."
    return f"Nothing was confirmed: {record.reason or 'no candidate has two complete seeds'}."


def _better(findings: Findings, name: str) -> str:
    result = findings.results[name]
    assert result.against_default is not None, name  # noqa: S101  `is_better` was checked
    text = (
        f"{_named(findings, name)} is better than the default recipe by {_signed(result.against_default.gain)} "
        f"({_basis(findings, result)})."
    )
    if name != findings.best:
        text += f" {findings.best} scores higher, but was not shown to be better than the default."
    return text


def _basis(findings: Findings, result: CandidateResult) -> str:
    return f"{plural(result.num_seeds, 'fresh seed')}, {plural(findings.num_rows, _kind_of_row(findings))}"


def _kind_of_row(findings: Findings) -> str:
    return "fresh row" if findings.has_fresh_rows else "validation row"


def _named(findings: Findings, name: str) -> str:
    params = params_text(shown_params(findings.origins[name].spec, findings.study.space), separator=", ")
    return f"{name[0].upper()}{name[1:]} ({params})" if name.startswith("trial ") else f"Recipe {name} ({params})"


def _undecided(findings: Findings, name: str, found: Difference) -> str:
    options = []
    if found.seeds_needed is not None:
        options.append(
            f"about {found.seeds_needed} seeds of each (sweeper confirm {findings.store.root.name} "
            f"confirm.max_candidates={len(findings.origins)} confirm.max_seeds={found.seeds_needed} "
            f"confirm.max_share={_share_for(findings, found.seeds_needed):g})"
        )
    if found.rows_needed is not None:
        options.append(f"about {plural(found.rows_needed, _kind_of_row(findings))}")
    if not options:
        return (
            f"No reasonable number of seeds or rows would settle whether {name} is better than the default: the "
            "difference is too small."
        )
    return f"To settle whether {name} is better than the default, use {' or '.join(options)}."


def _share_for(findings: Findings, num_seeds: int) -> float:
    """Return a ``confirm.max_share`` that allows so many seeds of every candidate, since all may stay undecided."""
    searched = sum(trial.chunks_done for trial in findings.trials if trial.spec.phase is Phase.SEARCH)
    of_all = sum(trial_chunks(findings.study, origin.spec.train.epochs) for origin in findings.origins.values())
    needed = of_all * num_seeds / max(searched, 1)
    return math.ceil(needed * 10) / 10


def _wider_space(findings: Findings, name: str) -> list[str]:
    space, params = parse_space(findings.study.space), findings.origins[name].spec.params
    if not space.contains(params):
        return []
    return [line for line in bound_advice(space.at_bounds(params), params) if "widen" in line]


def _more_trials(findings: Findings, name: str) -> list[str]:
    origin = findings.origins[name].spec
    num_searched = sum(trial.spec.phase is Phase.SEARCH for trial in findings.trials)
    if origin.phase is not Phase.SEARCH or origin.number + 1 <= _LATE * num_searched:
        return []
    return [
        f"Search on: {name} came late in a search of {num_searched} trials, so more of them may find a better one "
        f"(budget.trials={2 * num_searched})."
    ]


def _signed(gain: Interval) -> str:
    return f"{gain.estimate:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"
