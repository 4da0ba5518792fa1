"""Renders a job for a scheduler from the templates in ``jobs/templates``. Writes nothing and starts nothing.

`systemd` and `cron` install the texts; ``sweeper jobs render`` prints them.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from sweeper.clock import utc_now
from sweeper.config.overrides import SECRET, shown_override
from sweeper.config.settings import DEFAULT_OUTPUTS
from sweeper.errors import ConfigError
from sweeper.jobs.schedule_lines import calendar_lines, cron_lines, cron_lines_in_zone, longest_window_s
from sweeper.jobs.settings import Job, has_control_character
from sweeper.store.paths import OutputsPaths

__all__ = ["TARGETS", "Resources", "log_path", "render", "run_command", "unit_names"]

TARGETS = ("systemd", "cron", "slurm", "scrontab", "kubernetes")
_TEMPLATES = Path(__file__).parent / "templates"
_CLOSE_S = 80
"""Seconds beyond `executor.shutdown_grace_s` that a stopping sweep has for tracker, report and summary."""
_MARGIN_S = 900
"""Seconds by which a cluster's time limit exceeds the window. A sweep normally stops by itself before the limit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Resources:
    """The resources that a job requests from a cluster."""

    cpus: int = 4
    memory_gib: int = 8
    gpus: int = 0
    storage_gib: int = 20
    image: str = "sweeper:latest"
    shutdown_grace_s: float = 10.0
    """The job's `executor.shutdown_grace_s`."""


def render(job: Job, target: str, *, resources: Resources | None = None, now: datetime | None = None) -> dict[str, str]:
    """Return the texts by file name; the names ``crontab`` and ``scrontab`` stand for lines of these tables.

    Args:
        job: The job. It must have a window.
        target: One of `TARGETS`.
        resources: What to request from a cluster.
        now: The current time; cron lines cover the year that starts here.

    Raises:
        ConfigError: The job has no window, so it has no starting time; a path has a line break; or a secret would be
            readable in a manifest.
    """
    if not job.windows:
        rule = "a scheduled job needs a window, which sets when it starts"
        raise ConfigError(f"{job.file.name}: window", job.window, rule, 'Add, for example, window: "22:00-07:00".')
    _check_paths(job, resources or Resources())
    if target == "kubernetes":
        _check_secrets(job)
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
    """Return the file that gets the output of a job started by cron. systemd uses its journal instead."""
    return OutputsPaths(job.folder / DEFAULT_OUTPUTS).job_log(job.name)


def run_command(job: Job) -> list[str]:
    """Return the command that runs a job from any folder.

    ``-P`` keeps Python from importing modules that happen to be in the working directory.
    """
    return [str(job.python), "-P", "-m", "sweeper.cli", "jobs", "run", job.name, "--jobs-dir", str(job.file.parent)]


def _check_paths(job: Job, resources: Resources) -> None:
    """Reject what would end a line of a unit, a crontab or a script, and let the rest of it be read as another line."""
    texts = {
        "folder": job.folder,
        "virtual_environment": job.python,
        "the path of the file": job.file,
        "--image": resources.image,
    }
    for key, text in texts.items():
        if has_control_character(str(text)):
            rule = "no scheduler can read a line break or another control character here"
            raise ConfigError(f"{job.file.name}: {key}", repr(str(text)), rule, "Rename it.")


def _check_secrets(job: Job) -> None:
    """Reject passwords and addresses: everyone who may read the manifest could read them."""
    for key, text in [("notify", text) for text in job.notify] + [("overrides", text) for text in job.overrides]:
        is_secret = key == "notify" or shown_override(text) != text
        if is_secret and "${oc.env:" not in text:
            rule = "a manifest is not secret, so it cannot contain passwords or notification addresses"
            remedy = (
                f"Write ${{oc.env:SWEEPER_SECRET}} instead, and create the Kubernetes secret sweeper-{job.name} with "
                "SWEEPER_SECRET; to render the job, set the variable here, too."
            )
            raise ConfigError(f"{job.file.name}: {key}", SECRET, rule, remedy)


def _values(job: Job, resources: Resources, now: datetime) -> dict[str, Any]:
    window_s = longest_window_s(job.windows)
    return {
        "job": job,
        "windows": str(job.windows) + (f" {job.time_zone}" if job.time_zone else ""),
        "command": run_command(job),
        "cron_command": _cron_command(job),
        "calendar": calendar_lines(job.windows),
        "hourly": cron_lines(job.windows, now=now, is_hourly=True),
        "openings": cron_lines(job.windows, now=now, is_hourly=False),
        "schedules": cron_lines_in_zone(job.windows),
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
    """Return one shell command line. Each % is escaped, because cron would turn it into a line break.

    To cron, a backslash before that escape would escape the escape. All of them are in single quotes, so an empty
    string comes between the two.
    """
    log = shlex.quote(str(log_path(job)))
    folder = shlex.quote(str(log_path(job).parent))
    command = shlex.join(["nice", "-n", "10", *run_command(job)])
    return f"mkdir -p {folder} && {command} >> {log} 2>&1".replace("\\%", "\\''%").replace("%", "\\%")


def _in_container(job: Job, resources: Resources) -> str:
    """Return the job as YAML for a container, which has its own folders, Python and number of cores."""
    overrides = list(job.overrides)
    set_here = {override.partition("=")[0] for override in overrides}
    defaults = {"cache": "/sweeps/cache"} | ({} if resources.gpus else {"executor.workers": resources.cpus})
    overrides += [f"{key}={value}" for key, value in defaults.items() if key not in set_here]
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


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=select_autoescape(),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"unit_text": _unit_text, "unit_folder": _unit_folder}
    environment.filters |= {"specifiers": _specifiers, "systemd": _systemd_words, "sh": _shell_word}
    return environment


def _specifiers(text: object) -> str:
    """Escape %, which starts a specifier in unit files."""
    return str(text).replace("%", "%%")


def _unit_text(text: str) -> str:
    """Escape a text for a line of a unit file, which an odd number of backslashes at its end would continue."""
    num_backslashes = len(text) - len(text.rstrip("\\"))
    return _specifiers(text + "\\" * (num_backslashes % 2))


def _unit_folder(path: object) -> str:
    """Escape a path for a line of a unit file: with a slash at its end, so that no backslash or space is there."""
    return f"{_specifiers(path)}/"


def _systemd_words(words: Sequence[str]) -> str:
    """Quote a command for ExecStart.

    systemd rejects quotes and backslashes in the program's path, so such a program is started through ``env``.
    systemd expands $ in all words but the program's path.
    """
    if any(letter in words[0] for letter in "'\"\\"):
        words = ["/usr/bin/env", *words]
    return " ".join(_systemd_word(word if place == 0 else word.replace("$", "$$")) for place, word in enumerate(words))


def _systemd_word(word: str) -> str:
    escaped = _specifiers(word.replace("\\", "\\\\").replace('"', '\\"'))
    is_plain = all(letter.isalnum() or letter in "/._-%$" for letter in escaped)
    return escaped if is_plain else f'"{escaped}"'


def _shell_word(text: object) -> str:
    """Quote for a shell. The values of #SBATCH lines follow the same rules."""
    return shlex.quote(str(text))
