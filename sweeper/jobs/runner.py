"""Runs one session of a job: the sweep within its window, then the report, however the session ended.

What a session brought is in the sweep's folder (see `sessions`); `status` reads it there.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from sweeper.config.compose import SweepConfig, compose
from sweeper.errors import ConfigError, SweeperError, SweepLocked
from sweeper.jobs.environment import environment_file, take_environment
from sweeper.jobs.settings import Job
from sweeper.store.paths import OutputsPaths
from sweeper.store.trials import TrialStore
from sweeper.sweep.identity import sweep_name

__all__ = ["Plan", "plan_job", "run_job"]


@dataclass(frozen=True, slots=True)
class Plan:
    """A job whose overrides were composed."""

    config: SweepConfig
    store: TrialStore
    """Of its sweep; maybe not begun."""


def plan_job(job: Job) -> Plan:
    """Compose a job's overrides, in the environment that it will have.

    Raises:
        ConfigError: They do not fit together; the job's file is named.
    """
    take_environment(environment_file(), os.environ)
    with contextlib.chdir(job.folder):
        try:
            config = compose(job.all_overrides)
        except ConfigError as error:
            raise ConfigError(f"{job.file.name}: {error.key}", error.value, error.rule, error.remedy) from error
        outputs = OutputsPaths(Path(config.settings.outputs))  # absolute, as seen from the job's folder
    return Plan(config, TrialStore(outputs.sweep(sweep_name(config.settings))))


def run_job(job: Job, *, console: Console, wait: bool = False) -> int:
    """Run one session.

    Args:
        job: The job.
        console: Where to show how it goes.
        wait: Outside its window: wait until it opens.

    Returns:
        The exit code (see `sweeper.sweep.run.SweepOutcome.exit_code`); 0 if another session runs the sweep.

    Raises:
        SweeperError: A setting, the data or the model is wrong, or no worker is left.
    """
    plan = plan_job(job)
    with contextlib.chdir(job.folder):
        try:
            return _session(job, plan, console, wait=wait)
        except SweepLocked as error:
            # The other session is the one that writes, the report too.
            _say(console, f"{error}. This session of job {job.name} ends here, the other one goes on.")
            return 0


def _session(job: Job, plan: Plan, console: Console, *, wait: bool) -> int:
    from sweeper.sweep.run import run_sweep

    waiting = ["budget.wait=true"] if wait else []
    try:
        exit_code = run_sweep([*job.all_overrides, *waiting], console=console).exit_code
    except SweepLocked:
        raise
    except SweeperError:
        _report(job, plan, console)
        raise
    _report(job, plan, console)
    return exit_code


def _report(job: Job, plan: Plan, console: Console) -> None:
    """Write the report if the job wants it and there is something to tell; after an error the sweep wrote none."""
    if not (job.report and plan.store.exists):
        return
    from sweeper.analysis.report import write_reports

    try:
        write_reports(plan.store, space=plan.config.space)
    except SweeperError as error:
        _say(console, f"There is no new report: {error}")
    else:
        _say(console, f"Report: {plan.store.paths.report}")


def _say(console: Console, text: str) -> None:
    console.print(Text(text), soft_wrap=True)
