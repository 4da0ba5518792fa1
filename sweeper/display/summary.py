"""The summary of a session in a few lines: trials done, best scores and their change, failures, remaining budget.

Pure functions from values to text. `session_recorder` writes the summary to the log and to the sweep's folder, and
sends it as a notification.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from sweeper.config.settings import BudgetSettings
from sweeper.config.time_windows import local_time, parse_windows
from sweeper.display.progress import StudyProgress
from sweeper.display.tables import best_text, clock_text, configuration_text, counts_text
from sweeper.failures import POLICIES
from sweeper.figures.failure_counts import FailureCount, count_failures
from sweeper.figures.text import plural
from sweeper.store.sessions import SessionRecord, StudyTally
from sweeper.types import TrialRecord

__all__ = ["failures_since", "session_line", "since_last_summary", "summary_text", "summary_title"]

_MAX_MESSAGE_CHARACTERS = 160
_MAX_NUMBERS = 8


def failures_since(trials: Iterable[TrialRecord], since: str) -> list[FailureCount]:
    """Return the causes of a study's failures, the most frequent first.

    Args:
        trials: Trials of the study.
        since: UTC, ISO 8601; trials that ended earlier are left out.
    """
    return count_failures(
        trial
        for trial in trials
        if not trial.finished_at or datetime.fromisoformat(trial.finished_at) >= datetime.fromisoformat(since)
    )


def summary_title(sweep: str, session: SessionRecord) -> str:
    """Return the title of the summary: sweep, session, and whether an error ended it."""
    state = "failed" if session.has_failed else "ended"
    return f"Sweep {sweep}: session {session.number} {state}, {plural(session.num_finished, 'trial')} done"


def summary_text(
    session: SessionRecord,
    progress: Sequence[StudyProgress],
    *,
    failures: Mapping[str, Sequence[FailureCount]],
    budget: BudgetSettings,
    device_s: float,
    earlier: Sequence[SessionRecord],
) -> str:
    """Return the summary, as Markdown that is readable as plain text.

    Args:
        session: The session, which has ended.
        progress: The studies.
        failures: Failures since the last summary, by dataset.
        budget: Budget of the sweep.
        device_s: Device seconds that the sweep used in all sessions.
        earlier: The sessions before it, in order.
    """
    past, killed = since_last_summary(earlier)
    warnings = [f"- {study.baseline_warning}" for study in progress if study.baseline_warning]
    lines = [*warnings, ""] if warnings else []
    lines += [_span_line(session, budget), f"Reason for the end: {session.reason}.", *_killed_lines(killed), ""]
    lines += [f"- {_study_line(study, past.get(study.study.name))}" for study in progress]
    failed = [f"- {_failure_line(dataset, count)}" for dataset, counts in failures.items() for count in counts]
    lines += ["", *(["Failures:", *failed] if failed else ["Failures: none."])]
    lines += ["", *_left_lines(session, progress, budget, device_s)]
    return "\n".join(lines) + "\n"


def since_last_summary(earlier: Sequence[SessionRecord]) -> tuple[Mapping[str, StudyTally], list[SessionRecord]]:
    """Return the tally of each study at the last summary, and the sessions since then, all of which were killed.

    Args:
        earlier: The sessions before the current one, in order.
    """
    ended = [position for position, record in enumerate(earlier) if record.ended_at and record.after]
    last = ended[-1] if ended else -1
    return (earlier[last].after if ended else {}), [record for record in earlier[last + 1 :] if not record.ended_at]


def session_line(session: SessionRecord, budget: BudgetSettings) -> str:
    """Return the state of a session in one line."""
    if session.ended_at:
        verb = "failed" if session.has_failed else "ended"
        return f"Session {session.number} {verb} {_local_text(session.ended_at, budget)}: {session.reason}."
    line = f"Session {session.number} started {_local_text(session.begun_at, budget)}"
    if session.predictions:
        line += f", predicted to end {_local_text(session.predictions[-1].ends_at, budget)}"
    return f"{line}; last saved {_local_text(session.saved_at, budget)}."


def _killed_lines(killed: Sequence[SessionRecord]) -> list[str]:
    if not killed:
        return []
    verb = "was" if len(killed) == 1 else "were"
    trials = plural(sum(record.num_finished for record in killed), "trial")
    return [f"Since the last summary, {plural(len(killed), 'session')} {verb} killed, with {trials} done."]


def _span_line(session: SessionRecord, budget: BudgetSettings) -> str:
    start, end = (_local_text(moment, budget) for moment in (session.begun_at, session.ended_at))
    hours = session.device_s / 3600
    return f"{start} to {end}: {plural(session.num_finished, 'trial')} done, {hours:.2f} device hours."


def _study_line(progress: StudyProgress, past: StudyTally | None) -> str:
    line = f"{progress.study.dataset}: {counts_text(progress)}; {best_text(progress)}"
    if progress.best is None:
        return line
    trial = f"(trial {progress.best.spec.number}: {configuration_text(progress.study, progress.best)})"
    return f"{line}{_change_text(progress, past)} {trial}"


def _change_text(progress: StudyProgress, past: StudyTally | None) -> str:
    """Return the change of the best score since the last summary; empty if there is none."""
    if past is None or past.best is None or progress.best_value is None:
        return ", the first complete trial" if past is not None else ""
    if progress.best_value == past.best:
        return ", unchanged"
    return f", {progress.best_value - past.best:+.3f} since the last summary"


def _failure_line(dataset: str, count: FailureCount) -> str:
    numbers = ", ".join(map(str, count.numbers[:_MAX_NUMBERS])) + (", ..." * (len(count.numbers) > _MAX_NUMBERS))
    recovered = f"; {count.num_recovered} of them continued" if count.num_recovered else ""
    noun = "trial" if len(count.numbers) == 1 else "trials"
    title = f"{POLICIES[count.kind].title} ({count.kind})" if count.kind else count.cause
    message = (
        count.message
        if len(count.message) <= _MAX_MESSAGE_CHARACTERS
        else f"{count.message[: _MAX_MESSAGE_CHARACTERS - 3]}..."
    )
    return f"{dataset}: {title}, {noun} {numbers}{recovered}: {message}"


def _left_lines(
    session: SessionRecord, progress: Sequence[StudyProgress], budget: BudgetSettings, device_s: float
) -> list[str]:
    trials = ", ".join(_left_text(study) for study in progress if not study.is_done) or "no trial"
    hours = f", {max(0.0, budget.device_hours - device_s / 3600):.2f} device hours" if budget.device_hours else ""
    lines = [f"Left in the budget: {trials}{hours}."]
    if session.predictions:
        first = session.predictions[0]
        off_s = (datetime.fromisoformat(session.ended_at) - datetime.fromisoformat(first.ends_at)).total_seconds()
        side = "later" if off_s >= 0 else "earlier"
        moments = f"{_local_text(first.ends_at, budget)}, as predicted {_local_text(first.at, budget)}"
        lines.append(f"Predicted end: {moments}; it ended {clock_text(abs(off_s))} {side}.")
    opening = parse_windows(budget.window, budget.time_zone).next_opening(datetime.fromisoformat(session.ended_at))
    if opening is not None and not all(study.is_done for study in progress):
        lines.append(f"Next window: {_local_text(opening.isoformat(), budget)} (budget.window={budget.window}).")
    return lines


def _left_text(progress: StudyProgress) -> str:
    words = f"{plural(max(0, progress.budget - progress.num_done), 'trial')} of {progress.study.dataset}"
    return words if progress.left_s is None else f"{words} (about {clock_text(progress.left_s)})"


def _local_text(moment: str, budget: BudgetSettings) -> str:
    return f"{local_time(datetime.fromisoformat(moment), budget.time_zone):%a %d %b %H:%M}"
