"""Says how jobs stand: whether they are installed, their next start, how their last session ended, where the log is.

Reads YAML, the schedulers and the sweeps' folders; changes nothing. `cli` draws it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

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
    """How a job stands, in words."""

    name: str
    scheduler: str
    """``systemd`` or ``cron``, with what is wrong about it; empty if the job is not installed."""
    next_start: str
    last: str
    progress: str
    log: str


def job_statuses(jobs: Iterable[Job], *, now: datetime) -> list[JobStatus]:
    """Return how jobs stand, and those that are installed though their file is not in this folder.

    Args:
        jobs: The jobs of a folder.
        now: The present time.
    """
    installed = dict(installed_in())
    statuses = [_status(job, installed.pop(job.name, None), now) for job in jobs]
    return [*statuses, *(_stranger(name, scheduler) for name, scheduler in installed.items())]


def _status(job: Job, scheduler: Scheduler | None, now: datetime) -> JobStatus:
    try:
        plan = plan_job(job)
    except SweeperError as error:
        last, progress, shutdown_grace_s, log = str(error), "", None, ""
    else:
        last, progress, shutdown_grace_s = _last(plan), _progress(plan), plan.config.settings.executor.shutdown_grace_s
        log = str(plan.store.paths.log)
    return JobStatus(
        name=job.name,
        scheduler=_installed(job, scheduler, now, shutdown_grace_s) if scheduler else "",
        next_start=_next_start(job, now) if scheduler else "",
        last=last,
        progress=progress,
        log=_log(job, scheduler) if scheduler else log,
    )


def _log(job: Job, scheduler: Scheduler) -> str:
    return scheduler.log(job.name) if isinstance(scheduler, Systemd) else str(log_path(job))


def _stranger(name: str, scheduler: Scheduler) -> JobStatus:
    said = f"{scheduler.name}; its file is not in this folder"
    log = scheduler.log(name) if isinstance(scheduler, Systemd) else ""
    return JobStatus(name=name, scheduler=said, next_start="", last="", progress="", log=log)


def _installed(job: Job, scheduler: Scheduler, now: datetime, shutdown_grace_s: float | None) -> str:
    if not scheduler.is_active(job.name):
        return f"{scheduler.name}, not active: install it again"
    if shutdown_grace_s is not None and scheduler.installed()[job.name] != _wanted(
        job, scheduler.name, now, shutdown_grace_s
    ):
        return f"{scheduler.name}, changed since: install it again"
    return scheduler.name


def _wanted(job: Job, target: str, now: datetime, shutdown_grace_s: float) -> Mapping[str, str]:
    return render(job, target, resources=Resources(shutdown_grace_s=shutdown_grace_s), now=now) if job.windows else {}


def _next_start(job: Job, now: datetime) -> str:
    opening = job.windows.next_opening(now)
    is_open = "open now; next " if job.windows.is_open(now) else ""
    return "always open" if opening is None else f"{is_open}{job.windows.local(opening):%a %d %b %H:%M %Z}"


def _last(plan: Plan) -> str:
    """Return how the last session stands, or how it ended; one without an end still runs, or was killed."""
    session = next(reversed(SessionLog(plan.store.root).read()), None)
    if session is None:
        return "never run"
    line = session_line(session, plan.config.settings.budget)
    if session.ended_at:
        return line
    if _is_alive(_read_json(plan.store.paths.holder)):
        return f"running: {line}"
    return f"cut off: {line} The next one goes on from the last chunk."


def _is_alive(holder: Mapping[str, Any]) -> bool:
    """Whether the process that holds the sweep still runs; of another machine nobody here can tell."""
    if not holder:
        return False
    if holder.get("host") != os.uname().nodename:
        return True
    try:
        born = datetime.fromtimestamp(psutil.Process(int(holder["pid"])).create_time(), UTC)
        return born <= datetime.fromisoformat(str(holder["since"])) + timedelta(seconds=1)
    except (psutil.Error, KeyError, TypeError, ValueError):
        return False


def _progress(plan: Plan) -> str:
    if not plan.store.exists:
        return ""
    try:
        progress = progress_from_disk(plan.store, budget=plan.config.settings.budget.trials)
    except SweeperError as error:
        return str(error)
    return "\n".join(
        f"{study.study.dataset}: {study.num_done} of {study.budget}, {best_text(study)}" for study in progress
    )


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
