"""The failures of a sweep for ``sweeper status``: counts by cause, and each failed trial with a remedy."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sweeper.display.console import printable
from sweeper.failures import POLICIES
from sweeper.figures.failure_counts import count_failures, first_line, has_failed, has_recovered
from sweeper.store.damage import adapter_warnings
from sweeper.store.health import read_health
from sweeper.store.trials import TrialStore
from sweeper.types import StudyRecord, TrialRecord, TrialState

__all__ = ["cause_counts", "failure_view"]

_MAX_TRIALS = 20
_MAX_CHARACTERS = 160


def failure_view(store: TrialStore) -> RenderableType | None:
    """Return the problems of a sweep and its failed trials; None if there are none."""
    problems = [*read_health(store.root).lines(), *adapter_warnings(store)]
    parts: list[RenderableType] = [Text(f"! {line}", style="yellow") for line in problems]
    for study in store.studies():
        trials = store.trials(study.name)
        counts = cause_counts(trials)
        if counts:
            parts.append(Text(f"{study.dataset}: {counts}"))
        failed = [trial for trial in trials if has_failed(trial) and trial.failure]
        if failed:
            parts.append(_table(study, failed))
    return Group(*parts) if parts else None


def cause_counts(trials: Sequence[TrialRecord]) -> str:
    """Return the number of failed trials by state and cause, and of those that continued after a failure."""
    words = []
    for state in (TrialState.INFEASIBLE, TrialState.FAILED):
        counts = count_failures(trial for trial in trials if trial.state is state)
        words += [f"{len(count.trials)} {state.value} ({count.cause})" for count in counts]
    recovered = count_failures(trial for trial in trials if has_recovered(trial))
    words += [f"{len(count.trials)} continued after {count.cause}" for count in recovered]
    return ", ".join(words)


def _table(study: StudyRecord, trials: Sequence[TrialRecord]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title=None)
    for header in ("Trial", "Cause", "Retries", "Message and remedy"):
        table.add_column(header, overflow="fold")
    for trial in trials[:_MAX_TRIALS]:
        if trial.failure is not None:
            policy = POLICIES[trial.failure.kind]
            line = printable(first_line(trial.failure))
            message = line if len(line) <= _MAX_CHARACTERS else f"{line[:_MAX_CHARACTERS]}..."
            advice = Text.assemble(f"{message}\n", (policy.remedy, "dim"))
            table.add_row(str(trial.spec.number), trial.failure.kind.value, str(trial.num_retries), advice)
    if len(trials) > _MAX_TRIALS:
        table.add_row("...", f"{len(trials) - _MAX_TRIALS} more", "", f"see report.md, or {study.name} in trials.csv")
    return table
