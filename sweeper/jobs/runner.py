"""Runs one session of a job: the sweep within its window, then the report, however the session ended.

The session's record is in the sweep's folder (see `sweeper.store.sessions`), where `status` reads it.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from sweeper.config.compose import SweepConfig, compose
from sweeper.config.trust import check_remote_code
from sweeper.display.console import print_line
from sweeper.errors import ConfigError, SweeperError, SweepLocked
from sweeper.jobs.environment import environment_file, load_environment
from sweeper.jobs.settings import Job
from sweeper.store.paths import OutputsPaths
from sweeper.store.trials import TrialStore
from sweeper.sweep.identity import sweep_name
from sweeper.sweep.model_kind import settled_by_record

__all__ = ["Plan", "plan_job", "run_job"]


@dataclass(frozen=True, slots=True)
class Plan:
    """A job with its composed configuration."""

    config: SweepConfig
    store: TrialStore
    """The store of its sweep, which may not exist yet."""


def plan_job(job: Job) -> Plan:
    """Compose a job's overrides in the environment in which it will run.

    Raises:
        ConfigError: An override is wrong. The message names the job's file.
    """
    load_environment(environment_file(), os.environ)
    with contextlib.chdir(job.folder):
        try:
            config = compose(job.all_overrides)
            # Its overrides are not typed by the user, but part of a file.
            check_remote_code(config.settings.model, source="the job")
        except ConfigError as error:
            raise ConfigError(f"{job.file.name}: {error.key}", error.value, error.rule, error.remedy) from error
        outputs = OutputsPaths(Path(config.settings.outputs))  # made absolute here, in the job's folder
        store = TrialStore(outputs.sweep(sweep_name(config.settings)))
        return Plan(settled_by_record(config, store), store)


def run_job(job: Job, *, console: Console, wait: bool = False) -> int:
    """Run one session.

    Args:
        job: The job.
        console: Where to print.
        wait: Outside the window, wait until it opens.

    Returns:
        The exit code (see `sweeper.sweep.run.SweepOutcome.exit_code`); 0 if another session is running the sweep.

    Raises:
        SweeperError: A setting, the data or the model is wrong, or all workers are lost.
    """
    plan = plan_job(job)
    with contextlib.chdir(job.folder):
        try:
            return _session(job, plan, console, wait=wait)
        except SweepLocked as error:
            # Only the other session writes to the sweep, the report included.
            print_line(console, f"{error}. This session of job {job.name} exits; the other one continues.")
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
    """Write the report, if the job asks for one and the sweep exists. After an error, the sweep has not written it."""
    if not (job.report and plan.store.exists):
        return
    from sweeper.sweep.reports import current_best

    try:
        # The session may have been the first to know the model.
        current_best(plan.store, settled_by_record(plan.config, plan.store))
    except SweeperError as error:
        print_line(console, f"The report could not be written: {error}")
    else:
        print_line(console, f"Report: {plan.store.paths.report_html}")
