"""Renders a job for a scheduler from the templates in ``jobs/templates``; writes nothing and starts nothing.

`systemd` and `cron` install what this returns, ``sweeper jobs render`` prints it.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from sweeper.clock import utc_now
from sweeper.config.settings import DEFAULT_OUTPUTS
from sweeper.errors import ConfigError
from sweeper.jobs.settings import Job
from sweeper.jobs.starts import calendar_lines, cron_lines, longest_s, zone_schedules
from sweeper.store.paths import OutputsPaths

__all__ = ["TARGETS", "Resources", "log_path", "render", "run_command", "unit_names"]

TARGETS = ("systemd", "cron", "slurm", "scrontab", "kubernetes")
_TEMPLATES = Path(__file__).parent / "templates"
_CLOSE_S = 80
"""Seconds beside `executor.shutdown_grace_s` that a stopping sweep gets: the tracker, the report, the summary."""
_MARGIN_S = 900
"""Seconds that a cluster allows beyond the window, for a sweep that ends it by itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Resources:
    """What a job asks a cluster for."""

    cpus: int = 4
    memory_gib: int = 8
    gpus: int = 0
    storage_gib: int = 20
    image: str = "sweeper:latest"
    shutdown_grace_s: float = 10.0
    """The job's `executor.shutdown_grace_s`."""


def render(job: Job, target: str, *, resources: Resources | None = None, now: datetime | None = None) -> dict[str, str]:
    """Return texts by file name; ``crontab`` and ``scrontab`` stand for lines of those.

    Args:
        job: The job; it needs a window.
        target: One of `TARGETS`.
        resources: What to ask a cluster for.
        now: The present time, from which lines of cron are reckoned.

    Raises:
        ConfigError: The job has no window, so nothing says when it starts.
    """
    if not job.windows:
        rule = "without a window nothing says when the job starts"
        raise ConfigError(f"{job.file.name}: window", job.window, rule, 'Write e.g. window: "22:00-07:00".')
    values = _values(job, resources or Resources(), now or utc_now())
    service, timer = unit_names(job.name)
    names = {
        "systemd": {service: "systemd.service.j2", timer: "systemd.timer.j2"},
        "cron": {"crontab": "cron.j2"},
        "slurm": {f"{job.name}.sh": "slurm.sh.j2"},
        "scrontab": {"scrontab": "scrontab.j2"},
        "kubernetes": {f"{job.name}.yaml": "kubernetes.yaml.j2"},
    }[target]
    environment = _environment()
    return {name: environment.get_template(template).render(values) for name, template in names.items()}


def unit_names(name: str) -> tuple[str, str]:
    """Return the names of a job's systemd service and timer."""
    return f"sweeper-{name}.service", f"sweeper-{name}.timer"


def log_path(job: Job) -> Path:
    """Return where a job that cron starts puts what it prints; systemd keeps it in its journal."""
    return OutputsPaths(job.folder / DEFAULT_OUTPUTS).job_log(job.name)


def run_command(job: Job) -> list[str]:
    """Return the command that runs a job from anywhere.

    ``-P`` keeps Python from importing what happens to lie in the folder.
    """
    return [str(job.python), "-P", "-m", "sweeper.cli", "jobs", "run", job.name, "--jobs-dir", str(job.file.parent)]


def _values(job: Job, resources: Resources, now: datetime) -> dict[str, Any]:
    window_s = longest_s(job.windows)
    return {
        "job": job,
        "windows": str(job.windows) + (f" {job.time_zone}" if job.time_zone else ""),
        "command": run_command(job),
        "cron_command": _cron_command(job),
        "calendar": calendar_lines(job.windows),
        "hourly": cron_lines(job.windows, now=now, is_hourly=True),
        "openings": cron_lines(job.windows, now=now, is_hourly=False),
        "schedules": zone_schedules(job.windows),
        "window_s": window_s,
        "time_limit": _slurm_time(window_s + _MARGIN_S),
        "stop_s": math.ceil(resources.shutdown_grace_s) + _CLOSE_S,
        "log": job.folder / f"sweeper-{job.name}.log",
        "script": job.folder / f"{job.name}.sh",
        "cpus": resources.cpus,
        "gpus": resources.gpus,
        "memory": f"{resources.memory_gib}G",
        "memory_quantity": f"{resources.memory_gib}Gi",
        "storage": f"{resources.storage_gib}Gi",
        "image": resources.image,
        "job_text": _in_container(job, resources),
    }


def _cron_command(job: Job) -> str:
    """Return one line of shell; cron turns a bare % into a line break."""
    log = shlex.quote(str(log_path(job)))
    folder = shlex.quote(str(log_path(job).parent))
    command = shlex.join(["nice", "-n", "10", *run_command(job)])
    return f"mkdir -p {folder} && {command} >> {log} 2>&1".replace("%", "\\%")


def _in_container(job: Job, resources: Resources) -> str:
    """Return the job as YAML for a container, whose folder, Python and cores are other ones."""
    overrides = list(job.overrides)
    set_here = {override.partition("=")[0] for override in overrides}
    wanted = {"cache": "/sweeps/cache"} | ({} if resources.gpus else {"executor.workers": resources.cpus})
    overrides += [f"{key}={value}" for key, value in wanted.items() if key not in set_here]
    content = {
        "name": job.name,
        "description": job.description,
        "overrides": overrides,
        "window": job.window,
        "time_zone": job.time_zone or "Etc/UTC",
        "report": job.report,
        "notify": list(job.notify),
    }
    return yaml.safe_dump(content, sort_keys=False, width=1000, allow_unicode=True).rstrip()


def _slurm_time(seconds: int) -> str:
    minutes = math.ceil(seconds / 60)
    return f"{minutes // 1440}-{minutes // 60 % 24:02d}:{minutes % 60:02d}:00"


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=select_autoescape(),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"specifiers": _specifiers, "systemd": _systemd_words, "sh": _shell_word}
    return environment


def _specifiers(text: object) -> str:
    """Keep systemd from taking % for a specifier."""
    return str(text).replace("%", "%%")


def _systemd_words(words: Sequence[str]) -> str:
    """Quote a command for ExecStart: in its first word a $ is a $, and quotes or backslashes are refused."""
    if any(letter in words[0] for letter in "'\"\\"):
        words = ["/usr/bin/env", *words]
    return " ".join(_systemd_word(word if place == 0 else word.replace("$", "$$")) for place, word in enumerate(words))


def _systemd_word(word: str) -> str:
    escaped = _specifiers(word.replace("\\", "\\\\").replace('"', '\\"'))
    is_plain = all(letter.isalnum() or letter in "/._-%$" for letter in escaped)
    return escaped if is_plain else f'"{escaped}"'


def _shell_word(text: object) -> str:
    """Quote for a shell, and for the values of #SBATCH lines, which are read alike."""
    return shlex.quote(str(text))
