"""Runs one session of a job: the sweep within its window, then the report, however the session ended.

What happened is noted in ``outputs/jobs/<name>.json`` for ``sweeper jobs status``; of trials the store tells.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from sweeper.config import SweepConfig, compose
from sweeper.errors import ConfigError, SweeperError, SweepLocked
from sweeper.identity import sweep_name
from sweeper.jobs.environment import environment_file, take_environment
from sweeper.jobs.settings import Job
from sweeper.ledger import utc_now
from sweeper.store import TrialStore, write_atomic

__all__ = ["Plan", "last_session", "plan_job", "run_job"]

_ERROR = 2
"""Exit code of every error of ours; schedulers do not try again."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A job whose overrides were composed."""

    config: SweepConfig
    store: TrialStore
    """Of its sweep; maybe not begun."""
    note: Path
    """Where its last session is noted."""


def plan_job(job: Job) -> Plan:
    """Compose a job's overrides.

    Raises:
        ConfigError: They do not fit together; the job's file is named.
    """
    with contextlib.chdir(job.folder):
        try:
            config = compose(job.all_overrides)
        except ConfigError as error:
            raise ConfigError(f"{job.file.name}: {error.key}", error.value, error.rule, error.remedy) from error
        outputs = Path(config.settings.outputs).absolute()
    return Plan(config, TrialStore(outputs / sweep_name(config.settings)), outputs / "jobs" / f"{job.name}.json")


def run_job(job: Job, *, console: Console) -> int:
    """Run one session.

    Returns:
        The exit code: 0 if nothing is left to do for now, 128 and the signal's number if it was told to stop.

    Raises:
        SweeperError: A setting, the data or the model is wrong, or no worker is left.
    """
    take_environment(environment_file(), os.environ)
    plan = plan_job(job)
    with contextlib.chdir(job.folder):
        try:
            return _session(job, plan, console)
        except SweepLocked as error:
            # The other session is the one that writes: no note, no report.
            _say(console, f"{error}. This session of job {job.name} ends here, the other one goes on.")
            return 0


def last_session(plan: Plan) -> Mapping[str, Any]:
    """Return what is noted of the last session: began, ended, exit_code, message; empty if there was none."""
    try:
        content = json.loads(plan.note.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _session(job: Job, plan: Plan, console: Console) -> int:
    from sweeper.sweep import run_sweep

    began = utc_now()
    try:
        stopped_by = run_sweep(job.all_overrides, console=console).stopped_by
    except SweepLocked:
        raise
    except SweeperError as error:
        _note(plan, began, exit_code=_ERROR, message=str(error))
        _report(job, plan, console)
        raise
    code = 128 + signal.Signals[stopped_by] if stopped_by else 0
    _note(plan, began, exit_code=code, message=f"stopped by {stopped_by}, everything is saved" if stopped_by else "")
    _report(job, plan, console)
    return code


def _report(job: Job, plan: Plan, console: Console) -> None:
    """Write the report if the job wants it and there is something to tell; after an error the sweep wrote none."""
    if not (job.report and plan.store.exists):
        return
    from analysis.report import write_reports

    try:
        paths = write_reports(plan.store, space=plan.config.space)
    except SweeperError as error:
        _say(console, f"There is no new report: {error}")
    else:
        _say(console, f"Report: {paths['report.md']}")


def _note(plan: Plan, began: datetime, *, exit_code: int, message: str) -> None:
    ended = utc_now().isoformat(timespec="seconds")
    content = {
        "sweep": plan.store.root.name,
        "began": began.isoformat(timespec="seconds"),
        "ended": ended,
        "exit_code": exit_code,
        "message": message,
    }
    write_atomic(plan.note, json.dumps(content, indent=1).encode())


def _say(console: Console, text: str) -> None:
    console.print(Text(text), soft_wrap=True)
