"""Collects the status of jobs: whether they are installed, their next start, their last session, and their log.

Reads the jobs' YAML files, the schedulers and the sweeps' folders; changes nothing. `cli` prints the result.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil

from sweeper.display.progress import progress_from_disk
from sweeper.display.summary import session_line
from sweeper.display.tables import best_text
from sweeper.errors import SweeperError
from sweeper.jobs.render import Resources, log_path, render
from sweeper.jobs.runner import Plan, plan_job
from sweeper.jobs.schedulers import Scheduler, installed_in
from sweeper.jobs.settings import Job
from sweeper.jobs.systemd import Systemd
from sweeper.store.sessions import SessionLog

__all__ = ["JobStatus", "job_statuses"]


@dataclass(frozen=True, kw_only=True, slots=True)
class JobStatus:
    """The status of a job, as text."""

    name: str
    scheduler: str
    """``systemd`` or ``cron``, with a note if something is wrong; empty if the job is not installed."""
    next_start: str
    last: str
    progress: str
    log: str


def job_statuses(jobs: Iterable[Job], *, now: datetime) -> list[JobStatus]:
    """Return the status of jobs, followed by installed jobs that have no file in the folder.

    Args:
        jobs: The jobs of a folder.
        now: The current time.
    """
    installed = dict(installed_in())
    statuses = [_status(job, installed.pop(job.name, None), now) for job in jobs]
    return [*statuses, *(_orphaned_job(name, scheduler) for name, scheduler in installed.items())]


def _status(job: Job, scheduler: Scheduler | None, now: datetime) -> JobStatus:
    try:
        plan = plan_job(job)
    except SweeperError as error:
        last, progress, shutdown_grace_s, log = str(error), "", None, ""
    else:
        last, progress, shutdown_grace_s = _last(plan), _progress(plan), plan.config.settings.executor.shutdown_grace_s
        log = str(plan.store.paths.log)
    if scheduler:
        log = scheduler.log(job.name) if isinstance(scheduler, Systemd) else str(log_path(job))
    return JobStatus(
        name=job.name,
        scheduler=_installed(job, scheduler, now, shutdown_grace_s) if scheduler else "",
        next_start=_next_start(job, now) if scheduler else "",
        last=last,
        progress=progress,
        log=log,
    )


def _orphaned_job(name: str, scheduler: Scheduler) -> JobStatus:
    """Return the status of an installed job whose file is gone, or lies in another folder."""
    note = f"{scheduler.name}; its file is not in this folder"
    log = scheduler.log(name) if isinstance(scheduler, Systemd) else ""
    return JobStatus(name=name, scheduler=note, next_start="", last="", progress="", log=log)


def _installed(job: Job, scheduler: Scheduler, now: datetime, shutdown_grace_s: float | None) -> str:
    if not scheduler.is_active(job.name):
        return f"{scheduler.name}, but not active: install it again"
    if shutdown_grace_s is None:  # the job's overrides are wrong, so there is nothing to compare with
        return scheduler.name
    resources = Resources(shutdown_grace_s=shutdown_grace_s)
    current = render(job, scheduler.name, resources=resources, now=now) if job.windows else {}
    if scheduler.installed()[job.name] != current:
        return f"{scheduler.name}, but the job has changed: install it again"
    return scheduler.name


def _next_start(job: Job, now: datetime) -> str:
    opening = job.windows.next_opening(now)
    prefix = "open now; next: " if job.windows.is_open(now) else ""
    return "always open" if opening is None else f"{prefix}{job.windows.local(opening):%a %d %b %H:%M %Z}"


def _last(plan: Plan) -> str:
    """Describe the last session. A session without an end is still running, or was interrupted."""
    session = next(reversed(SessionLog(plan.store.root).read()), None)
    if session is None:
        return "never run"
    line = session_line(session, plan.config.settings.budget)
    if session.ended_at:
        return line
    if _is_alive(plan.store.paths.holder):
        return f"running: {line}"
    return f"interrupted: {line} The next session resumes from the last chunk."


def _is_alive(holder_file: Path) -> bool:
    """Whether the process that holds the sweep's lock is alive. On another machine, it is assumed to be."""
    try:
        holder = json.loads(holder_file.read_text())
        if holder["host"] != os.uname().nodename:
            return True
        started = datetime.fromtimestamp(psutil.Process(int(holder["pid"])).create_time(), UTC)
        return started <= datetime.fromisoformat(str(holder["since"])) + timedelta(seconds=1)
    except (OSError, psutil.Error, KeyError, TypeError, ValueError):  # no file, a damaged one, or no such process
        return False


def _progress(plan: Plan) -> str:
    if not plan.store.exists:
        return ""
    try:
        settings = plan.config.settings
        progress = progress_from_disk(plan.store, budget=settings.budget.trials, confirm=settings.confirm)
    except SweeperError as error:
        return str(error)
    return "\n".join(
        f"{study.study.dataset}: {study.num_done} of {study.budget}, {best_text(study)}" for study in progress
    )
