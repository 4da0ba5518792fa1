"""A job: one YAML file, read and checked. Runs and installs nothing; every other module of `jobs` begins here.

Where the job works and with which Python are found, not configured: the folder that holds the jobs folder, and the
virtual environment that reads the file. A job may set both.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sweeper.config.time_windows import TimeWindows, parse
from sweeper.errors import ConfigError, SweeperError, did_you_mean

__all__ = ["Job", "find_job", "find_jobs_dir", "load_job", "load_jobs", "override_text"]

_KINDS: Mapping[str, tuple[type, str, object]] = {
    "name": (str, "a word", ""),
    "description": (str, "a text", ""),
    "overrides": (list, "a list of Hydra overrides", ()),
    "window": (str, "a text such as '22:00-07:00'", ""),
    "time_zone": (str, "a name such as Europe/Berlin", ""),
    "report": (bool, "true or false", True),
    "notify": (list, "a list of addresses", ()),
    "folder": (str, "a path", ""),
    "virtual_environment": (str, "a path", ""),
}
"""Keys of a job: type, what to write, default."""
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
_GIVEN_BY = {"budget.window": "window", "budget.time_zone": "time_zone", "notify.urls": "notify"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A search that is started by a clock."""

    name: str
    description: str
    overrides: tuple[str, ...]
    """Hydra overrides as written; see `all_overrides`."""
    window: str
    time_zone: str
    """IANA name; empty for the machine's own zone."""
    report: bool
    notify: tuple[str, ...]
    folder: Path
    """Where it works: relative paths, such as ``outputs``, begin here."""
    python: Path
    file: Path

    @property
    def windows(self) -> TimeWindows:
        """When it may run."""
        return parse(self.window, self.time_zone)

    @property
    def all_overrides(self) -> list[str]:
        """Hydra overrides, those of window and notification included."""
        given = {"budget.window": self.window, "budget.time_zone": self.time_zone}
        texts = [f"{key}={override_text(value)}" for key, value in given.items() if value]
        urls = ",".join(map(override_text, self.notify))
        return [*self.overrides, *texts, *([f"notify.urls=[{urls}]"] if urls else [])]


def override_text(value: str) -> str:
    """Return a text as Hydra's override grammar quotes it."""
    # There, backslashes count only in front of a quote or at the end.
    escaped = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), value)
    return f"'{escaped}'"


def find_jobs_dir(given: Path | None = None) -> Path:
    """Return the folder of jobs: the one given, ``jobs`` in the working directory, or that of the checkout.

    Raises:
        SweeperError: There is none.
    """
    if given is not None:
        return given.absolute()
    checkout = Path(__file__).parents[2]
    is_checkout = (checkout / "pyproject.toml").is_file()
    places = [Path.cwd() / "jobs", *([checkout / "jobs"] if is_checkout else [])]
    found = next((place for place in places if place.is_dir()), None)
    if found is None:
        raise SweeperError(f"there is no folder of jobs ({places[0]}). Make one, or name it: --jobs-dir my_jobs")
    return found


def load_jobs(folder: Path) -> list[Job]:
    """Return the jobs of a folder by name.

    Raises:
        ConfigError: A file is wrong, or two jobs have one name.
    """
    jobs: dict[str, Job] = {}
    for path in sorted(folder.glob("*.yaml")):
        job = load_job(path)
        if job.name in jobs:
            rule = f"{jobs[job.name].file.name} has this name already"
            raise ConfigError(f"{path.name}: name", job.name, rule, "Give one of them another.")
        jobs[job.name] = job
    return [jobs[name] for name in sorted(jobs)]


def find_job(name: str, folder: Path) -> Job:
    """Return a job by name; other files of the folder may be wrong.

    Raises:
        SweeperError: There is none of this name, or its file is wrong.
    """
    path = folder / f"{name}.yaml"
    if _NAME.fullmatch(name) and path.is_file():
        job = load_job(path)
        if job.name == name:
            return job
    jobs = {job.name: job for job in load_jobs(folder)}
    if name not in jobs:
        known = f"There are: {', '.join(jobs)}." if jobs else f"There is none in {folder}."
        raise SweeperError(f"there is no job '{name}'. {did_you_mean(name, jobs)} {known}".replace(".  ", ". "))
    return jobs[name]


def load_job(path: Path) -> Job:
    """Read and check a job; whether its overrides fit together is `runner.plan_job`'s question.

    Raises:
        ConfigError: A key or value is wrong.
    """
    values: dict[str, Any] = {key: default for key, (_, _, default) in _KINDS.items()} | _read(path)
    name = str(values["name"]) or path.stem
    if not _NAME.fullmatch(name):
        rule = "a job's name becomes one of units and files: small letters, digits and hyphens, at most 40"
        raise ConfigError(f"{path.name}: name", name, rule, "Rename the file, or set name.")
    parse(str(values["window"]), str(values["time_zone"]), key=f"{path.name}: window")
    _check_given_once(path, values)
    return Job(
        name=name,
        description=" ".join(str(values["description"]).split()),
        overrides=tuple(map(str, values["overrides"])),
        window=str(values["window"]),
        time_zone=str(values["time_zone"]),
        report=bool(values["report"]),
        notify=tuple(map(str, values["notify"])),
        folder=_folder(path, str(values["folder"])),
        python=_python(path, str(values["virtual_environment"])),
        file=path.absolute(),
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(
            "job", path, f"it cannot be read ({' '.join(str(error).split())})", "Mend the file."
        ) from error
    if not isinstance(content, dict):
        rule = "a job is a list of keys with values"
        raise ConfigError("job", path, rule, f"Keys are: {', '.join(_KINDS)}.")
    for key, value in content.items():
        _check_value(path, str(key), value)
    return {key: value for key, value in content.items() if value is not None}


def _check_value(path: Path, key: str, value: object) -> None:
    if key not in _KINDS:
        remedy = f"{did_you_mean(key, _KINDS)} Keys are: {', '.join(_KINDS)}.".strip()
        raise ConfigError(f"{path.name}: {key}", value, "a job has no such key", remedy)
    kind, meaning, _ = _KINDS[key]
    if value is None:
        return
    is_texts = not isinstance(value, list) or all(isinstance(item, str) for item in value)
    is_line = key == "description" or not isinstance(value, str) or "\n" not in value
    if not (isinstance(value, kind) and is_texts and is_line):
        raise ConfigError(
            f"{path.name}: {key}", value, f"{meaning} is expected", "Quote texts that YAML reads otherwise."
        )


def _check_given_once(path: Path, values: Mapping[str, Any]) -> None:
    for override in values["overrides"]:
        key = override.partition("=")[0].lstrip("+~")
        if key in _GIVEN_BY and values[_GIVEN_BY[key]]:
            rule = f"the job gives it as {_GIVEN_BY[key]} already"
            raise ConfigError(f"{path.name}: overrides", override, rule, "Take one of them out.")


def _folder(path: Path, given: str) -> Path:
    home = path.absolute().parent.parent
    folder = home / Path(given).expanduser() if given else home
    if not folder.is_dir():
        raise ConfigError(
            f"{path.name}: folder", given, f"there is no folder {folder}", "Make it, or leave the key out."
        )
    return folder.absolute()


def _python(path: Path, given: str) -> Path:
    if not given:
        return Path(sys.executable)
    python = path.absolute().parent.parent / Path(given).expanduser() / "bin" / "python"
    if not python.exists():
        remedy = "Leave the key out to take the environment that installs the job."
        raise ConfigError(f"{path.name}: virtual_environment", given, f"there is no {python}", remedy)
    return python
